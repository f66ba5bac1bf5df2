//! Faults that once lost something, or kept a sound store from opening: found by the simulation, or while writing it.
//!
//! Each is the shortest way to it over a simulated disk, for as many seeds as leave nothing to luck. Not here: the
//! schedules that look for more of them (`store::embedded::simulation`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foundation::{ManualClock, SeededRandomness};
use store::embedded::disk::Disk;
use store::embedded::disk::simulated::{Call, Fault, SimulatedDisk};
use store::embedded::{Engine, Options};
use store::{Error, Op, Range, Store, Txn};

const SEEDS: u64 = 30;

struct World {
    disk: SimulatedDisk,
    clock: ManualClock,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(Arc::new(SeededRandomness::new(seed)));
        Self { disk, clock: ManualClock::default() }
    }

    fn open(&self) -> Result<Arc<Engine>, Error> {
        // No checkpoint but those that are asked for, and the smallest segments.
        let options = Options {
            segment_bytes: 1,
            checkpoint_bytes: 1 << 40,
            disk: Arc::new(self.disk.clone()),
            ..Options::default()
        };
        Engine::open("/store", options, Arc::new(self.clock.clone()))
    }

    /// The names of the segments.
    fn segments(&self) -> Vec<String> {
        let files = self.disk.list(Path::new("/store")).unwrap();
        let names = files.into_iter().map(|(path, _)| path.display().to_string());
        names.filter(|name| name.ends_with(".wal")).collect()
    }

    /// Lets `fault` strike the writer's first call of a kind on a file whose path contains `name`.
    fn strike(&self, call: Call, name: &'static str, fault: Fault) {
        let disk = self.disk.clone();
        let left = AtomicU64::new(1);
        self.disk.observe(move |made, path| {
            let writer = std::thread::current().name() == Some("store-writer");
            let is_it = writer && made == call && path.to_string_lossy().contains(name);
            if is_it && left.swap(0, Ordering::SeqCst) == 1 {
                disk.arm(0, fault);
            }
        });
    }
}

async fn put(store: &Engine, key: &str, bytes: usize) -> Result<u64, Error> {
    let ops = vec![Op::put(key.to_owned(), vec![b'x'; bytes])];
    store.txn(Txn::of(ops)).await.map(|response| response.revision)
}

async fn keys(store: &Engine) -> Vec<String> {
    let found = store.range(Range::prefix("")).await.unwrap();
    found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// It took the only segment away, and a store without a log does not open.
#[tokio::test]
async fn a_checkpoint_after_a_failed_write_leaves_a_log() {
    let world = World::new(1);
    let store = world.open().unwrap();
    put(&store, "a", 10).await.unwrap();
    world.strike(Call::Sync, "", Fault::Refused);
    put(&store, "refused", 10).await.unwrap_err();
    store.defragment().await.unwrap();
    drop(store);
    assert_eq!(world.segments().len(), 1);
    world.disk.kill();
    // What was refused may have come about all the same.
    assert_eq!(keys(&world.open().unwrap()).await[0], "a");
}

/// The file was written to under its new name while the directory still had the old one.
#[tokio::test]
async fn a_segment_that_is_used_again_does_not_come_back_under_its_old_name() {
    for seed in 0..SEEDS {
        let world = World::new(seed);
        let store = world.open().unwrap();
        for key in ["a", "b", "c"] {
            put(&store, key, 3000).await.unwrap();
        }
        store.defragment().await.unwrap();
        // The power goes when what was the first segment is to become the next one.
        world.strike(Call::Rename, "spare-", Fault::PowerLoss);
        put(&store, "d", 3000).await.unwrap_err();
        drop(store);
        world.disk.lose_power();
        let store = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(keys(&store).await, ["a", "b", "c"], "seed {seed}");
    }
}

/// Removed names were not synced: some came back, and the gap between them looked like a loss.
#[tokio::test]
async fn segments_that_a_checkpoint_covers_may_come_back_with_gaps() {
    for seed in 0..SEEDS {
        let world = World::new(seed);
        let store = world.open().unwrap();
        for key in ["a", "b", "c", "d", "e", "f"] {
            put(&store, key, 3000).await.unwrap();
        }
        store.defragment().await.unwrap();
        put(&store, "g", 10).await.unwrap();
        drop(store);
        world.disk.lose_power();
        let store = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(keys(&store).await.len(), 7, "seed {seed}");
    }
}

/// A restarted process read from the cache what had never reached the disk, showed it, and wrote after it.
#[tokio::test]
async fn what_a_recovery_has_shown_is_durable() {
    let mut shown = 0;
    for seed in 0..SEEDS {
        let world = World::new(seed);
        let store = world.open().unwrap();
        put(&store, "a", 10).await.unwrap();
        world.strike(Call::Sync, "", Fault::Refused);
        put(&store, "uncertain", 3000).await.unwrap_err();
        drop(store);
        world.disk.kill();
        let store = world.open().unwrap();
        let before = keys(&store).await;
        shown += u64::from(before.len() == 2);
        let also = put(&store, "z", 10).await.is_ok();
        assert!(also, "seed {seed}");
        drop(store);
        world.disk.lose_power();
        let store = world.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let after = keys(&store).await;
        assert_eq!(after[..before.len()], before, "seed {seed}");
        assert_eq!(after.len(), before.len() + 1, "seed {seed}");
    }
    assert!(shown > 0);
}

/// The last batch of a full segment looked like a torn one as long as the next segment was empty.
#[tokio::test]
async fn damage_before_an_empty_segment_is_found() {
    let world = World::new(1);
    let store = world.open().unwrap();
    put(&store, "a", 10).await.unwrap();
    put(&store, "b", 2000).await.unwrap();
    // The next segment is made, and nothing gets into it.
    let disk = world.disk.clone();
    world.disk.observe(move |call, _| {
        if call == Call::SyncDirectory {
            disk.arm(1, Fault::Refused);
        }
    });
    put(&store, "c", 3000).await.unwrap_err();
    drop(store);
    world.disk.unobserve();
    world.disk.disarm();
    world.disk.kill();
    let segments = world.segments();
    assert_eq!(segments.len(), 2, "{segments:?}");
    let first = Path::new(&segments[0]).to_owned();
    let bytes = world.disk.read(&first).unwrap();
    let end = bytes.iter().rposition(|byte| *byte == b'x').unwrap();
    world.disk.flip_at(&first, end - 100, 1);
    let Err(Error::Corrupt { path, detail, .. }) = world.open() else { panic!("the loss went unnoticed") };
    assert_eq!((path, detail.as_str()), (first.clone(), "batches 2 to 2 are damaged or missing"));
    world.disk.flip_at(&first, end - 100, 1);
    assert_eq!(keys(&world.open().unwrap()).await, ["a", "b"]);
}

/// What was left of it before it was kept alive was what a recovery gave it.
#[tokio::test]
async fn a_lease_that_was_kept_alive_is_not_shortened_by_a_crash() {
    let world = World::new(1);
    let store = world.open().unwrap();
    store.lease_grant(1000, 7).await.unwrap();
    world.clock.advance(Duration::from_secs(990));
    // What is left of it is noted with the next write, and in the checkpoint.
    put(&store, "a", 10).await.unwrap();
    store.lease_keep_alive(7).await.unwrap();
    store.defragment().await.unwrap();
    drop(store);
    world.disk.lose_power();
    let store = world.open().unwrap();
    assert_eq!(store.lease_time_to_live(7).await.unwrap().ttl, 1000);
    // Without it, what was left is what is left.
    put(&store, "a", 10).await.unwrap();
    world.clock.advance(Duration::from_secs(990));
    put(&store, "a", 10).await.unwrap();
    drop(store);
    world.disk.lose_power();
    let store = world.open().unwrap();
    assert_eq!(store.lease_time_to_live(7).await.unwrap().ttl, 10);
}
