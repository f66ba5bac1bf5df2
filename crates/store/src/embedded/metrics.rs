//! What is counted of writes on their way to the disk, for everything that keeps a log with the engine's files.
//!
//! Registered with the process' metrics. Not here: what people are told of a slow disk (`slowness`).

use foundation::metrics::{self, Counter, Histogram};

/// Of the batches of a log.
pub struct CommitMetrics {
    /// Seconds that a batch took to become durable.
    pub sync: Histogram,
    /// Entries that shared a sync.
    pub batch: Histogram,
    /// Batches that failed.
    pub failures: Counter,
    /// Batches that took long.
    pub slow: Counter,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        let registry = metrics::registry();
        const SYNC: &[f64] = &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
        const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
        Self {
            sync: registry
                .histogram("store_commit_seconds", "Time to make a batch durable.", &[], SYNC)
                .only(),
            batch: registry
                .histogram("store_commit_entries", "Entries that shared a sync.", &[], BATCH)
                .only(),
            slow: registry
                .counter("store_slow_commits_total", "Batches that took longer than a second.", &[])
                .only(),
            failures: registry.counter("store_commit_failures_total", "Batches that failed.", &[]).only(),
        }
    }
}
