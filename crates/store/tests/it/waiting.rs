//! Who waits for the disk, and who does not: writers that share a sync, writers beside a checkpoint, readers, leases.
//!
//! A simulated disk holds a call until the test lets it go, so nothing here depends on time. Not here: what is on the
//! disk (`faults`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foundation::{ManualClock, SeededRandomness};
use parking_lot::{Condvar, Mutex};
use store::embedded::disk::simulated::{Call, SimulatedDisk};
use store::embedded::{Engine, Options};
use store::{Op, Range, Store, Txn};

/// Holds the calls of one kind, by one thread, as long as it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    held: AtomicU64,
    passed: AtomicU64,
    opened: Condvar,
}

impl Gate {
    fn before(disk: &SimulatedDisk, thread: &'static str, call: Call) -> Arc<Self> {
        let gate = Arc::new(Self::default());
        let at = gate.clone();
        disk.observe(move |made, _| {
            if made == call && std::thread::current().name() == Some(thread) {
                at.held.fetch_add(1, Ordering::SeqCst);
                at.opened.wait_while(&mut at.shut.lock(), |shut| *shut);
                at.passed.fetch_add(1, Ordering::SeqCst);
            }
        });
        gate
    }

    fn shut(&self) -> u64 {
        *self.shut.lock() = true;
        self.held.load(Ordering::SeqCst)
    }

    fn open(&self) {
        *self.shut.lock() = false;
        self.opened.notify_all();
    }

    /// Until somebody stands before it who did not when it was shut.
    async fn holds_after(&self, before: u64) {
        let held = async {
            while self.held.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), held).await.expect("nobody came to the gate");
    }
}

fn open(disk: &SimulatedDisk, clock: &ManualClock) -> Arc<Engine> {
    let options = Options { disk: Arc::new(disk.clone()), ..Options::default() };
    Engine::open("/store", options, Arc::new(clock.clone())).unwrap()
}

fn disk() -> SimulatedDisk {
    SimulatedDisk::new(Arc::new(SeededRandomness::new(1)))
}

fn put(key: String) -> Txn {
    Txn::of(vec![Op::put(key, "x")])
}

#[tokio::test]
async fn a_lone_writer_has_each_sync_for_itself_and_many_share_one() {
    let disk = disk();
    let store = open(&disk, &ManualClock::default());
    let gate = Gate::before(&disk, "store-writer", Call::Sync);
    for count in 0..5 {
        store.txn(put(format!("alone/{count}"))).await.unwrap();
        assert_eq!(gate.passed.load(Ordering::SeqCst), count + 1);
    }
    let before = gate.shut();
    let mut first = store.txn(put("first".to_owned()));
    assert!(futures::poll!(&mut first).is_pending());
    gate.holds_after(before).await;
    // They come while the first one waits for the disk.
    let mut many: Vec<_> = (0..64).map(|writer| store.txn(put(format!("many/{writer}")))).collect();
    for one in &mut many {
        assert!(futures::poll!(one).is_pending());
    }
    gate.open();
    first.await.unwrap();
    for written in futures::future::join_all(many).await {
        written.unwrap();
    }
    assert_eq!(gate.passed.load(Ordering::SeqCst), 5 + 1 + 1, "64 writers shared one");
}

#[tokio::test]
async fn writers_go_on_beside_a_checkpoint() {
    let disk = disk();
    let store = open(&disk, &ManualClock::default());
    store.txn(put("before".to_owned())).await.unwrap();
    let gate = Gate::before(&disk, "store-upkeep", Call::Create);
    let before = gate.shut();
    let mut checkpoint = store.defragment();
    assert!(futures::poll!(&mut checkpoint).is_pending());
    gate.holds_after(before).await;
    for count in 0..100 {
        store.txn(put(format!("beside/{count}"))).await.unwrap();
    }
    assert!(futures::poll!(&mut checkpoint).is_pending());
    gate.open();
    checkpoint.await.unwrap();
    drop(store);
    disk.unobserve();
    let store = open(&disk, &ManualClock::default());
    assert_eq!(store.range(Range::prefix("")).await.unwrap().count, 101);
    assert!(store.recovery().checkpoint_bytes > 0);
}

#[tokio::test]
async fn a_slow_disk_is_said_and_stops_neither_readers_nor_leases() {
    let (disk, clock) = (disk(), ManualClock::default());
    let store = open(&disk, &clock);
    let counted = || {
        let page = foundation::metrics::registry().render();
        let line = page.lines().find(|line| line.starts_with("store_slow_commits_total ")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("it is counted")
    };
    store.lease_grant(10, 7).await.unwrap();
    store.txn(put("before".to_owned())).await.unwrap();
    let slow_before = counted();
    assert!(store.warnings().await.unwrap().is_empty());
    let gate = Gate::before(&disk, "store-writer", Call::Sync);
    let before = gate.shut();
    let mut slow = store.txn(put("slow".to_owned()));
    assert!(futures::poll!(&mut slow).is_pending());
    gate.holds_after(before).await;
    for _ in 0..5 {
        clock.advance(Duration::from_secs(8));
        assert_eq!(store.lease_keep_alive(7).await.unwrap().ttl, 10);
        assert_eq!(
            store.range(Range::prefix("")).await.unwrap().count,
            1,
            "nothing is shown before it is durable"
        );
    }
    let warnings = store.warnings().await.unwrap();
    assert_eq!(warnings, ["the disk is slow: a write has been waiting for 40.0s"]);
    gate.open();
    slow.await.unwrap();
    assert_eq!(store.lease_time_to_live(7).await.unwrap().ttl, 10);
    assert_eq!(store.warnings().await.unwrap(), ["the disk is slow: a write took 40.0s"]);
    // Of this binary's tests no other has a slow disk.
    assert_eq!(counted(), slow_before + 1);
}
