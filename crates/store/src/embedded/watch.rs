//! Watchers: who is waiting for which keys, and the streams that read the history for them.
//!
//! A stream holds no events: it reads from the history at its own pace, a bounded piece at a time, so a
//! slow one costs neither the writer nor memory, and is told [`Error::Compacted`] if it falls behind the
//! history. The writer only leaves a note: the first revision that concerns the watcher.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Memory;
use super::mvcc::Change;
use crate::error::Error;
use crate::types::{Revision, WatchBatch, WatchRequest};
use crate::{WatchStream, embedded::State};

/// About how many events a batch holds; more only if a single revision has more.
const BATCH: usize = 256;
/// Changes looked at under one lock.
const STEPS: usize = 2048;

/// Every watcher.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Arc<Watcher>>>);

struct Watcher {
    start: Bytes,
    end: Bytes,
    progress: bool,
    note: Mutex<Note>,
    wake: Notify,
}

/// What the writer has to say.
struct Note {
    /// The first revision with a wanted change that the stream has not been told of.
    first: Option<Revision>,
    /// The writer has told about everything up to here.
    told: Revision,
    /// Why the stream is to end.
    ended: Option<Error>,
}

impl Watcher {
    fn wants(&self, key: &[u8]) -> bool {
        *self.start <= *key && (self.end.is_empty() || *key < *self.end)
    }
}

impl Watchers {
    /// Tells the watchers what has become durable, up to `revision`.
    pub fn publish(&self, changes: &[Change], revision: Revision) {
        for watcher in &*self.0.lock() {
            let first = changes.iter().find(|change| watcher.wants(&change.record.key));
            let mut note = watcher.note.lock();
            note.told = revision;
            if let Some(change) = first {
                note.first.get_or_insert(change.record.mod_revision);
            } else if !watcher.progress {
                continue;
            }
            drop(note);
            watcher.wake.notify_one();
        }
    }

    /// Has every stream look anew, after the whole state has been replaced by one of `revision`.
    pub fn replaced(&self, revision: Revision) {
        for watcher in &*self.0.lock() {
            let mut note = watcher.note.lock();
            note.told = revision;
            note.first.get_or_insert(0);
            drop(note);
            watcher.wake.notify_one();
        }
    }

    /// Ends every stream that is open now.
    pub fn end(&self, why: &Error) {
        for watcher in &*self.0.lock() {
            watcher.note.lock().ended.get_or_insert_with(|| why.clone());
            watcher.wake.notify_one();
        }
    }

    /// Ends every stream, because the store does.
    pub fn close(&self) {
        self.end(&Error::Unavailable("the store is shut down"));
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// Starts a watch.
pub(super) fn open(memory: &Arc<Memory>, request: WatchRequest) -> Result<WatchStream, Error> {
    let watcher = Arc::new(Watcher {
        start: request.start,
        end: request.end,
        progress: request.progress,
        note: Mutex::new(Note { first: None, told: 0, ended: None }),
        wake: Notify::new(),
    });
    // Registered before the revision is read, so that nothing falls between.
    memory.watchers.0.lock().push(watcher.clone());
    let mut stream = Stream {
        memory: memory.clone(),
        watcher,
        prev_kv: request.prev_kv,
        next: request.start_revision,
        reported: request.start_revision.saturating_sub(1),
        behind: request.start_revision != 0,
        ended: false,
    };
    let (revision, compact_revision) = {
        let State { mvcc, .. } = &*memory.read()?;
        (mvcc.revision, mvcc.compact_revision)
    };
    if memory.is_closed() {
        return Err(Error::Unavailable("the store is shut down"));
    }
    if request.start_revision == 0 {
        stream.next = revision + 1;
        stream.reported = revision;
    } else if request.start_revision < compact_revision {
        return Err(Error::Compacted { revision: compact_revision });
    }
    let stream = futures::stream::unfold(stream, |mut stream| async move {
        let item = stream.next().await?;
        stream.ended = item.is_err();
        Some((item, stream))
    });
    Ok(stream.boxed())
}

struct Stream {
    memory: Arc<Memory>,
    watcher: Arc<Watcher>,
    prev_kv: bool,
    /// The first revision not yet looked at.
    next: Revision,
    /// The revision of the last batch delivered.
    reported: Revision,
    /// The history may hold wanted changes from `next` on.
    behind: bool,
    ended: bool,
}

/// What a look at the history gives.
enum Found {
    Batch(WatchBatch),
    Nothing,
    /// There is no history now.
    Replacing,
}

impl Stream {
    async fn next(&mut self) -> Option<Result<WatchBatch, Error>> {
        if self.ended {
            return None;
        }
        loop {
            let told = {
                let mut note = self.watcher.note.lock();
                if let Some(why) = note.ended.take() {
                    return Some(Err(why));
                }
                if let Some(first) = note.first.take() {
                    if !self.behind {
                        // Nothing between concerns this watcher.
                        self.next = self.next.max(first);
                    }
                    self.behind = true;
                }
                note.told
            };
            if self.behind {
                match self.read() {
                    Err(error) => return Some(Err(error)),
                    Ok(Found::Batch(batch)) => return Some(Ok(batch)),
                    Ok(Found::Nothing) => {}
                    Ok(Found::Replacing) => {
                        // It is woken when the other one is there, and goes on where it is.
                        self.watcher.wake.notified().await;
                        continue;
                    }
                }
            } else {
                self.next = self.next.max(told + 1);
            }
            if self.behind {
                // A long way without a wanted change: let others run.
                tokio::task::yield_now().await;
                continue;
            }
            if self.watcher.progress && self.reported + 1 < self.next {
                self.reported = self.next - 1;
                return Some(Ok(WatchBatch { revision: self.reported, events: Vec::new() }));
            }
            self.watcher.wake.notified().await;
        }
    }

    /// Reads a piece of the history.
    fn read(&mut self) -> Result<Found, Error> {
        let mut found = Vec::new();
        let (seen, latest) = {
            let state = self.memory.state.read();
            if state.gone {
                return Ok(Found::Replacing);
            }
            if self.next < state.mvcc.compact_revision {
                return Err(Error::Compacted { revision: state.mvcc.compact_revision });
            }
            let wants = |key: &[u8]| self.watcher.wants(key);
            (state.mvcc.changes(self.next, BATCH, STEPS, wants, &mut found), state.mvcc.revision)
        };
        // A watch may start in the future: then nothing has been seen yet.
        self.next = self.next.max(seen + 1);
        self.behind = seen < latest;
        if found.is_empty() {
            return Ok(Found::Nothing);
        }
        self.reported = seen;
        let events = found.iter().map(|change| change.event(self.prev_kv)).collect();
        Ok(Found::Batch(WatchBatch { revision: seen, events }))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.memory.watchers.0.lock().retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
    }
}
