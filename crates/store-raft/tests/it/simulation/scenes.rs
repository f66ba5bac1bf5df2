//! Single faults in an otherwise calm world: a disk that is full, a leader that is lost or is to go.
//!
//! Not here: all of them at once, at random (the module above).

use std::time::Duration;

use super::clients::{self, Asked};
use super::{Simulation, ms};

/// Three members, and nothing that goes wrong by itself any more.
fn calm(seed: u64) -> Simulation {
    let mut simulation = Simulation::new(seed);
    simulation.faults = false;
    simulation.run_until(Duration::from_secs(20));
    assert!(simulation.is_settled(), "{:#?}", simulation.stand());
    simulation
}

#[test]
fn a_full_disk_does_not_keep_the_lead() {
    for seed in 0..10 {
        let mut simulation = calm(seed);
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
            assert!(rounds < 20, "seed {seed}: it leads on");
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
