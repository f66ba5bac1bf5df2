//! Streams whose readers have stopped reading are ended.
//!
//! The body of a watch is asked for its next piece only when the connection can take it: by itself it notices neither
//! its timeout nor anything else once its client stops reading, and it would keep alive what it has still to send for
//! as long as the connection lasts. So every piece handed over has to be followed by the question for the next one:
//! where that does not come for [`Readers::new`]'s patience, what the stream holds is dropped, and the connection with it
//! unless other requests share it.
//! One task looks at the streams that have sent something lately; while nothing is sent it sleeps.
//! Not here: how much may wait for a reader (`cache/queue.rs`).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use foundation::{CancellationToken, SharedClock, Tasks};
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Watches over the readers of streams.
#[derive(Clone)]
pub struct Readers {
    active: mpsc::UnboundedSender<Weak<dyn Reader>>,
}

/// A stream as the task sees it.
trait Reader: Send + Sync {
    /// How often the next piece was asked for.
    fn asked(&self) -> u64;
    /// Whether the last question was answered with a piece: then another must follow.
    fn owes(&self) -> bool;
    /// Takes the stream out of the task's sight, unless its reader owes a question.
    fn rest(&self) -> bool;
    /// Drops what the stream holds.
    fn end(&self);
}

struct Slot<S> {
    /// Ends the connection, if it is the reader's alone.
    connection: Option<CancellationToken>,
    stream: Mutex<Option<Pin<Box<S>>>>,
    asked: AtomicU64,
    owes: AtomicBool,
    /// The task knows of it.
    seen: AtomicBool,
}

/// A stream under the eyes of [`Readers`].
pub struct Guarded<S> {
    slot: Arc<Slot<S>>,
    active: mpsc::UnboundedSender<Weak<dyn Reader>>,
}

impl Readers {
    /// Starts the task. A reader that takes nothing for `patience` (at most twice that) has stopped.
    pub fn new(tasks: &Tasks, clock: SharedClock, patience: Duration) -> Self {
        let (active, streams) = mpsc::unbounded_channel();
        tasks.spawn_until_cancelled("unread", look(streams, clock, patience));
        Self { active }
    }

    /// `stream`, which ends when its reader stops, and the connection with it.
    pub fn guard<S>(&self, stream: S, connection: Option<CancellationToken>) -> Guarded<S>
    where
        S: Stream + Send + 'static,
    {
        let slot = Slot {
            connection,
            stream: Mutex::new(Some(Box::pin(stream))),
            asked: AtomicU64::new(0),
            owes: AtomicBool::new(false),
            seen: AtomicBool::new(false),
        };
        Guarded { slot: Arc::new(slot), active: self.active.clone() }
    }
}

async fn look(
    mut streams: mpsc::UnboundedReceiver<Weak<dyn Reader>>,
    clock: SharedClock,
    patience: Duration,
) {
    let mut active: Vec<(Weak<dyn Reader>, u64)> = Vec::new();
    loop {
        if active.is_empty() {
            let Some(first) = streams.recv().await else { return };
            note(&mut active, first);
        }
        clock.sleep(patience).await;
        active.retain_mut(|(reader, before)| {
            let Some(reader) = reader.upgrade() else { return false };
            let asked = reader.asked();
            if reader.owes() && asked == *before {
                tracing::info!("a watch was ended: its client does not read");
                reader.end();
                return false;
            }
            *before = asked;
            !reader.rest()
        });
        while let Ok(next) = streams.try_recv() {
            note(&mut active, next);
        }
    }
}

fn note(active: &mut Vec<(Weak<dyn Reader>, u64)>, reader: Weak<dyn Reader>) {
    if let Some(asked) = reader.upgrade().map(|reader| reader.asked()) {
        active.push((reader, asked));
    }
}

impl<S: Stream + Send + 'static> Reader for Slot<S> {
    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn owes(&self) -> bool {
        self.owes.load(Ordering::SeqCst)
    }

    fn rest(&self) -> bool {
        if self.owes() {
            return false;
        }
        self.seen.store(false, Ordering::SeqCst);
        // A piece that was handed over meanwhile saw the mark still set, and did not announce itself.
        !(self.owes() && !self.seen.swap(true, Ordering::SeqCst))
    }

    fn end(&self) {
        let stream = self.stream.lock().take();
        drop(stream);
        if let Some(connection) = &self.connection {
            connection.cancel();
        }
    }
}

impl<S: Stream + Send + 'static> Stream for Guarded<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let slot = &self.slot;
        slot.owes.store(false, Ordering::SeqCst);
        slot.asked.fetch_add(1, Ordering::SeqCst);
        let mut stream = slot.stream.lock();
        let Some(inner) = stream.as_mut() else { return Poll::Ready(None) };
        let polled = inner.as_mut().poll_next(context);
        match &polled {
            Poll::Ready(Some(_)) => {
                drop(stream);
                slot.owes.store(true, Ordering::SeqCst);
                if !slot.seen.swap(true, Ordering::SeqCst) {
                    let reader: Arc<dyn Reader> = slot.clone();
                    // The task is gone only when the server is.
                    let _ = self.active.send(Arc::downgrade(&reader));
                }
            }
            Poll::Ready(None) => *stream = None,
            Poll::Pending => {}
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;
    use futures::StreamExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A stream of numbers without end, and what shows that it still holds something.
    fn numbers() -> (impl Stream<Item = u64> + Send + 'static, Weak<()>) {
        let held = Arc::new(());
        let weak = Arc::downgrade(&held);
        let stream = futures::stream::iter(0_u64..).map(move |n| {
            let _ = &held;
            n
        });
        (stream, weak)
    }

    #[tokio::test]
    async fn a_stream_is_ended_when_its_reader_stops_and_not_before() {
        let (tasks, clock) = (Tasks::new("test"), ManualClock::default());
        let readers = Readers::new(&tasks, Arc::new(clock.clone()), PATIENCE);
        let (stuck, held_by_stuck) = numbers();
        let (good, held_by_good) = numbers();
        let (of_stuck, of_good) = (CancellationToken::new(), CancellationToken::new());
        let mut stuck = readers.guard(stuck, Some(of_stuck.clone()));
        let mut good = readers.guard(good, Some(of_good.clone()));
        // Nothing was asked of this one: it owes nothing.
        let (silent, held_by_silent) = numbers();
        let silent = readers.guard(silent, None);
        assert_eq!(stuck.next().await, Some(0));
        for round in 0..3 {
            clock.wait_for_sleepers(1).await;
            assert_eq!(good.next().await, Some(round));
            clock.advance(PATIENCE);
        }
        clock.wait_for_sleepers(1).await;
        assert!(held_by_stuck.upgrade().is_none(), "what was to be sent is gone");
        assert!(of_stuck.is_cancelled() && !of_good.is_cancelled());
        assert_eq!(stuck.next().await, None);
        assert_eq!(good.next().await, Some(3));
        assert!(held_by_good.upgrade().is_some() && held_by_silent.upgrade().is_some());
        drop(silent);
        // A reader that waits for the next piece owes nothing, and nobody looks at it any more.
        drop(good);
        let mut idle = readers.guard(futures::stream::iter([1]).chain(futures::stream::pending()), None);
        assert_eq!(idle.next().await, Some(1));
        assert!(futures::poll!(idle.next()).is_pending());
        for _ in 0..4 {
            if clock.next_deadline().is_none() {
                break;
            }
            clock.advance(PATIENCE);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(clock.next_deadline(), None, "nothing to look at");
        assert!(futures::poll!(idle.next()).is_pending());
    }
}
