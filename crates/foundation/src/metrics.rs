//! Counters, gauges and histograms, and their rendering as Prometheus text (exposition format 0.0.4).
//!
//! A family is registered where it is counted; asking for a name again gives the same family. Counting
//! is one atomic operation on a handle ([`Counter`], …), which hot paths keep. Not here: the HTTP
//! endpoint, and metrics about the process that only the operating system knows.

mod family;
mod render;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

pub use family::Family;

/// Upper bounds in seconds that suit request latencies, from half a millisecond to a minute.
pub const LATENCY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

static GLOBAL: LazyLock<Registry> = LazyLock::new(Registry::new);

/// The registry of this process.
pub fn registry() -> &'static Registry {
    &GLOBAL
}

/// A set of metric families, by name.
#[derive(Default)]
pub struct Registry(RwLock<BTreeMap<&'static str, Entry>>);

struct Entry {
    help: &'static str,
    metric: Metric,
}

#[derive(Clone)]
enum Metric {
    Counter(Family<Counter>),
    Gauge(Family<Gauge>),
    Histogram(Family<Histogram>),
    /// Asked at each rendering.
    Callback {
        kind: &'static str,
        value: Value,
    },
    /// The same, by the values of labels.
    Callbacks(Callbacks),
}

type Value = Arc<dyn Fn() -> f64 + Send + Sync>;

#[derive(Clone)]
struct Callbacks {
    labels: &'static [&'static str],
    children: Arc<RwLock<BTreeMap<Vec<String>, Value>>>,
}

impl Registry {
    /// A registry of its own, for tests; a process uses [`registry`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter family `name`, made now if it is new.
    ///
    /// # Panics
    /// When `name` is already a metric of another type or with other labels: two places in the code
    /// disagree.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Counter> {
        match self.entry(name, help, || Metric::Counter(Family::new(labels, Counter::default))) {
            Metric::Counter(family) if family.labels() == labels => family,
            _ => panic!("metric {name} is registered twice in different ways"),
        }
    }

    /// The gauge family `name`, made now if it is new.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Gauge> {
        match self.entry(name, help, || Metric::Gauge(Family::new(labels, Gauge::default))) {
            Metric::Gauge(family) if family.labels() == labels => family,
            _ => panic!("metric {name} is registered twice in different ways"),
        }
    }

    /// The histogram family `name` with the given upper bounds (ascending, without infinity), made now
    /// if it is new; the bounds of the first registration hold.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Family<Histogram> {
        let make = || Metric::Histogram(Family::new(labels, move || Histogram::new(bounds)));
        match self.entry(name, help, make) {
            Metric::Histogram(family) if family.labels() == labels => family,
            _ => panic!("metric {name} is registered twice in different ways"),
        }
    }

    /// A gauge without labels whose value is asked at each rendering, so that it costs nothing between.
    /// The latest registration of a name holds.
    pub fn gauge_callback<F>(&self, name: &'static str, help: &'static str, value: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.callback(name, help, "gauge", value);
    }

    /// As [`Registry::gauge_callback`], for one combination of the values of labels.
    ///
    /// # Panics
    /// As [`Registry::counter`].
    pub fn gauge_callback_with<F>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        values: &[&str],
        value: F,
    ) where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        let make = || Metric::Callbacks(Callbacks { labels, children: Arc::default() });
        match self.entry(name, help, make) {
            Metric::Callbacks(known) if known.labels == labels && values.len() == labels.len() => {
                let values = values.iter().map(|value| (*value).to_owned()).collect();
                known.children.write().insert(values, Arc::new(value));
            }
            _ => panic!("metric {name} is registered twice in different ways"),
        }
    }

    /// As [`Registry::gauge_callback`], for a number that only grows.
    pub fn counter_callback<F>(&self, name: &'static str, help: &'static str, value: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        self.callback(name, help, "counter", value);
    }

    fn callback<F>(&self, name: &'static str, help: &'static str, kind: &'static str, value: F)
    where
        F: Fn() -> f64 + Send + Sync + 'static,
    {
        let metric = Metric::Callback { kind, value: Arc::new(value) };
        self.0.write().insert(name, Entry { help, metric });
    }

    /// Every metric as Prometheus text, sorted by name.
    pub fn render(&self) -> String {
        self.render_where(|_| true)
    }

    /// The metrics whose names are wanted: one process can be several components, each with a page of its own.
    pub fn render_where(&self, wanted: impl Fn(&str) -> bool) -> String {
        let known = self.0.read();
        let entries: Vec<_> = known
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, entry)| (*name, entry.help, entry.metric.clone()))
            .collect();
        // A callback may register something.
        drop(known);
        let mut out = String::new();
        for (name, help, metric) in entries {
            render::metric(&mut out, name, help, &metric);
        }
        out
    }

    fn entry(&self, name: &'static str, help: &'static str, make: impl FnOnce() -> Metric) -> Metric {
        if let Some(entry) = self.0.read().get(name) {
            return entry.metric.clone();
        }
        self.0.write().entry(name).or_insert_with(|| Entry { help, metric: make() }).metric.clone()
    }
}

/// A number that only grows.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds to the value; negative amounts take away.
    pub fn add(&self, amount: f64) {
        add(&self.0, amount);
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// One less.
    pub fn dec(&self) {
        self.add(-1.0);
    }

    /// The value now.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How often values fell below each bound, with their sum.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    /// One per bound and one for everything above; not cumulative.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0) }))
    }

    /// Counts one value.
    pub fn observe(&self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Counts a value that was seen so many times.
    pub fn observe_times(&self, value: f64, times: u64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(times, Ordering::Relaxed);
        add(&self.0.sum, value * times as f64);
    }

    /// Counts a duration in seconds.
    pub fn observe_duration(&self, duration: std::time::Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

fn add(bits: &AtomicU64, amount: f64) {
    // `fetch_update` only fails when the closure returns `None`.
    let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
        Some((f64::from_bits(bits) + amount).to_bits())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_family() {
        let registry = Registry::new();
        registry.counter("requests_total", "Requests.", &["verb"]).with(&["get"]).inc();
        registry.counter("requests_total", "Requests.", &["verb"]).with(&["get"]).add(2);
        assert_eq!(registry.counter("requests_total", "Requests.", &["verb"]).with(&["get"]).get(), 3);
    }

    #[test]
    #[should_panic(expected = "registered twice")]
    fn a_name_has_one_type() {
        let registry = Registry::new();
        registry.counter("x", "X.", &[]);
        registry.gauge("x", "X.", &[]);
    }
}
