//! Changes of members that meet something else on their way: two members without threads, on a virtual time of a few ticks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use store::embedded::replica::Replica;
use store::{Error, unavailable};
use store_raft::core::{Change, Core, Output, Reply, Request, Settings, describe};
use store_raft::keeper::Keeper;
use store_raft::level::LATEST;
use store_raft::{Member, Options};
use tempfile::TempDir;

const TICK: Duration = Duration::from_millis(100);

fn named(id: u64) -> Member {
    Member { id, name: format!("m{id}"), address: format!("m{id}:2380") }
}

/// A member whose disk is quick, and which writes a checkpoint when it is told to.
struct One {
    id: u64,
    directory: TempDir,
    core: Core,
    keeper: Keeper,
    replica: Arc<Replica>,
    /// A checkpoint is wanted.
    upkeep: bool,
    answers: Vec<(Request, Result<Reply, Error>)>,
}

impl One {
    fn open(id: u64, directory: TempDir, now: Duration) -> Self {
        let options = Options::new(named(id).name, named(id).address).engine;
        let recovered = Keeper::open(directory.path(), &options).unwrap();
        let settings = Settings {
            id,
            incarnation: 1,
            patience: Duration::from_secs(7),
            checkpoint_bytes: 1 << 20,
            keep_bytes: 0,
            level: LATEST,
        };
        let replica = recovered.replica.clone();
        let core = Core::new(settings, replica.clone(), recovered.hard, recovered.entries, now).unwrap();
        let (upkeep, answers) = (false, Vec::new());
        Self { id, directory, core, keeper: recovered.keeper, replica, upkeep, answers }
    }

    /// Does all that there is to do. Gives what is to be sent.
    fn work(&mut self, now: Duration) -> Vec<Message> {
        let mut sent = Vec::new();
        loop {
            let outputs = self.core.poll(now);
            if outputs.is_empty() {
                return sent;
            }
            for output in outputs {
                match output {
                    Output::Send(message) => sent.push(message),
                    Output::Persist(persist) => {
                        let received = |index| Some(received(self.directory.path(), index));
                        let installed =
                            self.keeper.persist(std::slice::from_ref(&persist), received).unwrap();
                        self.core.persisted(persist.number);
                        if let Some(position) = installed {
                            self.core.installed(&position, now);
                        }
                    }
                    Output::Upkeep { .. } => self.upkeep = true,
                    Output::Answer(request, answer) => self.answers.push((request, answer)),
                    Output::Failed(why) => panic!("member {}: {why}", self.id),
                    Output::Members { .. } | Output::Release(_) => {}
                }
            }
        }
    }

    fn checkpoint(&mut self) {
        self.upkeep = false;
        let position = self.replica.checkpoint().unwrap();
        self.core.upkeep_done(Some(position));
    }
}

fn received(directory: &Path, index: u64) -> std::path::PathBuf {
    directory.join(format!("received-{index}"))
}

/// Takes what one member has sent to the other.
fn deliver(messages: Vec<Message>, from: &mut One, to: &mut One, now: Duration) {
    for mut message in messages.into_iter().filter(|message| message.to == to.id) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let Some((position, mut file)) = from.replica.read_checkpoint().unwrap() else {
                from.core.snapshot_sent(to.id, false);
                continue;
            };
            describe(&mut message, &position);
            let path = received(to.directory.path(), message.get_snapshot().get_metadata().index);
            std::io::copy(&mut file, &mut std::fs::File::create(path).unwrap()).unwrap();
            from.core.snapshot_sent(to.id, true);
        }
        to.core.step(message, now);
    }
}

/// The third joins through the second, which has not been given the state yet: the checkpoint that it is sent has the
/// third in it already.
#[test]
fn who_joins_through_one_that_is_still_brought_on_is_told_at_once() {
    let mut now = Duration::from_secs(100);
    let directory = TempDir::new().unwrap();
    let options = Options::new("m1", "m1:2380").engine;
    store_raft::found(directory.path(), &options, named(1), None).unwrap();
    let mut first = One::open(1, directory, now);
    first.work(now);
    first.core.join(1, named(2), LATEST, now);
    let mut sent = first.work(now);
    assert!(matches!(first.answers[..], [(1, Ok(Reply::Changed))]), "{:?}", first.answers);
    let mut second = One::open(2, TempDir::new().unwrap(), now);
    let began = now;
    while second.answers.is_empty() {
        assert!(now < began + Duration::from_secs(3), "nobody says what became of it");
        deliver(sent, &mut first, &mut second, now);
        if now == began + TICK * 2 {
            assert!(second.core.standing(now).members.is_empty(), "it was given the state too early");
            second.core.join(2, named(3), LATEST, now);
        }
        let sent_back = second.work(now);
        deliver(sent_back, &mut second, &mut first, now);
        sent = first.work(now);
        // Not before the third one is known.
        if first.upkeep && first.core.standing(now).members.len() == 3 {
            first.checkpoint();
        }
        now += TICK;
        first.core.tick(now);
        second.core.tick(now);
        sent.extend(first.work(now));
    }
    assert!(matches!(second.answers[..], [(2, Ok(Reply::Changed))]), "{:?}", second.answers);
    let known: Vec<_> = second.core.standing(now).members.iter().map(|member| member.id).collect();
    assert_eq!(known, [1, 2, 3]);
}

/// Both do what there is to do and hear of each other, for so many ticks.
fn together(first: &mut One, second: &mut One, now: &mut Duration, ticks: usize) {
    for _ in 0..ticks {
        *now += TICK;
        for one in [&mut *first, &mut *second] {
            one.core.tick(*now);
        }
        // Until nobody has anything to say, which is soon.
        for _ in 0..20 {
            let (sent, sent_back) = (first.work(*now), second.work(*now));
            if first.upkeep {
                first.checkpoint();
            }
            deliver(sent, first, second, *now);
            deliver(sent_back, second, first, *now);
        }
    }
}

/// Whoever asked for it was told long ago that nobody knows.
#[test]
fn a_change_that_was_put_off_goes_with_the_lead() {
    let mut now = Duration::from_secs(100);
    let directory = TempDir::new().unwrap();
    let options = Options::new("m1", "m1:2380").engine;
    store_raft::found(directory.path(), &options, named(1), None).unwrap();
    let mut first = One::open(1, directory, now);
    first.work(now);
    first.core.join(1, named(2), LATEST, now);
    let mut second = One::open(2, TempDir::new().unwrap(), now);
    together(&mut first, &mut second, &mut now, 20);
    let known = |one: &One| {
        let standing = one.core.standing(now);
        let members: Vec<_> = standing.members.iter().map(|member| member.id).collect();
        (members, standing.voters, standing.leader)
    };
    assert_eq!(known(&second), (vec![1, 2], vec![1, 2], 1));
    // A change that the other one does not hear of, and another that waits for it.
    first.core.join(2, named(3), LATEST, now);
    first.work(now);
    second.core.join(3, named(4), LATEST, now);
    let asked = second.work(now);
    assert!(asked.iter().any(|message| message.get_msg_type() == MessageType::MsgPropose));
    deliver(asked, &mut second, &mut first, now);
    // It hears of nobody, and leads no more.
    while first.core.leads() {
        assert!(now < Duration::from_secs(200), "it does not give up the lead");
        now += TICK;
        first.core.tick(now);
        first.work(now);
    }
    // Its log is the longer one: nobody else can be elected.
    together(&mut first, &mut second, &mut now, 60);
    let known = |one: &One| {
        let standing = one.core.standing(now);
        (standing.members.iter().map(|member| member.id).collect::<Vec<_>>(), standing.leader)
    };
    assert_eq!([known(&first), known(&second)], [(vec![1, 2, 3], 1), (vec![1, 2, 3], 1)]);
}

/// As [`together`], for any number of them; what is for others is lost.
fn all_together(all: &mut [One], now: &mut Duration, ticks: usize) {
    for _ in 0..ticks {
        *now += TICK;
        all.iter_mut().for_each(|one| one.core.tick(*now));
        for _ in 0..20 {
            for from in 0..all.len() {
                let sent = all[from].work(*now);
                if all[from].upkeep {
                    all[from].checkpoint();
                }
                for message in sent {
                    let Some(to) = all.iter().position(|one| one.id == message.to) else { continue };
                    let Ok([from, to]) = all.get_disjoint_mut([from, to]) else { continue };
                    deliver(vec![message], from, to, *now);
                }
            }
        }
    }
}

/// Of three, the last is gone. Without one of the others there would be no majority: whichever is asked, nobody but the one
/// that is gone can be removed, and both say so at once. As long as it may be there yet, they wait.
#[test]
fn whichever_member_is_asked_the_majority_is_kept() {
    let mut now = Duration::from_secs(100);
    let directory = TempDir::new().unwrap();
    let options = Options::new("m1", "m1:2380").engine;
    store_raft::found(directory.path(), &options, named(1), None).unwrap();
    let mut all = vec![One::open(1, directory, now)];
    for id in [2, 3] {
        all[0].work(now);
        all[0].core.join(id, named(id), LATEST, now);
        all_together(&mut all, &mut now, 1);
        all.push(One::open(id, TempDir::new().unwrap(), now));
        all_together(&mut all, &mut now, 20);
    }
    let known = |one: &One, now: Duration| (one.core.standing(now).leader, one.core.standing(now).voters);
    assert_eq!(known(&all[1], now), (1, vec![1, 2, 3]));
    all.truncate(2);

    // Nobody knows yet that it is not just slow.
    all_together(&mut all, &mut now, 20);
    all.iter_mut().for_each(|one| one.answers.clear());
    all[1].core.change(10, Change::Remove(2), now);
    all[0].core.change(11, Change::Remove(2), now);
    all_together(&mut all, &mut now, 5);
    assert!(all.iter().all(|one| one.answers.is_empty()), "{:?} {:?}", all[0].answers, all[1].answers);
    all_together(&mut all, &mut now, 30);
    let refused = |answers: &[(Request, Result<Reply, Error>)], request: Request| matches!(answers, [(answered, Err(Error::Unavailable(unavailable::UNHEARD)))] if *answered == request);
    assert!(refused(&all[1].answers, 10), "{:?}", all[1].answers);
    assert!(refused(&all[0].answers, 11), "{:?}", all[0].answers);

    // Known by now.
    for (asked, removed) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        all[asked].answers.clear();
        all[asked].core.change(20, Change::Remove(removed), now);
        all_together(&mut all, &mut now, 2);
        assert!(refused(&all[asked].answers, 20), "{removed}: {:?}", all[asked].answers);
        assert_eq!(known(&all[1], now), (1, vec![1, 2, 3]), "nobody has left, and it leads on");
    }
    // With the one that is gone nothing is lost; and then the majority is there.
    for (removed, left) in [(3, vec![1, 2]), (2, vec![1])] {
        all[1].answers.clear();
        all[1].core.change(30, Change::Remove(removed), now);
        all_together(&mut all, &mut now, 5);
        assert!(matches!(all[1].answers[..], [(30, Ok(Reply::Changed))]), "{removed}: {:?}", all[1].answers);
        assert_eq!(known(&all[0], now), (1, left));
    }
}
