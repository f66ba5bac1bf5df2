//! The way of finished events to what writes or sends them: a queue bounded in bytes.
//!
//! In [`Mode::Blocking`] a request waits until there is room for its event, so that nothing is done unrecorded; in
//! [`Mode::Batch`] what finds no room is lost, counted and told in the log.
//! Whoever may still have something to record holds a [`Sink`]; its worker ends when nobody does. What only might,
//! one day, keeps a [`Door`].
//! Upstream: apiserver/pkg/server/options/audit.go (AuditModes), apiserver/plugin/pkg/audit/buffered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foundation::SharedClock;
use foundation::metrics::{Counter, registry};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of events that wait for a sink.
const ROOM: u32 = 32 << 20;
/// As much again for events whose requests were given up while they waited for room: they are recorded all the same.
const LATE: u32 = ROOM;
/// What an event weighs beside its text.
const OVERHEAD: u32 = 128;
/// How often it is told that events are lost.
const TELL: Duration = Duration::from_secs(60);

/// What happens to an event for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Its request waits.
    #[default]
    Blocking,
    /// It is lost.
    Batch,
}

/// An event on its way: one JSON object without a line break. Its room is free again once it is dropped.
pub(super) struct Queued {
    pub(super) event: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Where finished events go.
#[derive(Clone)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Queued>,
}

/// A way to a [`Sink`] for as long as somebody else holds it.
#[derive(Clone)]
pub(super) struct Door {
    shared: Arc<Shared>,
    queue: mpsc::WeakUnboundedSender<Queued>,
}

struct Shared {
    name: &'static str,
    mode: Mode,
    room: Arc<Semaphore>,
    /// Of those that nobody waits for any more.
    late: Arc<Semaphore>,
    /// All of it.
    most: u32,
    lost: Counter,
    clock: SharedClock,
    /// When it was last told that events are lost.
    told: Mutex<Option<Duration>>,
}

impl Sink {
    /// A sink and the end its worker reads from.
    pub(super) fn new(
        name: &'static str,
        mode: Mode,
        clock: SharedClock,
    ) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        Self::with_room(name, mode, clock, ROOM)
    }

    pub(super) fn with_room(
        name: &'static str,
        mode: Mode,
        clock: SharedClock,
        room: u32,
    ) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let lost = registry().counter(
            "apiserver_audit_error_total",
            "Counter of audit events that failed to be audited properly.",
            &["plugin"],
        );
        // Bounded by the room that each event in it holds.
        let (queue, events) = mpsc::unbounded_channel();
        let (room, most) = (Arc::new(Semaphore::new(room as usize)), room);
        let late = Arc::new(Semaphore::new(LATE as usize));
        let lost = lost.with(&[name]);
        let shared = Shared { name, mode, room, late, most, lost, clock, told: Mutex::default() };
        (Self { shared: Arc::new(shared), queue }, events)
    }

    /// What counts the events that are lost.
    pub(super) fn lost(&self) -> Counter {
        self.shared.lost.clone()
    }

    pub(super) fn door(&self) -> Door {
        Door { shared: self.shared.clone(), queue: self.queue.downgrade() }
    }

    /// Hands an event over; waits for room where the mode says so.
    pub(super) async fn send(&self, event: Bytes) {
        if self.shared.mode == Mode::Batch {
            return self.offer(event);
        }
        let weight = self.shared.weight(&event);
        let mut waiting = Waiting { sink: self, event: Some(event) };
        let room = self.shared.room.clone().acquire_many_owned(weight).await;
        let Some(event) = waiting.event.take() else { return };
        match room {
            Ok(room) => self.push(event, room),
            Err(_) => self.shared.lose(),
        }
    }

    /// Hands an event over, or loses it where there is no room: for those who cannot wait.
    pub(super) fn offer(&self, event: Bytes) {
        match self.shared.room.clone().try_acquire_many_owned(self.shared.weight(&event)) {
            Ok(room) => self.push(event, room),
            Err(_) => self.shared.lose(),
        }
    }

    fn push(&self, event: Bytes, room: OwnedSemaphorePermit) {
        if self.queue.send(Queued { event, _room: room }).is_err() {
            self.shared.lose();
        }
    }
}

/// An event that waits for room. Where its request is given up meanwhile it is handed over at once.
struct Waiting<'a> {
    sink: &'a Sink,
    event: Option<Bytes>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(event) = self.event.take() else { return };
        let shared = &self.sink.shared;
        match shared.late.clone().try_acquire_many_owned(shared.weight(&event)) {
            Ok(room) => self.sink.push(event, room),
            Err(_) => shared.lose(),
        }
    }
}

impl Door {
    /// The sink; `None`: it has ended, which counts as an event lost.
    pub(super) fn open(&self) -> Option<Sink> {
        match self.queue.upgrade() {
            Some(queue) => Some(Sink { shared: self.shared.clone(), queue }),
            None => {
                self.shared.lose();
                None
            }
        }
    }

    /// The sink, to be held against its end.
    pub(super) fn hold(&self) -> Option<Sink> {
        Some(Sink { shared: self.shared.clone(), queue: self.queue.upgrade()? })
    }
}

impl Shared {
    fn lose(&self) {
        self.lost.inc();
        let now = self.clock.monotonic();
        let mut told = self.told.lock();
        if told.is_none_or(|told| now.saturating_sub(told) >= TELL) {
            *told = Some(now);
            tracing::error!(
                sink = self.name,
                "audit events are lost: the sink does not keep up, or has ended"
            );
        }
    }

    /// What an event takes of the room. One that is larger than all of it has to itself what there is.
    fn weight(&self, event: &Bytes) -> u32 {
        u32::try_from(event.len()).unwrap_or(u32::MAX).saturating_add(OVERHEAD).min(self.most)
    }
}
