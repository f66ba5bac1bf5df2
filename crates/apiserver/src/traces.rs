//! Spans of requests, for an OpenTelemetry collector.
//!
//! A request that is sampled gets a span, and what is done for it spans below that: each is opened where the thing is
//! done, by [`span`], and ends when the value is dropped. The span that is open stands in a task-local, so that nothing
//! has to be passed along; without a configuration, or for a request that is not sampled, opening one looks there and
//! does nothing. Spans that ended wait in a bounded queue for [`exporter`]: what does not fit is dropped and counted,
//! and no request ever waits for a collector. Webhooks and other API servers are told of the trace by W3C headers.
//!
//! Not here: what the log tells of slow requests (`filters`).
//! Upstream: component-base/tracing, apiserver/pkg/endpoints/filters/traces.go, apiserver/pkg/server/options/tracing.go.

mod configuration;
mod context;
mod exporter;
mod otlp;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use foundation::metrics::{Counter, registry};
use foundation::{SharedClock, SharedRandomness, Tasks};
use http::HeaderMap;
use tokio::sync::mpsc;

pub use configuration::{Configuration, Endpoint, Error};
pub use context::SpanContext;

use crate::request::{RequestInfo, User};

/// Spans that may wait to be sent (OpenTelemetry's default for a batch processor).
const QUEUE: usize = 2048;
/// The group of those who may say whether their requests are sampled, beside the masters.
const MONITORING: &str = "system:monitoring";

tokio::task_local! {
    static CURRENT: Active;
}

/// The span under which something is done.
#[derive(Clone)]
struct Active {
    tracer: Arc<Tracer>,
    context: SpanContext,
    /// By which the request is found in the audit log.
    audit: Arc<str>,
}

/// What a span's attribute says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Integer(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// Bytes of a text that a span keeps.
const LONGEST_TEXT: usize = 1024;

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something within the server.
    Internal,
    /// A request that is served.
    Server,
    /// A request that is sent.
    Client,
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    context: SpanContext,
    parent: Option<[u8; 8]>,
    /// A trace of the client's own, which the server did not go on with.
    link: Option<SpanContext>,
    name: Cow<'static, str>,
    kind: Kind,
    /// Nanoseconds since 1970.
    start: u64,
    end: u64,
    attributes: Vec<(&'static str, Value)>,
    events: Vec<(u64, &'static str)>,
    /// Whether what it stands for failed.
    failed: bool,
}

impl Ended {
    /// About how many bytes it takes on the wire.
    fn weight(&self) -> usize {
        const SPAN: usize = 128;
        const ENTRY: usize = 24;
        let texts = self.attributes.iter().map(|(name, value)| match value {
            Value::Text(text) => ENTRY + name.len() + text.len(),
            Value::Integer(_) => ENTRY + name.len(),
        });
        let events = self.events.iter().map(|(_, name)| ENTRY + name.len());
        let link = self.link.as_ref().map_or(0, |link| ENTRY + link.state.len());
        SPAN + self.name.len() + self.context.state.len() + link + texts.chain(events).sum::<usize>()
    }
}

/// Decides which requests are sampled, and takes the spans of those.
pub struct Tracer {
    /// Traces whose id, as a number of 63 bits, is below this are sampled.
    below: u64,
    queue: mpsc::Sender<Ended>,
    dropped: Counter,
    clock: SharedClock,
    randomness: SharedRandomness,
}

impl Tracer {
    /// A tracer that sends to the configured collector until the tasks are cancelled.
    ///
    /// # Errors
    /// A text about an endpoint that cannot be one.
    pub fn start(
        configuration: &Configuration,
        instance: &str,
        tasks: &Tasks,
        clock: SharedClock,
        randomness: SharedRandomness,
    ) -> Result<Arc<Self>, String> {
        let collector = otlp::Collector::new(&configuration.endpoint)?;
        let dropped = registry()
            .counter("ironclad_tracing_spans_dropped_total", "Spans that no collector has taken.", &[])
            .only();
        let (queue, spans) = mpsc::channel(QUEUE);
        let resource = otlp::resource(instance);
        let exporter =
            exporter::Exporter { collector, resource, dropped: dropped.clone(), clock: clock.clone() };
        tasks.spawn("trace-exporter", exporter.run(spans, tasks.token()));
        let below = (u128::from(configuration.sampling_rate_per_million) << 63) / 1_000_000;
        // At most 2^63.
        let below = u64::try_from(below).unwrap_or(u64::MAX);
        Ok(Arc::new(Self { below, queue, dropped, clock, randomness }))
    }

    /// Whether a trace with this id is sampled: all servers decide alike.
    fn samples(&self, trace: &[u8; 16]) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&trace[8..]);
        u64::from_be_bytes(low) >> 1 < self.below
    }

    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0)
    }

    fn span_id(&self) -> [u8; 8] {
        self.randomness.u64().max(1).to_be_bytes()
    }

    /// The span of a request that came in `ago` and is now known to be by `user`. Those who may decide about the
    /// sampling go on with the trace that they are in; others begin one, which is linked to theirs.
    pub fn request(
        self: &Arc<Self>,
        head: &http::request::Parts,
        info: &RequestInfo,
        user: &User,
        audit: &str,
        ago: Duration,
    ) -> Span {
        let remote = SpanContext::of(&head.headers);
        let trusted = user.is_in(User::MASTERS) || user.is_in(MONITORING);
        let (context, parent, link) = match remote {
            Some(remote) if trusted => {
                (SpanContext { span: self.span_id(), ..remote.clone() }, Some(remote.span), None)
            }
            remote => {
                let mut trace = [0; 16];
                self.randomness.fill(&mut trace);
                let sampled = self.samples(&trace);
                let context = SpanContext { trace, span: self.span_id(), sampled, state: String::new() };
                (context, None, remote)
            }
        };
        let active = Active { tracer: self.clone(), context, audit: audit.into() };
        let mut span = Span::open(active, parent, request_name(&head.method, info), Kind::Server);
        if let Some(open) = &mut span.recording {
            open.link = link;
            open.start = open.start.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(0));
            let text = |name: http::HeaderName| {
                head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
            };
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
            span.set("http.request.method", head.method.as_str());
            span.set("http.target", target);
            span.set("url.path", head.uri.path());
            span.set("server.address", text(http::header::HOST));
            span.set("user_agent.original", text(http::header::USER_AGENT));
            span.set("network.protocol.version", format!("{:?}", head.version).replace("HTTP/", ""));
            span.set("audit-id", audit);
        }
        span
    }
}

/// The method, and the path with its names left out.
fn request_name(method: &http::Method, info: &RequestInfo) -> Cow<'static, str> {
    if !info.is_resource {
        return method.to_string().into();
    }
    let mut name = format!("{method} /{}", if info.group.is_empty() { "api" } else { "apis" });
    for part in [info.group.as_str(), info.version.as_str()] {
        if !part.is_empty() {
            name.push('/');
            name.push_str(part);
        }
    }
    if !info.namespace.is_empty() {
        name.push_str("/namespaces/{:namespace}");
    }
    name.push('/');
    name.push_str(&info.resource);
    if !info.name.is_empty() {
        name.push_str("/{:name}");
    }
    if !info.subresource.is_empty() {
        name.push('/');
        name.push_str(&info.subresource);
    }
    name.into()
}

/// A span that is open, or nothing. It ends when it is dropped.
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    /// What its children are under; also there when the trace is not sampled, for others to be told.
    active: Option<Active>,
    recording: Option<Box<Ended>>,
}

impl Span {
    /// Nothing.
    pub const NONE: Self = Self { active: None, recording: None };

    fn open(active: Active, parent: Option<[u8; 8]>, name: Cow<'static, str>, kind: Kind) -> Self {
        let recording = active.context.sampled.then(|| {
            let start = active.tracer.nanoseconds();
            Box::new(Ended {
                context: active.context.clone(),
                parent,
                link: None,
                name,
                kind,
                start,
                end: start,
                attributes: Vec::new(),
                events: Vec::new(),
                failed: false,
            })
        });
        Self { active: Some(active), recording }
    }

    /// Whether anybody will see it: what costs something to tell need not be told otherwise.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// Whether it stands for anything, if only for others to be told.
    pub fn is_open(&self) -> bool {
        self.active.is_some()
    }

    /// Notes how a request was answered.
    pub fn answered(&mut self, code: u16) {
        self.set("http.response.status_code", i64::from(code));
        if code >= 500 {
            self.fail();
        }
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.recording {
            let mut value = value.into();
            if let Value::Text(text) = &mut value {
                // Clients write these; spans wait in memory while the collector is away.
                text.truncate(text.floor_char_boundary(LONGEST_TEXT));
                text.shrink_to_fit();
            }
            open.attributes.push((key, value));
        }
    }

    /// Says that what it stands for failed.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.recording {
            open.failed = true;
        }
    }

    /// Notes something that happened now.
    pub fn event(&mut self, name: &'static str) {
        if let (Some(open), Some(active)) = (&mut self.recording, &self.active) {
            open.events.push((active.tracer.nanoseconds(), name));
        }
    }

    /// A part of it that is over: from its start until now.
    pub fn past(&self, name: &'static str) {
        let (Some(open), Some(active)) = (&self.recording, &self.active) else { return };
        let mut span = child(active, name.into(), Kind::Internal);
        if let Some(part) = &mut span.recording {
            part.start = open.start;
        }
    }

    /// Runs something under the span: the spans that it opens are this one's children.
    pub async fn around<F: Future>(&self, future: F) -> F::Output {
        match &self.active {
            // Behind a pointer, so that what runs without tracing is not the larger for it.
            Some(active) => CURRENT.scope(active.clone(), Box::pin(future)).await,
            None => future.await,
        }
    }

    /// Tells whom a request is sent to what trace it belongs to.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some(active) = &self.active {
            active.context.inject(headers);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(mut ended), Some(active)) = (self.recording.take(), &self.active) else { return };
        ended.end = active.tracer.nanoseconds().max(ended.start);
        if active.tracer.queue.try_send(*ended).is_err() {
            active.tracer.dropped.inc();
        }
    }
}

/// Opens a span below the one that is open; nothing if none is.
pub fn span(name: impl Into<Cow<'static, str>>) -> Span {
    CURRENT.try_with(|active| child(active, name.into(), Kind::Internal)).unwrap_or(Span::NONE)
}

/// As [`span`], for a request that is sent.
pub fn calling(method: &http::Method, url: &str) -> Span {
    let name = || format!("HTTP {method}").into();
    let mut span = CURRENT.try_with(|active| child(active, name(), Kind::Client)).unwrap_or(Span::NONE);
    if span.is_recording() {
        span.set("http.request.method", method.as_str());
        span.set("url.full", url);
    }
    span
}

fn child(active: &Active, name: Cow<'static, str>, kind: Kind) -> Span {
    let parent = active.context.span;
    // A trace that is not sampled needs no more than one id to be told.
    let id = if active.context.sampled { active.tracer.span_id() } else { parent };
    let context = SpanContext { span: id, ..active.context.clone() };
    let mut span = Span::open(Active { context, ..active.clone() }, Some(parent), name, kind);
    if kind == Kind::Internal && span.is_recording() {
        span.set("audit-id", &*active.audit);
    }
    span
}

#[cfg(test)]
mod tests;
