//! Audit: who did what, written down as it happens.
//!
//! [`policy`] says which requests are recorded, at which level and stages; a [`Record`] is one request on its way;
//! a sink takes finished events: [`log`] (a file of JSON lines; requests wait for it unless told otherwise) and
//! [`webhook`] (batches to a server, which loses and counts what it cannot keep up with). Sinks outlive the server's
//! tasks by what is still being served.
//!
//! Whoever decides something worth telling about the request that is being served calls [`annotate`]; outside of a
//! recorded request it does nothing.
//! Not here: when the stages are reached (`filters`).
//! Upstream: apiserver/pkg/audit, apiserver/pkg/endpoints/filters/audit.go, apiserver/plugin/pkg/audit.

pub mod log;
pub mod policy;
mod record;
mod sink;
pub mod webhook;

use std::future::Future;
use std::sync::Arc;

use foundation::SharedClock;
use foundation::metrics::{Counter, registry};
use parking_lot::Mutex;

use crate::request::{Attributes, User};
use policy::{Level, Policy};
pub use record::Record;
pub use sink::Mode;
use sink::{Door, Sink};

tokio::task_local! {
    static CURRENT: Arc<Record>;
    /// What is told before there is a record: while it is found out who asks.
    static EARLY: Mutex<Vec<(String, String)>>;
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

/// Records requests.
pub struct Auditor {
    policy: Option<Arc<Policy>>,
    sinks: Vec<Door>,
    clock: SharedClock,
    events: Counter,
    /// By level.
    levels: [Counter; 4],
}

/// Keeps the sinks from ending.
pub struct Hold {
    #[expect(dead_code, reason = "held, not used")]
    sinks: Vec<Sink>,
}

impl Auditor {
    /// Starts the sinks that `options` asks for.
    ///
    /// # Errors
    /// The log cannot be opened, the webhook's settings cannot be used, or there is a policy and neither.
    pub fn new(options: &Options, tasks: &foundation::Tasks, clock: SharedClock) -> Result<Self, String> {
        let mut sinks = Vec::new();
        if let Some(log) = &options.log {
            let (sink, events) = Sink::new("log", log.mode, clock.clone());
            let writer = log::Writer::open(log, clock.clone(), sink.lost())?;
            sinks.push(sink.door());
            tasks.spawn("audit", log::run(writer, events, sink, tasks.token()));
        }
        if let Some(webhook) = &options.webhook {
            let (sink, events) = Sink::new("webhook", Mode::Batch, clock.clone());
            let sender = webhook::Sender::new(webhook, clock.clone(), sink.lost())?;
            sinks.push(sink.door());
            tasks.spawn("audit", webhook::run(sender, events, sink, tasks.token()));
        }
        if options.policy.is_some() && sinks.is_empty() {
            return Err("there is an audit policy, but neither a log nor a webhook for its events".to_owned());
        }
        let policy = options.policy.clone();
        let events = registry().counter(
            "apiserver_audit_event_total",
            "Counter of audit events generated and sent to the audit backend.",
            &[],
        );
        let levels = registry().counter(
            "apiserver_audit_level_total",
            "Requests by how much of them the audit policy has recorded.",
            &["level"],
        );
        let levels = Level::ALL.map(|level| levels.with(&[level.name()]));
        Ok(Self { policy, sinks, clock, events: events.only(), levels })
    }

    /// Whether anything is ever recorded.
    pub fn is_on(&self) -> bool {
        self.policy.is_some()
    }

    /// Lets the sinks go on after the server's tasks were told to end, for what is served until then.
    pub fn hold(&self) -> Hold {
        Hold { sinks: self.sinks.iter().filter_map(Door::hold).collect() }
    }

    /// Begins the record of a request, if the policy wants one, with what was told before.
    pub async fn begin(
        &self,
        attributes: &Attributes,
        seen: Seen<'_>,
        told: Vec<(String, String)>,
    ) -> Option<Arc<Record>> {
        let rule = self.policy.as_ref()?.find(attributes);
        self.levels[rule.level as usize].inc();
        if rule.level == Level::None {
            return None;
        }
        let record =
            Record::new(rule, attributes, seen, self.sinks.clone(), self.clock.clone(), self.events.clone());
        for (key, value) in told {
            record.annotate(&key, &value);
        }
        record.received().await;
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

/// Runs what goes before the record of a request, and gives the annotations that it made for the record to be.
pub(crate) async fn before<F: Future>(future: F) -> (F::Output, Vec<(String, String)>) {
    let told = async {
        let output = future.await;
        let told = EARLY.with(|early| std::mem::take(&mut *early.lock()));
        (output, told)
    };
    EARLY.scope(Mutex::default(), told).await
}

/// Adds an annotation to the record of the request that is being served. The first value of a key stays.
pub fn annotate(key: &str, value: &str) {
    if CURRENT.try_with(|record| record.annotate(key, value)).is_err() {
        let _ = EARLY.try_with(|early| early.lock().push((key.to_owned(), value.to_owned())));
    }
}

/// The same, where requests are recorded at `level` or more.
pub(crate) fn annotate_from(level: Level, key: &str, value: impl FnOnce() -> String) {
    let _ = CURRENT.try_with(|record| {
        if record.level() >= level {
            record.annotate(key, &value());
        }
    });
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

/// Records whom the caller acts as, and the verb that lets them if it is a constrained one.
pub(crate) fn impersonated(user: &User, constraint: Option<&str>) {
    let _ = CURRENT.try_with(|record| record.impersonated(user, constraint));
}

#[cfg(test)]
pub(crate) mod tests;
