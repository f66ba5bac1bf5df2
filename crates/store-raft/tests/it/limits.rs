//! Where a member stops, waits or tries again: what it does not understand, a disk that refuses, a reset cut short.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foundation::{SeededRandomness, SystemClock};
use raft::eraftpb::{Entry, HardState, Message, SnapshotMetadata};
use store::embedded::Options as EngineOptions;
use store::embedded::disk::Disk;
use store::embedded::disk::simulated::{Fault, SimulatedDisk};
use store::embedded::replica::{Command, Position, Replica};
use store::{Error, Op, Range, Store, Txn};
use store_raft::core::{Change, Core, Output, Persist, Settings};
use store_raft::keeper::Keeper;
use store_raft::level::LATEST;
use store_raft::transport::{Inward, Transport};
use store_raft::{Ended, Identity, Member, Options, RaftStore};

use super::cluster::JumpingClock;
use super::failover::soon;

/// There is nobody else.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: Message) {}
    fn send_snapshot(&self, _: Message, _: Box<dyn Read + Send>) {}
    fn members(&self, _: &[Member], _: &[u64]) {}
    fn close(&self) {}
}

fn open(directory: &Path, options: &Options) -> Arc<RaftStore> {
    let nowhere = |_: Identity, _: Inward| -> Arc<dyn Transport> { Arc::new(Nowhere) };
    RaftStore::open(directory, options.clone(), SystemClock::shared(), nowhere).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_stops_the_member_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new("one", "one:2380");
    RaftStore::found(directory.path(), &options, None).unwrap();
    // A later version has written the second of three entries.
    let entry = |index, data: &'static [u8]| Entry { index, term: 1, data: data.into(), ..Entry::default() };
    let entries = vec![entry(2, b""), entry(3, &[200, 1, 2, 3]), entry(4, b"")];
    let hard = HardState { term: 1, commit: 4, ..HardState::default() };
    let persist = Persist { number: 1, hard, entries, snapshot: None };
    let mut recovered = Keeper::open(directory.path(), &options.engine).unwrap();
    recovered.keeper.persist(&[persist], |_| None).unwrap();
    drop(recovered);

    let store = open(directory.path(), &options);
    let ended = soon(store.ended()).await;
    assert!(
        matches!(&ended, Ended::Failed(why) if why.contains("index 3") && why.contains("upgrade")),
        "{ended:?}"
    );
    let refused = soon(store.txn(Txn::of(vec![Op::put("a", "x")]))).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    store.shutdown();
    let refused = store_raft::reset(directory.path(), &options);
    assert!(matches!(refused, Err(Error::Invalid(why)) if why.contains("later")), "{refused:?}");
    // Nothing of it went into a checkpoint: the version that understands it finds all of it.
    let recovered = Keeper::open(directory.path(), &options.engine).unwrap();
    assert_eq!(recovered.replica.position().index, 1);
    assert_eq!(&*recovered.entries[1].data, [200, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_is_told_that_the_disk_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(1)));
    let mut options = Options::new("one", "one:2380");
    options.engine.disk = Arc::new(disk.clone());
    RaftStore::found(directory.path(), &options, None).unwrap();
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = Arc::new(JumpingClock(ahead.clone()));
    let nowhere = |_: Identity, _: Inward| -> Arc<dyn Transport> { Arc::new(Nowhere) };
    let store = RaftStore::open(directory.path(), options, clock, nowhere).unwrap();
    let put = async || store.txn(Txn::of(vec![Op::put("a", "x".repeat(100 << 10))])).await;
    soon(put()).await.unwrap();
    disk.set_room(disk.used());
    // What is made ready ahead lasts for a while.
    let refused = soon(async {
        loop {
            let write = put();
            tokio::pin!(write);
            let told = loop {
                tokio::select! {
                    told = &mut write => break told,
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
                if store.status().await.unwrap().alarm.is_some() {
                    // Nobody is waited for any longer.
                    ahead.fetch_add(1_000, Ordering::Relaxed);
                }
            };
            if let Err(error) = told {
                break error;
            }
        }
    })
    .await;
    assert!(matches!(refused, Error::NoSpace), "{refused:?}");
    // The next ones are told at once, and reads go on.
    let refused = soon(put()).await;
    assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
    assert_eq!(soon(store.range(Range::key("a"))).await.unwrap().count, 1);
    disk.set_room(u64::MAX);
    soon(async { while put().await.is_err() {} }).await;
    assert!(store.status().await.unwrap().alarm.is_none());
    store.shutdown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_is_cut_short_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(1)));
    let mut options = Options::new("one", "one:2380");
    options.engine.disk = Arc::new(disk.clone());
    let first = RaftStore::found(directory.path(), &options, None).unwrap();
    let store = open(directory.path(), &options);
    soon(store.txn(Txn::of(vec![Op::put("a", "x")]))).await.unwrap();
    store.shutdown();
    // Wherever it is cut short, from reading the log to the last of the new checkpoint.
    let mut cuts = 0;
    let last = loop {
        let before = Identity::load(directory.path()).unwrap().unwrap();
        disk.arm(cuts, Fault::Refused);
        match store_raft::reset(directory.path(), &options) {
            Ok(identity) => break identity,
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        disk.disarm();
        let after = Identity::load(directory.path()).unwrap().unwrap();
        assert_eq!(after.member, before.member);
        let alone = {
            let recovered = Keeper::open(directory.path(), &options.engine).unwrap();
            recovered.replica.position().index > 1
        };
        assert!(!alone || after.cluster != first.cluster, "it is alone, under the name of its old cluster");
        cuts += 1;
    };
    assert!(cuts > 5, "only {cuts} calls");
    assert_ne!(last.cluster, first.cluster);
    disk.disarm();
    let store = open(directory.path(), &options);
    let found = soon(store.range(Range::key("a"))).await.unwrap();
    assert_eq!(&*found.kvs[0].value, b"x");
    store.shutdown();
}

/// A checkpoint of another member, as it comes.
fn foreign_checkpoint() -> (Position, Vec<u8>) {
    let (directory, options) = (tempfile::tempdir().unwrap(), EngineOptions::default());
    let member = Member { id: 2, name: "two".into(), address: "two:2380".into() };
    store_raft::found(directory.path(), &options, member, None).unwrap();
    let replica = Replica::open(directory.path(), &options).unwrap();
    let put = Command::Txn(Txn::of(vec![Op::put("a", "x")]));
    let time = Duration::from_secs(1);
    replica.apply(vec![store::embedded::replica::Step { index: 9, term: 3, time, command: Some(put) }]);
    let position = replica.checkpoint().unwrap();
    let mut bytes = Vec::new();
    replica.read_checkpoint().unwrap().unwrap().1.read_to_end(&mut bytes).unwrap();
    (position, bytes)
}

#[test]
fn a_checkpoint_that_came_is_taken_up_wherever_the_disk_refused_before() {
    let (position, bytes) = foreign_checkpoint();
    let (directory, received) = (Path::new("/member"), Path::new("/member/received-9-1"));
    let snapshot = SnapshotMetadata { index: position.index, term: position.term, ..Default::default() };
    let hard = HardState { term: 3, commit: position.index, ..HardState::default() };
    let work = [Persist { number: 1, hard, entries: Vec::new(), snapshot: Some(snapshot) }];
    let mut refusals = 0;
    loop {
        let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(refusals)));
        let options = EngineOptions { disk: Arc::new(disk.clone()), ..EngineOptions::default() };
        let mut recovered = Keeper::open(directory, &options).unwrap();
        let file = disk.create(received).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync().unwrap();
        let mut persist = || recovered.keeper.persist(&work, |_| Some(received.to_owned()));
        disk.arm(refusals, Fault::Refused);
        let refused = persist().is_err();
        disk.disarm();
        if refused {
            assert_eq!(persist().unwrap(), Some(position.clone()), "after {refusals} calls");
        }
        drop(recovered);
        disk.lose_power();
        let recovered = Keeper::open(directory, &options).unwrap();
        assert_eq!(recovered.replica.position(), position, "after {refusals} calls and a loss of power");
        assert_eq!(recovered.hard.term, 3);
        if !refused {
            break;
        }
        refusals += 1;
    }
    assert!(refusals > 4, "only {refusals} calls");
}

#[test]
fn a_crash_after_a_checkpoint_was_taken_up_loses_nothing_that_comes_later() {
    let (position, bytes) = foreign_checkpoint();
    let (directory, received) = (Path::new("/member"), Path::new("/member/received-9-1"));
    let snapshot = SnapshotMetadata { index: position.index, term: position.term, ..Default::default() };
    let entry = |index, term| Entry { index, term, data: "x".into(), ..Entry::default() };
    let persist = |term, entries, snapshot| Persist {
        number: 1,
        hard: HardState { term, commit: 1, ..HardState::default() },
        entries,
        snapshot,
    };
    // What the log has from an earlier leader: less than the checkpoint, or more.
    for before in [4, 12] {
        let mut taken_up = 0;
        for crash in 0..12 {
            let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(crash)));
            let options = EngineOptions { disk: Arc::new(disk.clone()), ..EngineOptions::default() };
            let mut keeper = Keeper::open(directory, &options).unwrap().keeper;
            let old = (1..=before).map(|index| entry(index, 2)).collect();
            keeper.persist(&[persist(2, old, None)], |_| None).unwrap();
            let file = disk.create(received).unwrap();
            file.write_at(&bytes, 0).unwrap();
            file.sync().unwrap();
            disk.arm(crash, Fault::PowerLoss);
            let work = [persist(3, Vec::new(), Some(snapshot.clone()))];
            // It may be done or not.
            let _ = keeper.persist(&work, |_| Some(received.to_owned()));
            drop(keeper);
            disk.disarm();
            disk.lose_power();
            let mut recovered = Keeper::open(directory, &options).unwrap();
            if recovered.replica.position() != position {
                assert_eq!(recovered.entries.len() as u64, before, "crash {crash}");
                continue;
            }
            taken_up += 1;
            for (index, term) in [(10, 3), (11, 4)] {
                let next = [persist(term, vec![entry(index, term)], None)];
                recovered.keeper.persist(&next, |_| None).unwrap();
                drop(recovered);
                recovered = Keeper::open(directory, &options).unwrap();
                let last = recovered.entries.last().map(|entry| (entry.index, entry.term));
                assert_eq!(last, Some((index, term)), "crash {crash}, {before} entries before");
            }
            assert_eq!(recovered.entries.len(), 2);
        }
        assert!(taken_up > 0, "it never came about");
    }
}

#[test]
fn nobody_joins_in_the_place_of_a_member_that_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new("one", "one:2380").engine;
    let member = |id, name: &str, address: &str| Member { id, name: name.into(), address: address.into() };
    store_raft::found(directory.path(), &options, member(1, "one", "one:2380"), None).unwrap();
    let mut recovered = Keeper::open(directory.path(), &options).unwrap();
    let settings = Settings {
        id: 1,
        incarnation: 1,
        patience: Duration::from_secs(5),
        checkpoint_bytes: 100_000,
        keep_bytes: 0,
        level: LATEST,
    };
    let start = Duration::from_secs(100);
    let (hard, entries) = (recovered.hard, recovered.entries);
    let mut core = Core::new(settings, recovered.replica.clone(), hard, entries, start).unwrap();
    let mut run = |core: &mut Core| {
        let mut answers = Vec::new();
        loop {
            let outputs = core.poll(start);
            if outputs.is_empty() {
                return answers;
            }
            for output in outputs {
                match output {
                    Output::Persist(persist) => {
                        recovered.keeper.persist(std::slice::from_ref(&persist), |_| None).unwrap();
                        core.persisted(persist.number);
                    }
                    Output::Answer(_, answer) => answers.push(answer),
                    _ => {}
                }
            }
        }
    };
    run(&mut core);
    assert_eq!(core.standing(start).level, LATEST, "alone it has nobody to agree with");
    for (joiner, level, refused) in [
        (member(2, "one", "two:2380"), LATEST, Some("removed before")),
        (member(2, "two", "one:2380"), LATEST, Some("removed before")),
        (member(2, "two", "two:2380"), LATEST - 1, Some("upgraded")),
        (member(2, "two", "two:2380"), LATEST, None),
        // Whoever does not know what became of it asks again, perhaps from elsewhere.
        (member(2, "two", "two:2381"), LATEST, None),
        (member(3, "three", "two:2381"), LATEST, Some("removed before")),
        (member(9, "gone", "gone:2380"), LATEST, Some("was removed")),
    ] {
        if joiner.id == 9 {
            core.join(1, joiner.clone(), level, start);
            assert!(matches!(run(&mut core)[..], [Ok(_)]));
            core.change(1, Change::Remove(9), start);
            assert!(matches!(run(&mut core)[..], [Ok(_)]), "whoever only learns is not needed for it");
        }
        core.join(1, joiner.clone(), level, start);
        let answers = run(&mut core);
        let said = match &answers[..] {
            [Ok(_)] => None,
            [Err(Error::Invalid(why))] => Some(*why),
            other => panic!("{joiner:?}: {other:?}"),
        };
        assert_eq!(said.is_some(), refused.is_some(), "{joiner:?}: {said:?}");
        assert!(refused.is_none_or(|word| said.unwrap().contains(word)), "{joiner:?}: {said:?}");
    }
    // Who has joined and never comes is known, does not vote, and keeps nothing from being written.
    assert_eq!(core.standing(start).voters, [1]);
    assert_eq!(core.standing(start).members.len(), 2);
    core.propose(1, Command::Txn(Txn::of(vec![Op::put("a", "x")])), start);
    assert!(matches!(run(&mut core)[..], [Ok(_)]), "one of one has it on its disk");
}

#[test]
fn a_checkpoint_that_fails_is_tried_again_after_longer_and_longer_pauses() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new("one", "one:2380").engine;
    let member = Member { id: 1, name: "one".into(), address: "one:2380".into() };
    store_raft::found(directory.path(), &options, member, None).unwrap();
    let recovered = Keeper::open(directory.path(), &options).unwrap();
    let (replica, mut keeper) = (recovered.replica, recovered.keeper);
    let settings = Settings {
        id: 1,
        incarnation: 1,
        patience: Duration::from_secs(5),
        checkpoint_bytes: 100,
        keep_bytes: 0,
        level: LATEST,
    };
    let start = Duration::from_secs(100);
    let mut core = Core::new(settings, replica.clone(), recovered.hard, recovered.entries, start).unwrap();
    // Whether a checkpoint is asked for at a moment.
    let mut asked = |core: &mut Core, now: Duration| {
        let mut asked = false;
        loop {
            let outputs = core.poll(now);
            if outputs.is_empty() {
                return asked;
            }
            for output in outputs {
                match output {
                    Output::Persist(persist) => {
                        keeper.persist(std::slice::from_ref(&persist), |_| None).unwrap();
                        core.persisted(persist.number);
                    }
                    Output::Upkeep { checkpoint } => asked |= checkpoint,
                    _ => {}
                }
            }
        }
    };
    core.propose(1, Command::Txn(Txn::of(vec![Op::put("a", "x".repeat(200))])), start);
    assert!(asked(&mut core, start));
    let mut now = start;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        core.upkeep_failed(now);
        let pause = Duration::from_secs(pause);
        assert!(!asked(&mut core, now + pause - Duration::from_millis(1)), "too early, within {pause:?}");
        assert!(asked(&mut core, now + pause), "not after {pause:?}");
        now += pause;
    }
    core.upkeep_done(Some(replica.checkpoint().unwrap()));
    assert!(!asked(&mut core, now + Duration::from_secs(600)), "there is nothing to do");
    core.propose(2, Command::Txn(Txn::of(vec![Op::put("a", "y".repeat(200))])), now);
    assert!(asked(&mut core, now), "and no pause after it was done");
}
