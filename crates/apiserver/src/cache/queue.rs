//! The changes on their way to one watcher: bounded in number and in bytes, and let go at once where it is too slow.
//!
//! Not here: whom a change concerns (`watchers`).
//! Upstream: apiserver/pkg/storage/cacher/cache_watcher.go (forget, closeInput).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::Change;

/// Changes a watcher may be behind before it is cut off. The queue allocates as it fills.
const CHANGES: usize = 8_192;
/// Bytes that these may keep alive; one change may always wait.
const BYTES: usize = 32 << 20;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    changes: VecDeque<Arc<Change>>,
    /// The sum of [`Change::weight`].
    bytes: usize,
    /// Nothing more comes: the watcher was cut off, or has gone, or the cache is closed.
    ended: bool,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It waits for the reader.
    Queued,
    /// The reader has gone.
    Gone,
    /// The reader is cut off by this: too much waits for it already.
    Late,
}

/// Where changes are put in.
#[derive(Debug)]
pub(super) struct Sender(Arc<Shared>);

/// Where they come out, in order.
#[derive(Debug)]
pub struct Receiver(Arc<Shared>);

pub(super) fn queue() -> (Sender, Receiver) {
    let shared = Arc::<Shared>::default();
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.state.lock().ended
    }

    /// Puts a change in. What a reader that is cut off did not read is dropped.
    pub(super) fn send(&self, change: &Arc<Change>) -> Sent {
        let weight = change.weight();
        let mut state = self.0.state.lock();
        if state.ended {
            return Sent::Gone;
        }
        let waiting = state.changes.len();
        let late = waiting >= CHANGES || (waiting > 0 && state.bytes + weight > BYTES);
        let dropped = if late {
            state.end()
        } else {
            state.bytes += weight;
            state.changes.push_back(change.clone());
            VecDeque::new()
        };
        drop(state);
        self.0.reader.wake();
        drop(dropped);
        if late { Sent::Late } else { Sent::Queued }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // What is there may still be read.
        self.0.state.lock().ended = true;
        self.0.reader.wake();
    }
}

impl Receiver {
    /// The next change; `None`: there will be no more.
    pub async fn recv(&mut self) -> Option<Arc<Change>> {
        std::future::poll_fn(|context| {
            let mut state = self.0.state.lock();
            if let Some(change) = state.take() {
                return Poll::Ready(Some(change));
            }
            if state.ended {
                return Poll::Ready(None);
            }
            // Under the lock, so that no change comes in between.
            self.0.reader.register(context.waker());
            Poll::Pending
        })
        .await
    }

    /// The next change, if one is there.
    pub fn take(&mut self) -> Option<Arc<Change>> {
        self.0.state.lock().take()
    }

    /// Whether no change waits.
    pub fn is_empty(&self) -> bool {
        self.0.state.lock().changes.is_empty()
    }

    /// Whether nothing waits and nothing more will come.
    pub fn has_ended(&self) -> bool {
        let state = self.0.state.lock();
        state.ended && state.changes.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let dropped = self.0.state.lock().end();
        drop(dropped);
    }
}

impl State {
    fn take(&mut self) -> Option<Arc<Change>> {
        let change = self.changes.pop_front()?;
        self.bytes -= change.weight();
        Some(change)
    }

    /// Ends the queue; gives what was in it, to be dropped outside of the lock.
    fn end(&mut self) -> VecDeque<Arc<Change>> {
        self.ended = true;
        self.bytes = 0;
        std::mem::take(&mut self.changes)
    }
}
