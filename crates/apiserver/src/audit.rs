//! Audit: who did what, written down as it happens.
//!
//! [`policy`] says which requests are recorded, at which level and stages; a [`Record`] is one request on its way;
//! a [`Sink`] takes finished events: [`log`] (a file of JSON lines) and [`webhook`] (batches to a server). Events are
//! handed over without waiting: a sink that cannot keep up loses events and counts them.
//!
//! Whoever decides something worth telling about the request that is being served calls [`annotate`]; outside of a
//! recorded request it does nothing.
//! Not here: when the stages are reached (`filters`).
//! Upstream: apiserver/pkg/audit, apiserver/pkg/endpoints/filters/audit.go, apiserver/plugin/pkg/audit.

pub mod log;
pub mod policy;
mod record;
pub mod webhook;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use foundation::SharedClock;
use foundation::metrics::{Counter, Family, registry};
use tokio::sync::mpsc;

use crate::request::{Attributes, User};
use policy::{Level, Policy};
pub use record::Record;

/// Events that wait for a sink (upstream: `--audit-log-batch-buffer-size`).
const BUFFER: usize = 10_000;

tokio::task_local! {
    static CURRENT: Arc<Record>;
}

/// What is recorded, and where to.
#[derive(Clone, Default)]
pub struct Options {
    /// What is recorded. `None`: nothing.
    pub policy: Option<Arc<Policy>>,
    /// The file to write to.
    pub log: Option<log::Options>,
    /// The server to send to.
    pub webhook: Option<webhook::Options>,
}

/// Where finished events go: each is one JSON object without a line break.
#[derive(Clone)]
pub struct Sink {
    name: &'static str,
    queue: mpsc::Sender<Bytes>,
    dropped: Family<Counter>,
}

impl Sink {
    /// A sink and the end its worker reads from.
    fn new(name: &'static str) -> (Self, mpsc::Receiver<Bytes>) {
        let (queue, events) = mpsc::channel(BUFFER);
        let dropped = registry().counter(
            "apiserver_audit_error_total",
            "Counter of audit events that failed to be audited properly.",
            &["plugin"],
        );
        (Self { name, queue, dropped }, events)
    }

    fn send(&self, event: Bytes) {
        if self.queue.try_send(event).is_err() {
            self.dropped.with(&[self.name]).inc();
        }
    }
}

/// Records requests.
pub struct Auditor {
    policy: Option<Arc<Policy>>,
    sinks: Vec<Sink>,
    clock: SharedClock,
    events: Counter,
}

impl Auditor {
    /// Starts the sinks that `options` asks for.
    ///
    /// # Errors
    /// The log cannot be opened, or the webhook's settings cannot be used.
    pub fn new(options: &Options, tasks: &foundation::Tasks, clock: SharedClock) -> Result<Self, String> {
        let mut sinks = Vec::new();
        if let Some(log) = &options.log {
            let (sink, events) = Sink::new("log");
            let writer = log::Writer::open(log, clock.clone())?;
            let token = tasks.token();
            tasks.spawn("audit", log::run(writer, events, token));
            sinks.push(sink);
        }
        if let Some(webhook) = &options.webhook {
            let (sink, events) = Sink::new("webhook");
            let sender = webhook::Sender::new(webhook, clock.clone(), sink.dropped.with(&["webhook"]))?;
            let token = tasks.token();
            tasks.spawn("audit", webhook::run(sender, events, token));
            sinks.push(sink);
        }
        let policy = options.policy.clone().filter(|_| !sinks.is_empty());
        let events = registry().counter(
            "apiserver_audit_event_total",
            "Counter of audit events generated and sent to the audit backend.",
            &[],
        );
        Ok(Self { policy, sinks, clock, events: events.only() })
    }

    /// Whether anything is ever recorded.
    pub fn is_on(&self) -> bool {
        self.policy.is_some()
    }

    /// Begins the record of a request, if the policy wants one.
    pub fn begin(&self, attributes: &Attributes, seen: Seen<'_>) -> Option<Arc<Record>> {
        let rule = self.policy.as_ref()?.find(attributes);
        if rule.level == Level::None {
            return None;
        }
        let record =
            Record::new(rule, attributes, seen, self.sinks.clone(), self.clock.clone(), self.events.clone());
        record.received();
        Some(Arc::new(record))
    }
}

/// What is seen of a request beside its meaning.
pub struct Seen<'a> {
    /// Its id, which the answer carries too.
    pub id: &'a str,
    /// Method, URI and headers.
    pub head: &'a http::request::Parts,
    /// Where it came from; `None`: from within the process.
    pub remote: Option<std::net::IpAddr>,
    /// When it came.
    pub at: jiff::Timestamp,
}

/// Serves a request under its record.
pub async fn scope<F: Future>(record: Option<Arc<Record>>, future: F) -> F::Output {
    match record {
        Some(record) => CURRENT.scope(record, future).await,
        None => future.await,
    }
}

/// Adds an annotation to the record of the request that is being served. The first value of a key stays.
pub fn annotate(key: &str, value: &str) {
    let _ = CURRENT.try_with(|record| record.annotate(key, value));
}

/// Adds annotations, keys and values, to the record of the request that is being served.
pub fn annotate_all(annotations: &[(String, String)]) {
    for (key, value) in annotations {
        annotate(key, value);
    }
}

/// Records the object that was sent, as the server read it.
pub(crate) fn request_object(object: &serde_json::Value) {
    let _ = CURRENT.try_with(|record| record.request_object(object));
}

/// Records the body that was sent, where it is JSON.
pub(crate) fn request_body(body: &[u8]) {
    let _ = CURRENT.try_with(|record| {
        if record.wants_request()
            && let Ok(value) = serde_json::from_slice(body)
        {
            record.request_object(&value);
        }
    });
}

/// Records whom the caller acts as.
pub(crate) fn impersonated(user: &User) {
    let _ = CURRENT.try_with(|record| record.impersonated(user));
}

#[cfg(test)]
mod tests;
