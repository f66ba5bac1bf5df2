//! The watch cache of one resource: its current objects, its recent changes, and who watches them.
//!
//! Holds the very buffers that the store holds. Fed by [`Hub`], which owns the one watch on the store and
//! hands every change to the cache it belongs to, in order of revision.
//!
//! Guarantees: (1) a cache reflects every change up to `Hub::revision` and none in part; (2) a watcher sees
//! each change after its start exactly once, in order, or its stream ends; (3) a watcher that does not read
//! is cut off when its queue is full, by number or bytes, and never delays another; (4) what a change looks like on the wire is
//! encoded at most once per event type, whatever the number of watchers.
//! Not here: selectors' syntax (`api::selector`), responses (`engine`).
//! Upstream: staging/src/k8s.io/apiserver/pkg/storage/cacher.

mod change;
mod conversion;
mod history;
mod hub;
mod objects;
mod queue;
mod watchers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use api::Status;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use change::{Change, EventType, frame as change_frame};
pub use conversion::{Ask, Conversion};
pub use hub::{Hub, View};
pub use objects::Wanted;
pub use queue::Receiver;
pub use watchers::{Interest, Subscription};

use crate::encoding::{Extractor, Facts};
use crate::fairness::width::Stock;
use crate::metrics::caches::Counters;
use conversion::Progress;
use objects::Objects;
use watchers::Watchers;

/// Changes kept for watches that resume. Beyond it a client lists anew, as with upstream (whose ring
/// starts at 100 and grows to 102,400).
const RING: usize = 16_384;
/// Bytes that these may keep alive per resource: large objects that change often have a shorter history.
const RING_BYTES: usize = 32 << 20;

/// One object as cached.
#[derive(Debug)]
pub struct Cached {
    /// `<namespace>/<name>`, or `<name>` for cluster-scoped resources.
    pub key: Bytes,
    /// The canonical JSON, resourceVersion included.
    pub value: Bytes,
    /// The revision of the last write.
    pub revision: u64,
    /// What selectors see.
    pub facts: Facts,
}

impl Cached {
    /// The namespace; empty for cluster-scoped resources.
    pub fn namespace(&self) -> &str {
        self.split().0
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        let key = std::str::from_utf8(&self.key).unwrap_or_default();
        key.split_once('/').unwrap_or(("", key))
    }
}

/// The objects of one resource as of one revision.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// The objects that were asked for, ordered by key.
    pub objects: Vec<Arc<Cached>>,
    /// How many more objects were left out because of the limit: all of them when they were to be counted,
    /// otherwise 1 if there is any.
    pub rest: usize,
    /// How many were looked at.
    pub seen: usize,
}

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limit {
    /// At most so many objects; 0: all.
    pub objects: usize,
    /// Whether what is left out is to be counted.
    pub count_rest: bool,
}

/// Why a watch cannot start where it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct TooOld {
    /// The revision asked for.
    pub asked: u64,
    /// The oldest one that can be served.
    pub oldest: u64,
}

/// The watch cache of one resource.
#[derive(Debug)]
pub struct Cache {
    extractor: Arc<Extractor>,
    pub(crate) counters: Counters,
    state: RwLock<State>,
    /// Held by the one who reads the store's history for all who want it.
    recalling: tokio::sync::Mutex<()>,
    /// How often that has failed: those who waited meanwhile do not try again.
    recalls_failed: Mutex<u64>,
    /// Gone once the cache is closed, so that whoever derives something from it notices.
    changed: Mutex<Option<watch::Sender<u64>>>,
    /// How far the conversion of its changes is, where somebody has to be asked for it.
    progress: OnceLock<Arc<Progress>>,
}

/// Keys of what cannot be read, with the revisions at which it was written.
type Unread = BTreeMap<Bytes, u64>;

#[derive(Debug, Default)]
struct State {
    revision: u64,
    objects: Objects,
    /// What was there when it was filled, and is no object.
    unread: Unread,
    /// The sum of their values' lengths.
    bytes: usize,
    /// Per selectable field, made at first use: value to keys.
    indexes: HashMap<usize, HashMap<Box<str>, BTreeSet<Bytes>>>,
    ring: VecDeque<Arc<Change>>,
    /// The sum of [`Change::weight`] over the ring.
    ring_bytes: usize,
    /// Every change after this revision is in the ring.
    ring_after: u64,
    /// Whether the ring has dropped changes: then there is no going back further.
    forgot: bool,
    /// Changes from this revision on cannot be had from the store: they are too many, or compacted.
    out_of_reach: u64,
    /// Changes up to this revision were part of what the cache was filled with.
    filled_at: u64,
    watchers: Watchers,
    /// Why the present watches end, if it is because of a failure.
    failure: Arc<OnceLock<Status>>,
    closed: bool,
}

impl Cache {
    fn new(extractor: Arc<Extractor>, prefix: &[u8]) -> Self {
        let counters = Counters::of(prefix);
        let changed = Mutex::new(Some(watch::Sender::new(0)));
        let (recalling, recalls_failed, progress) = Default::default();
        Self { extractor, counters, state: RwLock::default(), recalling, recalls_failed, changed, progress }
    }

    /// Objects as the cache holds them, from keys, values and revisions; and the keys and revisions of what is no object.
    fn read(&self, objects: impl Iterator<Item = (Bytes, Bytes, u64)>) -> (Objects, Unread) {
        let mut unread = Unread::new();
        let read = objects.filter_map(|(key, value, at)| {
            let object = self.object(key.clone(), value, at);
            if object.is_none() {
                unread.insert(key, at);
            }
            object
        });
        (read.collect(), unread)
    }

    /// Notes what of that which the cache is filled with cannot be read.
    fn leave_out(&self, unread: Unread) {
        self.state.write().unread = unread;
    }

    /// What is stored under the keys that `meant` accepts and cannot be read, with revisions: whoever lists is to be told.
    /// The server itself goes on without it, or one damaged object could not even be deleted.
    pub fn unread(&self, meant: impl Fn(&[u8]) -> bool) -> Vec<(Bytes, u64)> {
        let state = self.state.read();
        state.unread.iter().filter(|(key, _)| meant(key)).map(|(key, at)| (key.clone(), *at)).collect()
    }

    /// Fills an empty cache with what was read at `revision`.
    fn fill(&self, revision: u64, objects: Objects) {
        self.counters.initializations.inc();
        let mut state = self.state.write();
        state.bytes = objects.all().map(|object| object.value.len()).sum();
        state.objects = objects;
        state.revision = revision;
        state.ring_after = revision;
        state.filled_at = revision;
        self.tell(revision);
    }

    fn tell(&self, revision: u64) {
        if let Some(changed) = &*self.changed.lock() {
            changed.send_replace(revision);
        }
    }

    fn object(&self, key: Bytes, value: Bytes, revision: u64) -> Option<Arc<Cached>> {
        let facts = self.extractor.extract(&value)?;
        Some(Arc::new(Cached { key, value, revision, facts }))
    }

    /// Applies the changes of one revision, all of them or none visible. `None` is a deletion.
    fn apply(&self, revision: u64, changes: impl Iterator<Item = (Bytes, Option<Bytes>)>) {
        // Parsed outside the lock: readers go on meanwhile.
        let mut parsed = Vec::with_capacity(changes.size_hint().0);
        for (key, value) in changes {
            let object = match value {
                None => None,
                Some(value) => {
                    let Some(object) = self.object(key.clone(), value, revision) else {
                        // The cache would go on without it; whoever wants it next is told why there is none.
                        let key = String::from_utf8_lossy(&key);
                        tracing::error!(%key, revision, "a watch cache is dropped: an object cannot be decoded");
                        return self.close();
                    };
                    Some(object)
                }
            };
            parsed.push((key, object));
        }
        let mut state = self.state.write();
        if revision <= state.filled_at {
            return;
        }
        state.revision = revision;
        self.counters.received.add(parsed.len() as u64);
        for (key, current) in parsed {
            state.unread.remove(&key);
            state.apply(revision, key, current, &self.counters);
        }
        drop(state);
        self.tell(revision);
    }

    /// Ends every watch: the cache will hear of no more changes.
    fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.watchers = Watchers::default();
        drop(state);
        self.changed.lock().take();
        if let Some(progress) = self.progress.get() {
            progress.end();
        }
    }

    /// Ends every watch with an error; new ones may begin.
    fn interrupt(&self, failure: &Status) {
        let mut state = self.state.write();
        // Set before the senders go, so that whoever sees the end sees the reason.
        let _ = std::mem::take(&mut state.failure).set(failure.clone());
        state.watchers = Watchers::default();
    }

    /// Forgets every change up to `revision`: some were never seen.
    fn forget_history(&self, revision: u64) {
        let mut state = self.state.write();
        state.ring.clear();
        state.ring_bytes = 0;
        state.ring_after = state.ring_after.max(revision);
        state.forgot = true;
    }

    /// Waits until every change that the hub had told it of is in it.
    async fn settled(&self) -> Result<(), Status> {
        match self.progress.get() {
            Some(progress) => progress.settle().await,
            None => Ok(()),
        }
    }

    /// Whether the cache hears of no more changes.
    pub fn is_closed(&self) -> bool {
        self.state.read().closed
    }

    /// The revision of the latest change, for whoever derives something from the objects. The sender is gone
    /// once the cache is closed: then there is another one to ask.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &*self.changed.lock() {
            Some(changed) => changed.subscribe(),
            None => watch::channel(0).1,
        }
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Cached>> {
        self.state.read().objects.get(key.as_bytes()).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// How many there are, and how large they are together.
    pub fn stock(&self) -> Stock {
        let state = self.state.read();
        Stock { objects: state.objects.len(), bytes: state.bytes }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that `interest` may concern and `matches` accepts, after key `after`, at most `limit`
    /// of them. `wanted` is what `matches` asks of labels. `now` is the revision up to which the hub has dispatched.
    pub fn snapshot(
        &self,
        interest: &Interest,
        wanted: &Wanted,
        now: u64,
        after: Option<&[u8]>,
        limit: Limit,
        matches: impl Fn(&Cached) -> bool,
    ) -> Snapshot {
        if let Interest::Field { field, .. } = interest {
            self.ensure_index(*field);
        }
        let state = self.state.read();
        let mut out = Snapshot { revision: state.revision.max(now), ..Snapshot::default() };
        let take = |object: &Arc<Cached>| {
            out.seen += 1;
            if after.is_some_and(|after| object.key.as_ref() <= after) || !matches(object) {
                return true;
            }
            if limit.objects > 0 && out.objects.len() == limit.objects {
                out.rest += 1;
                return limit.count_rest;
            }
            out.objects.push(object.clone());
            true
        };
        let by_labels = match interest {
            Interest::All => state.objects.wanted(wanted),
            Interest::Namespace(namespace) if !state.objects.has_few(namespace) => {
                state.objects.wanted(wanted)
            }
            Interest::Namespace(_) | Interest::Key(_) | Interest::Field { .. } => None,
        };
        if let Some(found) = by_labels {
            found.into_iter().filter(|object| interest.means(object)).all(take);
            return out;
        }
        // Each ends at the first that is not to be taken.
        match interest {
            Interest::All => state.objects.after(after).all(take),
            Interest::Namespace(namespace) => state.objects.of_namespace(namespace).all(take),
            Interest::Key(key) => state.objects.get(key.as_bytes()).into_iter().all(take),
            Interest::Field { field, value } => {
                let keys = state.indexes.get(field).and_then(|index| index.get(value.as_str()));
                keys.into_iter().flatten().filter_map(|key| state.objects.get(key)).all(take)
            }
        };
        out
    }

    /// Watches what `interest` may concern, from the changes after `from` on; `None`: from now on, together
    /// with the objects as they are now.
    pub fn watch(
        &self,
        interest: Interest,
        wanted: &Wanted,
        from: Option<u64>,
        now: u64,
        matches: impl Fn(&Cached) -> bool,
    ) -> Result<(Snapshot, Subscription), TooOld> {
        let initial = match from {
            Some(_) => None,
            None => Some(self.snapshot(&interest, wanted, now, None, Limit::default(), &matches)),
        };
        let mut state = self.state.write();
        if state.closed {
            return Err(TooOld { asked: from.unwrap_or_default(), oldest: state.revision });
        }
        let after = match (&initial, from) {
            (Some(snapshot), _) => snapshot.revision,
            (None, Some(from)) => from,
            (None, None) => 0,
        };
        // Between the snapshot and here changes may have come; they are in the ring.
        if after < state.ring_after {
            return Err(TooOld { asked: after, oldest: state.ring_after });
        }
        let missed: Vec<_> = {
            let first = state.ring.partition_point(|change| change.revision <= after);
            state.ring.range(first..).filter(|change| interest.concerns(change)).cloned().collect()
        };
        let source =
            watchers::Source { failure: state.failure.clone(), progress: self.progress.get().cloned() };
        let subscription = state.watchers.add(interest, after, missed, source);
        Ok((initial.unwrap_or_default(), subscription))
    }

    fn ensure_index(&self, field: usize) {
        if self.state.read().indexes.contains_key(&field) {
            return;
        }
        let mut state = self.state.write();
        let mut index: HashMap<Box<str>, BTreeSet<Bytes>> = HashMap::new();
        for object in state.objects.all() {
            if let Some(value) = object.facts.fields.get(field) {
                index.entry(value.clone()).or_default().insert(object.key.clone());
            }
        }
        state.indexes.insert(field, index);
    }
}

impl State {
    fn apply(&mut self, revision: u64, key: Bytes, current: Option<Arc<Cached>>, counters: &Counters) {
        let previous = match &current {
            Some(object) => self.objects.insert(object.clone()),
            None => self.objects.remove(&key),
        };
        if current.is_none() && previous.is_none() {
            return;
        }
        let size = |object: &Option<Arc<Cached>>| object.as_ref().map_or(0, |object| object.value.len());
        self.bytes = self.bytes + size(&current) - size(&previous);
        self.reindex(&key, previous.as_deref(), current.as_deref());
        let change = Arc::new(Change::new(revision, current, previous));
        self.ring_bytes += change.weight();
        self.ring.push_back(change.clone());
        while (self.ring.len() > RING || self.ring_bytes > RING_BYTES)
            && let Some(oldest) = self.ring.pop_front()
        {
            self.ring_bytes -= oldest.weight();
            self.ring_after = oldest.revision;
            self.forgot = true;
        }
        counters.dispatched.inc();
        self.watchers.notify(&change, &counters.terminated);
    }

    fn reindex(&mut self, key: &Bytes, previous: Option<&Cached>, current: Option<&Cached>) {
        for (field, index) in &mut self.indexes {
            let value = |object: Option<&Cached>| object.and_then(|o| o.facts.fields.get(*field)).cloned();
            let (old, new) = (value(previous), value(current));
            if old == new {
                continue;
            }
            if let Some(old) = old
                && let Some(keys) = index.get_mut(&old)
            {
                keys.remove(key);
                if keys.is_empty() {
                    index.remove(&old);
                }
            }
            if let Some(new) = new {
                index.entry(new).or_default().insert(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
