//! Events: what a component tells the user about an object, deduplicated and bounded as upstream does it.
//!
//! [`EventRecorder::event`] never waits: it hands the event to a task that correlates (`events/correlate.rs`) and writes
//! it. When the API server is slow, at most [`RecorderOptions::queue`] events wait; further ones are counted and dropped, for
//! an event is a courtesy, not a record. Upstream: `client-go/tools/record`.

mod correlate;

use std::sync::Arc;
use std::time::Duration;

use api::meta::ObjectMeta;
use api::meta::Time;
use api::types::core::v1::{Event, EventSource, ObjectReference};
use foundation::metrics::{Counter, registry};
use foundation::{SharedClock, Tasks};
use serde_json::json;
use tokio::sync::mpsc;

use self::correlate::{Correlator, Verdict};
use crate::{Client, Error, ObjectReferenceOf, Patch};

/// Whether the user should worry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// For information.
    Normal,
    /// Something is not as it should be.
    Warning,
}

impl EventType {
    /// As the wire says it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Who reports.
#[derive(Clone, Debug)]
pub struct RecorderOptions {
    /// The component: `kubelet`, `deployment-controller`.
    pub component: String,
    /// The node it runs on, where that matters.
    pub host: Option<String>,
    /// How many events may wait to be written.
    pub queue: usize,
}

impl RecorderOptions {
    /// A component that is not bound to a node.
    pub fn component(component: &str) -> RecorderOptions {
        RecorderOptions { component: component.to_owned(), host: None, queue: 1000 }
    }

    /// A component of a node.
    pub fn on_host(component: &str, host: &str) -> RecorderOptions {
        RecorderOptions { host: Some(host.to_owned()), ..RecorderOptions::component(component) }
    }
}

/// Records events. Cloning is a reference count.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Raw>,
    dropped: Counter,
    source: Arc<RecorderOptions>,
}

/// An event as the component said it.
pub(crate) struct Raw {
    pub(crate) object: ObjectReference,
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
    pub(crate) kind: EventType,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) source: Arc<RecorderOptions>,
}

impl EventRecorder {
    /// A recorder whose events are written by `client`, on a task of `tasks`.
    pub fn new(client: Client, tasks: &Tasks, clock: SharedClock, options: RecorderOptions) -> EventRecorder {
        let (queue, mut events) = mpsc::channel::<Raw>(options.queue);
        let dropped = registry()
            .counter("ironclad_events_dropped_total", "Events that were not written.", &["component"])
            .with(&[&options.component]);
        let writer_dropped = dropped.clone();
        tasks.spawn_until_cancelled("events", async move {
            let mut writer = Writer { client, clock, correlator: Correlator::default() };
            while let Some(raw) = events.recv().await {
                if !writer.write(raw).await {
                    writer_dropped.inc();
                }
            }
        });
        EventRecorder { queue, dropped, source: Arc::new(options) }
    }

    /// The same queue and writer for another component of this process.
    pub fn for_component(&self, component: &str) -> EventRecorder {
        let source = RecorderOptions { component: component.to_owned(), ..(*self.source).clone() };
        EventRecorder { queue: self.queue.clone(), dropped: self.dropped.clone(), source: Arc::new(source) }
    }

    /// Says something about an object.
    pub fn event<O: ObjectReferenceOf>(
        &self,
        object: &O,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_about(object.object_reference(), kind, reason, message);
    }

    /// Says something about what a reference (it may carry a field path, `spec.containers{web}`) points to.
    pub fn event_about(
        &self,
        object: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let raw = Raw {
            object,
            annotations: None,
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            source: self.source.clone(),
        };
        if self.queue.try_send(raw).is_err() {
            self.dropped.inc();
        }
    }
}

/// The task that writes.
struct Writer {
    client: Client,
    clock: SharedClock,
    correlator: Correlator,
}

/// Upstream tries an event twelve times; then the server is not coming back soon enough for it to matter.
const TRIES: u32 = 12;

impl Writer {
    /// Whether the event was written (or folded into one that was).
    async fn write(&mut self, raw: Raw) -> bool {
        let now = self.clock.now();
        let verdict = self.correlator.correlate(&raw, now);
        for attempt in 0..TRIES {
            let outcome = match &verdict {
                Verdict::Drop => return false,
                Verdict::Patch { namespace, name, count, message, .. } => {
                    let patch = Patch::Strategic(json!({
                        "count": count,
                        "lastTimestamp": Time(now),
                        "message": message,
                    }));
                    self.client.patch::<Event>(Some(namespace), name, &patch).await
                }
                Verdict::Create(event) => {
                    self.client.create(event.metadata.namespace.as_deref(), &**event).await
                }
            };
            let outcome = match (outcome, &verdict) {
                // The event outlived its time to live on the server: it begins anew, with its count.
                (Err(error), Verdict::Patch { event, .. }) if error.is_not_found() => {
                    self.client.create(event.metadata.namespace.as_deref(), &**event).await
                }
                (outcome, _) => outcome,
            };
            match outcome {
                Ok(stored) => {
                    self.correlator.stored(&raw, &stored);
                    return true;
                }
                Err(Error::Transport(error)) => {
                    tracing::debug!(%error, attempt, "event not written yet");
                    self.clock.sleep(Duration::from_secs(10)).await;
                }
                // The server understood and refused (the namespace is going, the name is taken): it will again.
                Err(error) => {
                    tracing::debug!(%error, reason = %raw.reason, "event refused");
                    return false;
                }
            }
        }
        false
    }
}

/// The object of a new event.
fn new_event(raw: &Raw, now: jiff::Timestamp, count: i32, message: String, first: jiff::Timestamp) -> Event {
    let namespace = raw.object.namespace.clone().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    // Upstream: the object's name and the time in hexadecimal nanoseconds.
    let name = format!("{}.{:x}", raw.object.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            annotations: raw.annotations.clone(),
            ..ObjectMeta::default()
        },
        involved_object: raw.object.clone(),
        reason: Some(raw.reason.clone()),
        message: Some(message),
        type_: Some(raw.kind.as_str().to_owned()),
        source: Some(EventSource {
            component: Some(raw.source.component.clone()),
            host: raw.source.host.clone(),
        }),
        reporting_component: Some(raw.source.component.clone()),
        reporting_instance: Some(raw.source.host.clone().unwrap_or_default()),
        first_timestamp: Some(Time(first)),
        last_timestamp: Some(Time(now)),
        count: Some(count),
        ..Event::default()
    }
}
