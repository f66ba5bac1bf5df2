//! Single faults in an otherwise calm world: a disk that is full, a leader that is lost or is to go, a member that was cut
//! off, one that is asked for its vote twice.
//!
//! Not here: all of them at once, at random (the module above).

use std::time::Duration;

use raft::eraftpb::{Message, MessageType};

use super::broken::Broken;
use super::clients::{self, Asked};
use super::{MEMBERS, Node, Simulation, What, ms};

/// Three members, and nothing that goes wrong by itself any more.
fn calm(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    simulation.faults = false;
    // Nobody asks while they come together: that is not what is looked at here.
    simulation.events.retain(|event| !matches!(event.what, What::Client));
    simulation.run_until(Duration::from_secs(15));
    assert!(simulation.is_settled(), "{:#?}", simulation.stand());
    simulation.after(ms(50), What::Client);
    simulation.run_until(Duration::from_secs(18));
    simulation
}

impl Simulation {
    /// As if its machine had lost its power.
    fn stop(&mut self, index: usize) {
        self.nodes[index].running = None;
        self.nodes[index].disk.lose_power();
        self.lose_callers(index);
    }

    fn term(&self, index: usize) -> u64 {
        self.nodes[index].running.as_ref().unwrap().core.standing(self.clock(index)).term
    }
}

/// A member is asked for its vote, loses its power at once or once all is done, and is asked by another in the same term.
pub(super) fn votes_twice_at_the_most_for_one(seed: u64, broken: Broken) {
    for wait in [ms(0), ms(50)] {
        let mut simulation = calm(seed);
        simulation.broken = broken;
        (0..MEMBERS).for_each(|member| simulation.stop(member));
        let voter = simulation.any();
        simulation.start(voter);
        let term = simulation.term(voter) + 5;
        let asks = |simulation: &mut Simulation, candidate: usize| {
            let (from, to) = (simulation.nodes[candidate].id, simulation.nodes[voter].id);
            let mut message =
                Message { from, to, term, log_term: term - 1, index: 1 << 40, ..Message::default() };
            message.set_msg_type(MessageType::MsgRequestVote);
            let by = (from, simulation.nodes[candidate].level);
            simulation.deliver(voter, message, None, by);
        };
        asks(&mut simulation, (voter + 1) % MEMBERS);
        let then = simulation.now + wait;
        simulation.run_until(then);
        simulation.stop(voter);
        simulation.start(voter);
        asks(&mut simulation, (voter + 2) % MEMBERS);
        let then = simulation.now + ms(50);
        simulation.run_until(then);
        let voted = simulation.votes.get(&(simulation.nodes[voter].id, term));
        assert!(voted.is_some(), "seed {seed}: it votes for nobody");
    }
}

#[test]
fn a_member_votes_once_in_a_term_though_it_is_started_again() {
    (0..10).for_each(|seed| votes_twice_at_the_most_for_one(seed, Broken::NotAtAll));
}

/// A member that follows hears of nobody for a while, and comes back: the others go on as if nothing had been.
pub(super) fn comes_back_unnoticed(seed: u64, broken: Broken) {
    let mut simulation = calm(seed);
    simulation.broken = broken;
    let leader = simulation.leader().unwrap();
    let before = simulation.term(leader);
    simulation.cut = Some((leader + 1) % MEMBERS);
    let end = simulation.now + Duration::from_secs(20);
    simulation.run_until(end);
    simulation.cut = None;
    let end = simulation.now + Duration::from_secs(5);
    simulation.run_until(end);
    let terms: Vec<u64> = (0..MEMBERS).map(|member| simulation.term(member)).collect();
    assert_eq!(
        (simulation.leader(), &terms[..]),
        (Some(leader), &[before; MEMBERS][..]),
        "the term was raised"
    );
    assert!(simulation.is_settled(), "{:#?}", simulation.stand());
    simulation.judge();
}

/// A leader is cut off, and others elect another. Before it knows it is asked for a read and has a write in its log; then it
/// is back.
pub(super) fn an_old_leader_is_none(seed: u64, broken: Broken) {
    let mut simulation = calm(seed);
    simulation.broken = broken;
    let old = simulation.leader().unwrap();
    let write = |simulation: &mut Simulation, member: usize| {
        let value = simulation.next + 1;
        simulation.ask(member, Asked::Write { key: "key".into(), value });
        clients::name(value)
    };
    let until = |simulation: &mut Simulation, what: &str, done: &dyn Fn(&Simulation) -> bool| {
        let end = simulation.now + Duration::from_secs(5);
        while !done(simulation) {
            assert!(simulation.now < end, "seed {seed}, {what}: {:#?}", simulation.stand());
            let soon = simulation.now + ms(20);
            simulation.run_until(soon);
        }
    };
    simulation.cut = Some(old);
    write(&mut simulation, old);
    until(&mut simulation, "another leads", &|simulation| {
        let leads = |node: &Node| node.running.as_ref().is_some_and(|running| running.core.leads());
        (0..MEMBERS).any(|member| member != old && leads(&simulation.nodes[member]))
    });
    let written = write(&mut simulation, (old + 1) % MEMBERS);
    until(&mut simulation, "a write", &|simulation| matches!(simulation.told.get(&written), Some(Some(_))));
    let at_least = simulation.seen.revision;
    simulation.ask(old, Asked::Read { key: "key".into(), at_least });
    let then = simulation.now + ms(50);
    simulation.run_until(then);
    simulation.cut = None;
    let then = simulation.now + Duration::from_secs(8);
    simulation.run_until(then);
    simulation.judge();
}

#[test]
fn a_leader_that_was_deposed_commits_and_answers_nothing() {
    (0..20).for_each(|seed| an_old_leader_is_none(seed, Broken::NotAtAll));
}

#[test]
fn a_member_that_was_cut_off_disturbs_nobody() {
    (0..10).for_each(|seed| comes_back_unnoticed(seed, Broken::NotAtAll));
}

#[test]
fn a_full_disk_does_not_keep_the_lead() {
    (0..10).for_each(|seed| gives_the_lead_away_when_its_disk_is_full(seed, Broken::NotAtAll));
}

pub(super) fn gives_the_lead_away_when_its_disk_is_full(seed: u64, broken: Broken) {
    {
        let mut simulation = calm(seed);
        simulation.broken = broken;
        let full = simulation.leader().unwrap();
        simulation.nodes[full].disk.set_room(simulation.nodes[full].disk.used());
        let end = simulation.now + Duration::from_secs(8);
        simulation.run_until(end);
        // Segments that were ready last for a while.
        let mut rounds = 0;
        while simulation.leader() == Some(full) {
            let end = simulation.now + Duration::from_secs(5);
            simulation.run_until(end);
            rounds += 1;
            assert!(rounds < 6, "seed {seed}: it leads on");
        }
        // What is asked of it ends too, by its patience at the latest.
        simulation.ask(full, Asked::Read { key: "key".into(), at_least: 0 });
        let (asked, now) = (simulation.next, simulation.now);
        simulation.run_until(now + Duration::from_secs(7));
        assert!(!simulation.asked.contains_key(&asked), "seed {seed}: a read waits without an end");
        simulation.nodes[full].disk.set_room(u64::MAX);
        let end = simulation.now + Duration::from_secs(3);
        simulation.run_until(end);
        simulation.judge();
    }
}

#[test]
fn the_lead_goes_to_one_that_is_there() {
    for seed in 0..20 {
        let mut simulation = calm(seed);
        let leader = simulation.leader().unwrap();
        let (dead, there) = ((leader + 1) % 3, (leader + 2) % 3);
        simulation.nodes[dead].running = None;
        simulation.nodes[dead].disk.kill();
        simulation.lose_callers(dead);
        // It is not known at once that it is dead.
        let wait = ms(simulation.randomness.below(3_000));
        let end = simulation.now + wait;
        simulation.run_until(end);
        let now = simulation.clock(leader);
        let Some(running) = &mut simulation.nodes[leader].running else { unreachable!() };
        running.core.hand_over(now);
        simulation.poll(leader);
        let end = simulation.now + Duration::from_millis(2_500);
        simulation.run_until(end);
        assert_eq!(simulation.leader(), Some(there), "seed {seed}");
        simulation.start(dead);
        let end = simulation.now + Duration::from_secs(2);
        simulation.run_until(end);
        simulation.judge();
    }
}

#[test]
fn writes_resume_within_two_seconds_of_the_loss_of_the_leader() {
    for seed in 0..40 {
        let mut simulation = calm(seed);
        let leader = simulation.leader().unwrap();
        let wait = ms(simulation.randomness.below(1_000));
        let lost = simulation.now + wait;
        simulation.run_until(lost);
        simulation.nodes[leader].running = None;
        simulation.nodes[leader].disk.kill();
        simulation.lose_callers(leader);
        let acknowledged = simulation.told.values().flatten().count();
        while simulation.told.values().flatten().count() == acknowledged {
            for other in [(leader + 1) % 3, (leader + 2) % 3] {
                let value = simulation.next + 1;
                simulation.ask(other, Asked::Write { key: "key".into(), value });
            }
            let soon = simulation.now + ms(50);
            simulation.run_until(soon);
            assert!(simulation.now <= lost + ms(2_000), "seed {seed}: {:#?}", simulation.stand());
        }
    }
}

#[test]
fn a_leader_that_is_to_be_removed_holds_up_nobody() {
    for seed in 0..10 {
        let mut simulation = calm(seed);
        let leader = simulation.leader().unwrap();
        simulation.unwilling = true;
        simulation.leaving = Some(leader);
        simulation.ask(leader, Asked::Remove { victim: leader });
        let value = simulation.next + 1;
        simulation.ask(leader, Asked::Write { key: "key".into(), value });
        // Sooner than anybody's patience ends.
        let end = simulation.now + Duration::from_secs(3);
        simulation.run_until(end);
        assert_eq!(simulation.leader(), Some(leader), "seed {seed}");
        assert!(matches!(simulation.told.get(&clients::name(value)), Some(Some(_))), "seed {seed}: it waits");
        simulation.unwilling = false;
        let mut rounds = 0;
        while simulation.leaving.is_some() || !simulation.is_settled() {
            let end = simulation.now + Duration::from_secs(2);
            simulation.run_until(end);
            rounds += 1;
            assert!(rounds < 20, "seed {seed}: {:#?}", simulation.stand());
        }
        simulation.judge();
    }
}
