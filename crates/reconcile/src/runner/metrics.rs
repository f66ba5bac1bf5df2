//! What a runner counts, under upstream's names. Not here: when something is counted (the runner).
//! Upstream: component-base/metrics/prometheus/workqueue, client-go/util/workqueue/metrics.go.

use std::sync::{Arc, Weak};
use std::time::Duration;

use foundation::SharedClock;
use foundation::metrics::{Counter, Gauge, Histogram, registry};
use parking_lot::Mutex;

const LABELS: &[&str] = &["name"];
/// Upstream's bounds of how long keys wait and are worked on, in seconds.
const BUCKETS: &[f64] = &[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// The counters of one controller.
pub(super) struct Metrics {
    pub(super) adds: Counter,
    pub(super) depth: Gauge,
    pub(super) waited: Histogram,
    pub(super) work: Histogram,
    pub(super) retries: Counter,
    /// When the runs began that have not ended. As many as there are workers at most.
    begun: Arc<Begun>,
}

type Begun = Mutex<Vec<Duration>>;

/// Counts a run as unfinished for as long as it lives.
pub(super) struct Processing {
    begun: Arc<Begun>,
    since: Duration,
}

impl Drop for Processing {
    fn drop(&mut self) {
        let mut begun = self.begun.lock();
        // Two that began at once are the same to whoever reads of them.
        if let Some(at) = begun.iter().position(|since| *since == self.since) {
            begun.swap_remove(at);
        }
    }
}

impl Metrics {
    /// Those of the controller of this name, whose runs are timed by `clock`.
    pub(super) fn of(name: &str, clock: &SharedClock) -> Self {
        let registry = registry();
        let counter = |metric, help| registry.counter(metric, help, LABELS).with(&[name]);
        let histogram = |metric, help| registry.histogram(metric, help, LABELS, BUCKETS).with(&[name]);
        let begun = Arc::default();
        // Asked when the page is: runs that go on are not followed in between.
        let gauge = |metric, help, of: fn(&Begun, Duration) -> Duration| {
            let (begun, clock) = (Arc::downgrade(&begun), clock.clone());
            registry.gauge_callback_with(metric, help, LABELS, &[name], move || {
                let now = clock.monotonic();
                Weak::upgrade(&begun).map_or(0.0, |begun| of(&begun, now).as_secs_f64())
            });
        };
        gauge(
            "workqueue_unfinished_work_seconds",
            "Seconds of work that is being done and is in none of the durations yet.",
            unfinished,
        );
        gauge(
            "workqueue_longest_running_processor_seconds",
            "For how many seconds the longest of the present runs has been going on.",
            longest,
        );
        Self {
            adds: counter("workqueue_adds_total", "Keys added to the queue."),
            depth: registry.gauge("workqueue_depth", "Keys that wait.", LABELS).with(&[name]),
            waited: histogram(
                "workqueue_queue_duration_seconds",
                "How long a key stays in the queue before it is worked on.",
            ),
            work: histogram(
                "workqueue_work_duration_seconds",
                "How long planning and carrying out one key takes.",
            ),
            retries: counter("workqueue_retries_total", "Runs that failed."),
            begun,
        }
    }

    /// Counts a run that began at `since` as unfinished.
    pub(super) fn processing(&self, since: Duration) -> Processing {
        self.begun.lock().push(since);
        Processing { begun: self.begun.clone(), since }
    }
}

fn unfinished(begun: &Begun, now: Duration) -> Duration {
    begun.lock().iter().map(|since| now.saturating_sub(*since)).sum()
}

fn longest(begun: &Begun, now: Duration) -> Duration {
    begun.lock().iter().map(|since| now.saturating_sub(*since)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;

    use super::*;

    #[test]
    fn what_is_being_worked_on_is_told_while_it_is() {
        let manual = Arc::new(ManualClock::default());
        let clock: SharedClock = manual.clone();
        let metrics = Metrics::of("unfinished-test", &clock);
        let told = || {
            let page = registry().render();
            ["unfinished_work", "longest_running_processor"].map(|what| {
                let line = format!("workqueue_{what}_seconds{{name=\"unfinished-test\"}} ");
                page.lines().find_map(|text| text.strip_prefix(&line)?.parse::<f64>().ok())
            })
        };
        assert_eq!(told(), [Some(0.0), Some(0.0)]);
        let first = metrics.processing(clock.monotonic());
        manual.advance(Duration::from_secs(2));
        let second = metrics.processing(clock.monotonic());
        manual.advance(Duration::from_secs(1));
        assert_eq!(told(), [Some(4.0), Some(3.0)]);
        drop(first);
        assert_eq!(told(), [Some(1.0), Some(1.0)]);
        drop(second);
        assert_eq!(told(), [Some(0.0), Some(0.0)]);
    }
}
