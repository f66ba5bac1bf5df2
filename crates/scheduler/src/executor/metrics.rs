//! What the scheduler counts, under upstream's names and bounds.
//!
//! Upstream: pkg/scheduler/metrics/metrics.go. Not here: the queue's own numbers (`queue`), requests (`client`).

use std::time::Duration;

use foundation::metrics::{Counter, Family, Gauge, Histogram, registry};

/// Upstream's ExponentialBuckets(0.001, 2, 15), in seconds.
const ATTEMPT: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
/// Upstream's ExponentialBuckets(0.01, 2, 20), in seconds.
const WHOLE: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
    655.36, 1310.72, 2621.44, 5242.88,
];
/// From this number of tries on they are not told apart.
const MANY_TRIES: u32 = 15;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Scheduled,
    Unschedulable,
    Error,
}

/// The families, and the children that every cycle touches.
pub(super) struct Metrics {
    profile: String,
    attempts: Family<Counter>,
    latency: Family<Histogram>,
    algorithm: Histogram,
    whole: Family<Histogram>,
    tries: Histogram,
    pending: [Gauge; 4],
    preemptions: Family<Counter>,
    victims: Family<Histogram>,
}

impl Metrics {
    /// Those of a profile.
    pub fn new(profile: &str) -> Self {
        let registry = registry();
        let pending = registry.gauge(
            "scheduler_pending_pods",
            "Pods that wait for a node, by what they wait for.",
            &["queue"],
        );
        let attempts = registry.counter(
            "scheduler_schedule_attempts_total",
            "Attempts to give a pod a node, by how they ended.",
            &["result", "profile"],
        );
        for result in ["scheduled", "unschedulable", "error"] {
            attempts.with(&[result, profile]);
        }
        Self {
            profile: profile.to_owned(),
            attempts,
            latency: registry.histogram(
                "scheduler_scheduling_attempt_duration_seconds",
                "How long attempts took, the binding included, in seconds.",
                &["result", "profile"],
                ATTEMPT,
            ),
            algorithm: registry
                .histogram(
                    "scheduler_scheduling_algorithm_duration_seconds",
                    "How long decisions took, in seconds.",
                    &[],
                    ATTEMPT,
                )
                .only(),
            whole: registry.histogram(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "How long pods waited for their node from when they were first queued, in seconds.",
                &["attempts"],
                WHOLE,
            ),
            tries: registry
                .histogram(
                    "scheduler_pod_scheduling_attempts",
                    "How many attempts it took to give a pod a node.",
                    &[],
                    &[1.0, 2.0, 4.0, 8.0, 16.0],
                )
                .only(),
            pending: ["active", "backoff", "unschedulable", "gated"].map(|queue| pending.with(&[queue])),
            preemptions: registry.counter(
                "scheduler_preemption_attempts_total",
                "How often room was made for a pod.",
                &[],
            ),
            victims: registry.histogram(
                "scheduler_preemption_victims",
                "How many pods had to go for one.",
                &[],
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
            ),
        }
    }

    /// An attempt is over.
    pub fn attempted(&self, ended: Ended, took: Duration) {
        let result = match ended {
            Ended::Scheduled => "scheduled",
            Ended::Unschedulable => "unschedulable",
            Ended::Error => "error",
        };
        self.attempts.with(&[result, &self.profile]).inc();
        self.latency.with(&[result, &self.profile]).observe_duration(took);
    }

    /// A decision has been made.
    pub fn decided(&self, took: Duration) {
        self.algorithm.observe_duration(took);
    }

    /// A pod has its node, after so many tries and so long after it was first queued.
    pub fn scheduled(&self, tries: u32, whole: Duration) {
        let label = if tries >= MANY_TRIES { format!("{MANY_TRIES}+") } else { tries.to_string() };
        self.whole.with(&[&label]).observe_duration(whole);
        self.tries.observe(f64::from(tries));
    }

    /// How many pods wait: active, backing off, unschedulable, gated.
    pub fn pending(&self, counts: [usize; 4]) {
        for (gauge, count) in self.pending.iter().zip(counts) {
            gauge.set(count as f64);
        }
    }

    /// Room is made by taking away so many pods.
    pub fn preempted(&self, victims: usize) {
        self.preemptions.only().inc();
        self.victims.only().observe(victims as f64);
    }
}
