//! What priority and fairness counts, under upstream's names.
//! Upstream: apiserver/pkg/util/flowcontrol/metrics.

use std::time::Duration;

use foundation::metrics::{Counter, Family, Gauge, Histogram, LATENCY_BUCKETS, registry};

use super::seats::{Limits, Reason};

const LABELS: &[&str] = &["priority_level", "flow_schema"];

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
        }
    }

    /// Says what a level was given.
    pub(super) fn level(&self, name: &str, limits: &Limits) {
        self.nominal.with(&[name]).set(limits.nominal.into());
        self.lower.with(&[name]).set(limits.lower.into());
        self.upper.with(&[name]).set(limits.upper.into());
    }

    /// The handles of one schema, so that no request looks one up.
    pub(super) fn schema(&self, level: &str, schema: &str) -> SchemaMetrics {
        SchemaMetrics {
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
pub(super) struct InQueue(Gauge);

impl Drop for InQueue {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl SchemaMetrics {
    pub(super) fn waiting(&self) -> InQueue {
        self.inqueue.inc();
        InQueue(self.inqueue.clone())
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
