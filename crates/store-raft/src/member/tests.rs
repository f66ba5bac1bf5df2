//! What a member keeps for others, and for how long: of the callers that have gone, of the checkpoints it has no use for.

use std::time::Instant;

use foundation::ManualClock;
use futures::FutureExt as _;
use raft::eraftpb::{Message, MessageType};
use store::embedded::replica::Position;
use store::{Op, Store as _, Txn};

use super::*;
use crate::membership::Membership;
use crate::transport::Nowhere;

/// One of two members, whose other one is gone.
fn left_alone(directory: &Path, clock: &ManualClock) -> (Arc<RaftStore>, Inward) {
    let options = Options::new("one", "one:2380");
    let mut membership = Membership::alone(member(1, &options));
    membership.conf.voters.push(2);
    let position = Position { index: 5, term: 2, attachment: membership.encode() };
    Replica::found(directory, &options.engine, &position, None).unwrap();
    Identity { cluster: 7, member: 1 }.save(directory).unwrap();
    let mut outside = None;
    let clock = Arc::new(clock.clone());
    let store = RaftStore::open(directory, options, clock, |_, inward| {
        outside = Some(inward);
        Arc::new(Nowhere)
    });
    (store.unwrap(), outside.unwrap())
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}: it does not come about");
        std::thread::yield_now();
    }
}

#[test]
fn writes_that_wait_are_bounded_though_their_callers_have_gone() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::default());
    let (store, _) = left_alone(directory.path(), &clock);
    let value = "x".repeat(1 << 20);
    for number in 0..200 {
        let txn = Txn::of(vec![Op::put(format!("k/{number}"), value.clone())]);
        // It is asked once, and goes away.
        assert!(store.txn(txn).now_or_never().is_none());
    }
    let waiting = store.shared.answers.lock().len();
    assert!((32..64).contains(&waiting), "{waiting} MiB wait for a leader");
    assert!(store.shared.slots.available_permits() < 65);
    // Until they are answered, whoever hears it.
    clock.advance(PATIENCE + Duration::from_secs(1));
    wait_until("room for others", || store.shared.slots.available_permits() == QUEUED);
    assert!(store.shared.answers.lock().is_empty());
}

#[test]
fn a_checkpoint_that_is_of_no_use_does_not_stay() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::default());
    let (store, inward) = left_alone(directory.path(), &clock);
    let came = |index: u64, term: u64, name: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, "a checkpoint").unwrap();
        let mut message = Message { from: 2, to: 1, term, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.mut_conf_state().voters.extend([1, 2]);
        inward.snapshot(message, file.clone());
        file
    };
    // Of an earlier leader; and what is here already.
    for (index, term, name) in [(9, 1, "received-9-1"), (5, 2, "received-5-1"), (4, 2, "received-4-1")] {
        let file = came(index, term, name);
        wait_until(name, || !file.exists());
    }
    assert!(store.shared.replica.position().index == 5);
}
