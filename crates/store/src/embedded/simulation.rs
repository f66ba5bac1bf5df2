//! The engine under random schedules of work, faults, crashes and reopenings, compared with a model: ten thousand of
//! them in every run of the tests.
//!
//! No thread and no timer: the writer and the upkeep are called as functions, and what would go on beside the upkeep
//! (batches, while a checkpoint is written) is called from inside of it, at each of its calls to the disk. So a schedule
//! is its seed, and `IRONCLAD_SEED=<n> cargo test -p store --lib simulation -- --nocapture` replays the one that failed,
//! saying each step.
//!
//! What is asked of every schedule:
//! - what was acknowledged is there after every crash; what was not is there whole or not at all;
//! - answers, reads at any revision, watches and leases are those of the model; no revision is skipped or split;
//! - a lease never ends before its time, however the store was restarted;
//! - a turned bit is found and said, or is where it cannot matter, or in the last batch, which is then dropped whole;
//! - a disk that lies about syncs gives an earlier state of the store, or a store that says that it is corrupt.

mod crashes;
mod model;
mod world;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Schedules in a run.
const SCHEDULES: u64 = 10_000;
/// The seed of the first.
const FIRST: u64 = 20_261_122;

/// How often what was tried in all schedules has come about.
#[derive(Default)]
struct Coverage(Mutex<BTreeMap<&'static str, u64>>);

impl Coverage {
    fn add(&self, counts: &BTreeMap<&'static str, u64>) {
        let mut all = self.0.lock();
        for (what, count) in counts {
            *all.entry(*what).or_default() += count;
        }
    }
}

/// Dropped by a failure: nobody begins another schedule.
struct Stop<'a>(&'a AtomicU64);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(SCHEDULES, Ordering::Relaxed);
    }
}

fn run(seed: u64, coverage: &Coverage) {
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| world::play(seed, coverage)));
    if let Err(panic) = played {
        eprintln!("replay with: IRONCLAD_SEED={seed} cargo test -p store --lib simulation -- --nocapture");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn ten_thousand_schedules_match_the_model() {
    let coverage = Coverage::default();
    if let Some(seed) = std::env::var("IRONCLAD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed, &coverage);
        return;
    }
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= SCHEDULES {
                        return;
                    }
                    let stop = Stop(&next);
                    run(FIRST + index, &coverage);
                    std::mem::forget(stop);
                }
            });
        }
    });
    // A schedule that nothing happens in proves nothing.
    let coverage = coverage.0.into_inner();
    println!("{coverage:?}");
    for (what, least) in [
        ("schedules", SCHEDULES),
        ("batches", 100_000),
        ("failed batches", 2_000),
        ("checkpoints", 10_000),
        ("batches beside the upkeep", 5_000),
        ("kills", 5_000),
        ("power losses", 5_000),
        ("a failed batch came back", 50),
        ("a failed batch was gone", 500),
        ("bit flips", 1_000),
        ("corruption said", 200),
        ("the last batch lost to a flip", 20),
        ("refused", 500),
        ("short write", 200),
        ("full", 200),
        ("lie", 200),
        ("power loss", 500),
        ("snapshots", 1_000),
        ("leases expired", 200),
    ] {
        let found = coverage.get(what).copied().unwrap_or(0);
        assert!(found >= least, "{what}: {found}, at least {least} expected");
    }
}
