//! What priority and fairness counts, under upstream's names.
//! Upstream: apiserver/pkg/util/flowcontrol/metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Gauge, Histogram, LATENCY_BUCKETS, registry};
use parking_lot::Mutex;

use super::seats::{LevelId, Limits, Reason};
use super::utilization::Utilization;

const LABELS: &[&str] = &["priority_level", "flow_schema"];
/// Upstream's bounds of the shares of seats in use: those near 1 show that there are no more.
const SHARES: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
/// Upstream's bounds of the lengths of queues.
const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// The families.
pub(super) struct Metrics {
    rejected: Family<Counter>,
    dispatched: Family<Counter>,
    inqueue: Family<Gauge>,
    executing: Family<Gauge>,
    seats: Family<Gauge>,
    wait: Family<Histogram>,
    execution: Family<Histogram>,
    estimated: Family<Histogram>,
    nominal: Family<Gauge>,
    lower: Family<Gauge>,
    upper: Family<Gauge>,
    limit: Family<Gauge>,
    shares: Family<Histogram>,
    lengths: Family<Histogram>,
    /// Of reads and of writes, whatever their level.
    queued: [Gauge; 2],
    levels: Mutex<BTreeMap<LevelId, Arc<Utilization>>>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let r = registry();
        Self {
            rejected: r.counter(
                "apiserver_flowcontrol_rejected_requests_total",
                "Number of requests rejected by API Priority and Fairness.",
                &["priority_level", "flow_schema", "reason"],
            ),
            dispatched: r.counter(
                "apiserver_flowcontrol_dispatched_requests_total",
                "Number of requests executed by API Priority and Fairness.",
                LABELS,
            ),
            inqueue: r.gauge(
                "apiserver_flowcontrol_current_inqueue_requests",
                "Number of requests currently pending in queues of API Priority and Fairness.",
                LABELS,
            ),
            executing: r.gauge(
                "apiserver_flowcontrol_current_executing_requests",
                "Number of requests being executed under API Priority and Fairness.",
                LABELS,
            ),
            seats: r.gauge(
                "apiserver_flowcontrol_current_executing_seats",
                "Seats held by the requests being executed under API Priority and Fairness.",
                LABELS,
            ),
            wait: r.histogram(
                "apiserver_flowcontrol_request_wait_duration_seconds",
                "Length of time a request spent waiting in its queue.",
                &["priority_level", "flow_schema", "execute"],
                LATENCY_BUCKETS,
            ),
            execution: r.histogram(
                "apiserver_flowcontrol_request_execution_seconds",
                "Duration of the execution of requests under API Priority and Fairness.",
                LABELS,
                LATENCY_BUCKETS,
            ),
            estimated: r.histogram(
                "apiserver_flowcontrol_work_estimated_seats",
                "Number of estimated seats (maximum of initial and final seats) associated with requests.",
                LABELS,
                &[1.0, 2.0, 4.0, 10.0],
            ),
            nominal: r.gauge(
                "apiserver_flowcontrol_nominal_limit_seats",
                "Nominal number of execution seats configured for each priority level.",
                &["priority_level"],
            ),
            lower: r.gauge(
                "apiserver_flowcontrol_lower_limit_seats",
                "Configured lower bound on number of execution seats of each priority level.",
                &["priority_level"],
            ),
            upper: r.gauge(
                "apiserver_flowcontrol_upper_limit_seats",
                "Configured upper bound on number of execution seats of each priority level.",
                &["priority_level"],
            ),
            limit: r.gauge(
                "apiserver_flowcontrol_current_limit_seats",
                "How many seats each priority level may have now, with what others do not use.",
                &["priority_level"],
            ),
            shares: r.histogram(
                "apiserver_flowcontrol_priority_level_seat_utilization",
                "The share of its seats that each priority level used, observed at the end of every nanosecond.",
                &["phase", "priority_level"],
                SHARES,
            ),
            lengths: r.histogram(
                "apiserver_flowcontrol_request_queue_length_after_enqueue",
                "How many requests were in a queue with the one that joined it.",
                LABELS,
                LENGTHS,
            ),
            queued: ["readOnly", "mutating"].map(|kind| {
                let queued = r.gauge(
                    "apiserver_current_inqueue_requests",
                    "Number of requests that wait for their turn, by kind of request.",
                    &["request_kind"],
                );
                queued.with(&[kind])
            }),
            levels: Mutex::default(),
        }
    }

    /// The seats in use of every level that is or was configured.
    pub(super) fn levels(&self) -> Vec<(LevelId, Arc<Utilization>)> {
        self.levels.lock().iter().map(|(id, level)| (*id, level.clone())).collect()
    }

    /// Says what a level was given.
    pub(super) fn level(&self, id: LevelId, name: &str, limits: &Limits) {
        let shares = || self.shares.with(&["executing", name]);
        let level = || Arc::new(Utilization::new(shares(), self.limit.with(&[name])));
        self.levels.lock().entry(id).or_insert_with(level);
        self.nominal.with(&[name]).set(limits.nominal.into());
        self.lower.with(&[name]).set(limits.lower.into());
        self.upper.with(&[name]).set(limits.upper.into());
    }

    /// The handles of one schema of a level that is known, so that no request looks one up.
    pub(super) fn schema(&self, id: LevelId, level: &str, schema: &str) -> SchemaMetrics {
        SchemaMetrics {
            level: self.levels.lock().get(&id).cloned(),
            lengths: self.lengths.with(&[level, schema]),
            queued: self.queued.clone(),
            dispatched: self.dispatched.with(&[level, schema]),
            inqueue: self.inqueue.with(&[level, schema]),
            executing: self.executing.with(&[level, schema]),
            seats: self.seats.with(&[level, schema]),
            waited: self.wait.with(&[level, schema, "true"]),
            execution: self.execution.with(&[level, schema]),
            estimated: self.estimated.with(&[level, schema]),
            wait: self.wait.clone(),
            rejected: self.rejected.clone(),
            labels: [level.to_owned(), schema.to_owned()],
        }
    }
}

/// The handles of one schema.
pub(super) struct SchemaMetrics {
    level: Option<Arc<Utilization>>,
    lengths: Histogram,
    queued: [Gauge; 2],
    dispatched: Counter,
    inqueue: Gauge,
    executing: Gauge,
    seats: Gauge,
    waited: Histogram,
    execution: Histogram,
    estimated: Histogram,
    wait: Family<Histogram>,
    rejected: Family<Counter>,
    labels: [String; 2],
}

/// Counts a request that waits, for as long as it does.
pub(super) struct InQueue([Gauge; 2]);

impl Drop for InQueue {
    fn drop(&mut self) {
        self.0.iter().for_each(Gauge::dec);
    }
}

impl SchemaMetrics {
    /// A request waits from now on, in a queue of so many.
    pub(super) fn waiting(&self, reads: bool, queue: usize) -> InQueue {
        self.lengths.observe(queue as f64);
        let gauges = [self.inqueue.clone(), self.queued[usize::from(!reads)].clone()];
        gauges.iter().for_each(Gauge::inc);
        InQueue(gauges)
    }

    /// From `now` on so many seats of so many of the level are used.
    pub(super) fn used(&self, now: Duration, used: u32, limit: u32) {
        if let Some(level) = &self.level {
            level.moved(now, used, limit);
        }
    }

    pub(super) fn waited(&self, runs: bool, time: Duration) {
        let [level, schema] = &self.labels;
        match runs {
            true => self.waited.observe_duration(time),
            false => self.wait.with(&[level, schema, "false"]).observe_duration(time),
        }
    }

    pub(super) fn started(&self, width: u32) {
        self.dispatched.inc();
        self.executing.inc();
        self.seats.add(width.into());
    }

    pub(super) fn estimated(&self, seats: u32) {
        self.estimated.observe(seats.into());
    }

    pub(super) fn ended(&self, took: Duration) {
        self.executing.dec();
        self.execution.observe_duration(took);
    }

    pub(super) fn released(&self, seats: u32) {
        self.seats.add(-f64::from(seats));
    }

    pub(super) fn rejected(&self, reason: Reason) {
        let reason = match reason {
            Reason::QueueFull => "queue-full",
            Reason::ConcurrencyLimit => "concurrency-limit",
            Reason::TimeOut => "time-out",
        };
        let [level, schema] = &self.labels;
        self.rejected.with(&[level, schema, reason]).inc();
    }
}
