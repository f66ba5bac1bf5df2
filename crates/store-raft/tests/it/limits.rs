//! Where a member stops, waits or tries again: what it does not understand, a disk that refuses, a reset cut short.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foundation::{SeededRandomness, SystemClock};
use raft::eraftpb::{Entry, HardState, Message};
use store::embedded::disk::simulated::{Fault, SimulatedDisk};
use store::embedded::replica::Command;
use store::{Error, Op, Range, Store, Txn};
use store_raft::core::{Core, Output, Persist, Settings};
use store_raft::keeper::Keeper;
use store_raft::transport::{Inward, Transport};
use store_raft::{Ended, Identity, Member, Options, RaftStore};

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
