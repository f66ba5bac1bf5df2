//! The one watch on the store, and the caches it feeds.
//!
//! Reads the store (one list per cache at its first use, one watch for all). Because every change passes
//! here in order, «this cache is as new as revision R» is one comparison, with no traffic per resource.
//! When the store ends the watch (compacted, restarted) a new one is opened, as often as it takes, and then
//! every cache is dropped with its watchers, and made anew at its next use: clients then list again, as they
//! must after a 410. Opened first, so that no cache can be filled between the old watch and the new one. While it cannot
//! be opened the caches are dropped already: their clients would hear nothing here, and go on with another server.
//! Not here: caches whose objects a webhook converts, beyond handing them their changes (`conversion`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use foundation::{SharedClock, Tasks};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use store::{EventKind, Range, Store, WatchRequest};
use tokio::sync::{OnceCell, oneshot, watch};

use super::conversion::{Conversion, Converter, Inlet};
use super::{Cache, Unread};
use crate::encoding::Extractor;
use crate::storage::unreadable;

/// What a cache holds: the objects under a prefix, in one version.
#[derive(Clone)]
pub struct View {
    /// The key prefix, with its closing slash.
    pub prefix: Bytes,
    /// The group and version served: caches are kept per prefix and version.
    pub version: String,
    /// What to read out of each object.
    pub extractor: Arc<Extractor>,
    /// From the stored version to the served one.
    pub convert: Conversion,
    /// Later definitions of the same resource have higher ones: their view wins.
    pub generation: u64,
}

/// First and longest wait between attempts to watch the store again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

struct Slot {
    view: View,
    cache: Arc<Cache>,
    /// Changes that came while the list was read; `None` once it is filled.
    pending: Option<Pending>,
    /// Where its changes go once it is filled, if they are to be converted first.
    inlet: Option<Inlet>,
}

/// Bytes of changes that may wait for a cache to be filled. More of them, and it is closed: what was read is old by then.
const PENDING: usize = if cfg!(test) { 64 << 10 } else { 64 << 20 };
/// First and longest wait before such a cache is filled again, where each object has to be asked for.
const OVERTAKEN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

#[derive(Default)]
struct Pending {
    changes: Vec<(u64, Bytes, Option<Bytes>)>,
    bytes: usize,
    /// There were more than may wait.
    overtaken: bool,
}

type Filled = Result<Arc<Cache>, Status>;

/// A cache that is filled, or being filled.
#[derive(Default)]
struct Fill {
    filled: OnceCell<Arc<Cache>>,
    /// The task that has its objects converted, where somebody is to be asked: that takes its time, and whoever comes later
    /// goes on waiting for what the first has begun.
    converting: Mutex<Option<Shared<BoxFuture<'static, Filled>>>>,
    /// Where changes have overtaken that: when it may begin again, and how long that was put off.
    again: Mutex<Option<(Duration, Duration)>>,
}

impl Fill {
    /// Puts the next attempt off: with the same changes it would end as this one has.
    fn overtaken(&self, now: Duration) -> Status {
        let mut again = self.again.lock();
        let wait = again.map_or(OVERTAKEN.0, |(_, wait)| (wait * 2).min(OVERTAKEN.1));
        *again = Some((now + wait, wait));
        too_busy(wait)
    }

    /// The refusal while the next attempt is put off.
    fn put_off(&self, now: Duration) -> Option<Status> {
        let (at, _) = (*self.again.lock())?;
        at.checked_sub(now).filter(|left| !left.is_zero()).map(too_busy)
    }
}

fn too_busy(wait: Duration) -> Status {
    let mut status =
        Status::service_unavailable("the resource changes faster than its objects are converted");
    let seconds = wait.as_secs_f64().ceil() as u32;
    status.details.get_or_insert_default().retry_after_seconds = seconds;
    status
}

type Filling = Arc<Fill>;

/// Where callers of one resource meet while one of them fills its cache.
struct Cell {
    generation: u64,
    filling: Filling,
}

#[derive(Default)]
struct State {
    /// By prefix, then one per served version. A slot that is taken out has its cache closed.
    slots: HashMap<Bytes, Vec<Slot>>,
}

/// The caches of a server.
pub struct Hub {
    pub(super) store: Arc<dyn Store>,
    tasks: Tasks,
    pub(super) clock: SharedClock,
    state: Mutex<State>,
    cells: Mutex<HashMap<(Bytes, String), Cell>>,
    revision: watch::Sender<u64>,
    /// Why the store cannot be watched, while it cannot.
    trouble: watch::Sender<Option<String>>,
}

impl Hub {
    /// Starts the watch; changes from now on are seen.
    pub async fn start(
        store: Arc<dyn Store>,
        tasks: &Tasks,
        clock: SharedClock,
    ) -> Result<Arc<Self>, store::Error> {
        let hub = Arc::new(Self {
            store: store.clone(),
            tasks: tasks.clone(),
            clock,
            state: Mutex::default(),
            cells: Mutex::default(),
            revision: watch::Sender::new(0),
            trouble: watch::Sender::new(None),
        });
        let (revision, stream) = hub.open().await?;
        hub.revision.send_replace(revision);
        let running = hub.clone();
        tasks.spawn_until_cancelled("watch-cache", async move { running.run(stream).await });
        Ok(hub)
    }

    /// The health check: fails while the store cannot be watched.
    pub fn check(&self) -> Result<(), String> {
        match &*self.trouble.borrow() {
            None => Ok(()),
            Some(error) => Err(format!("the store cannot be watched: {error}")),
        }
    }

    /// The revision up to which every cache has been told of every change.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// The revision as it advances.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until every change up to `revision` is in the caches.
    pub async fn reach(&self, revision: u64) {
        if self.revision() < revision {
            // The sender lives in `self`, so this cannot fail while we are here.
            let _ = self.revision.subscribe().wait_for(|now| *now >= revision).await;
        }
    }

    /// Waits until the caches are as new as the store is now, and says how new that is. Fails while the store
    /// cannot be watched.
    pub async fn catch_up(&self) -> Result<u64, store::Error> {
        let revision = self.store.revision().await?;
        let mut trouble = self.trouble.subscribe();
        let in_trouble = async { drop(trouble.wait_for(Option::is_some).await) };
        tokio::select! {
            biased;
            () = self.reach(revision) => Ok(self.revision().max(revision)),
            () = in_trouble => Err(store::Error::Unavailable("it cannot be watched")),
        }
    }

    /// The cache of `view`, filled at first use.
    ///
    /// It holds every change up to the revision that [`Hub::revision`] had before the call. Fails where the store
    /// cannot be read, or an object not be converted.
    pub async fn cache(self: &Arc<Self>, view: &View) -> Result<Arc<Cache>, Status> {
        loop {
            let filling = self.filling(view);
            let fill = async {
                match &view.convert {
                    Conversion::Asked(_) => self.fill_apart(view, &filling).await,
                    Conversion::Same | Conversion::Here(_) => loop {
                        // Overtaken while the store was read: that takes as long as it takes, not longer next time.
                        if let Some(cache) = self.fill(view).await? {
                            break Ok(cache);
                        }
                    },
                }
            };
            let cache = filling.filled.get_or_try_init(|| fill).await?.clone();
            cache.settled().await?;
            if !cache.is_closed() {
                return Ok(cache);
            }
            // Dropped since, or while it was filled. Whoever comes first makes it anew.
            let mut cells = self.cells.lock();
            let key = (view.prefix.clone(), view.version.clone());
            if cells.get(&key).is_some_and(|cell| Arc::ptr_eq(&cell.filling, &filling)) {
                cells.remove(&key);
            }
        }
    }

    /// The cache of `view` if it is there already.
    pub fn filled(&self, view: &View) -> Option<Arc<Cache>> {
        self.cells.lock().get(&(view.prefix.clone(), view.version.clone()))?.filling.filled.get().cloned()
    }

    fn filling(&self, view: &View) -> Filling {
        let mut cells = self.cells.lock();
        let new = || Cell { generation: view.generation, filling: Filling::default() };
        let cell = cells.entry((view.prefix.clone(), view.version.clone())).or_insert_with(new);
        if cell.generation < view.generation {
            *cell = new();
        }
        cell.filling.clone()
    }

    /// Fills a cache in a task of its own, which goes on without those who wait for it.
    fn fill_apart(self: &Arc<Self>, view: &View, filling: &Filling) -> Shared<BoxFuture<'static, Filled>> {
        let mut converting = filling.converting.lock();
        if let Some(begun) = &*converting
            // What has failed is tried again by whoever comes next.
            && begun.peek().is_none_or(Result::is_ok)
        {
            return begun.clone();
        }
        if let Some(refusal) = filling.put_off(self.clock.monotonic()) {
            return std::future::ready(Err(refusal)).boxed().shared();
        }
        let (hub, view, fill) = (self.clone(), view.clone(), filling.clone());
        let (tell, told) = oneshot::channel();
        self.tasks.spawn_until_cancelled("conversion", async move {
            let filled = match hub.fill(&view).await {
                Ok(None) => Err(fill.overtaken(hub.clock.monotonic())),
                Ok(Some(cache)) => Ok(cache),
                Err(error) => Err(error),
            };
            // Whoever comes next hears of it if nobody is there now.
            let _ = tell.send(filled);
        });
        let ended = |_| Err(Status::service_unavailable("the server is shutting down"));
        let begun = told.map(move |told| told.unwrap_or_else(ended)).boxed().shared();
        *converting = Some(begun.clone());
        begun
    }

    /// A new cache with what the store holds. Closed if it was dropped meanwhile; `None` if changes have overtaken it.
    async fn fill(&self, view: &View) -> Result<Option<Arc<Cache>>, Status> {
        let cache = Arc::new(Cache::new(view.extractor.clone(), &view.prefix));
        {
            let mut state = self.state.lock();
            let slots = state.slots.entry(view.prefix.clone()).or_default();
            slots.retain(|slot| {
                let of_another_version = slot.view.version != view.version;
                if !of_another_version {
                    slot.cache.close();
                }
                of_another_version
            });
            let pending = Some(Pending::default());
            slots.push(Slot { view: view.clone(), cache: cache.clone(), pending, inlet: None });
        }
        let _unfinished = Unfinished { hub: self, prefix: &view.prefix, cache: &cache };
        let listed = self.store.range(Range::prefix(view.prefix.clone())).await;
        let mut listed = listed.map_err(|error| unreadable::of_list(&view.prefix, error))?;
        let mut unread = Unread::new();
        if matches!(view.convert, Conversion::Asked(_)) {
            // Nobody is asked to convert what is none, and whoever lists is told of it by its key.
            listed.kvs.retain(|kv| {
                let is_object = unreadable::check(kv).is_ok();
                if !is_object {
                    unread.insert(kv.key.slice(view.prefix.len()..), kv.mod_revision);
                }
                is_object
            });
        }
        let served = match &view.convert {
            Conversion::Asked(_) => {
                let stored = listed.kvs.iter().map(|kv| kv.value.clone()).collect();
                let mut closed = cache.changes();
                let closed = async { while closed.changed().await.is_ok() {} };
                tokio::select! {
                    served = view.all_served(stored) => Some(served?),
                    // Nobody is asked for what is of no use any more.
                    () = closed => return Ok(self.outcome(view, &cache)),
                }
            }
            _ => None,
        };
        let mut served = served.map(Vec::into_iter);
        // Before the lock is taken, which every change of every resource needs: this is most of the work.
        let (objects, undecoded) = cache.read(listed.kvs.into_iter().map(|kv| {
            let value = match &mut served {
                Some(served) => served.next().unwrap_or_default(),
                None => view.at_once(&kv.value),
            };
            (kv.key.slice(view.prefix.len()..), value, kv.mod_revision)
        }));
        unread.extend(undecoded);
        for key in unread.keys() {
            let (prefix, key) = (String::from_utf8_lossy(&view.prefix), String::from_utf8_lossy(key));
            tracing::error!(%prefix, %key, "a stored object is none");
        }
        let mut state = self.state.lock();
        let Some(slot) = state.slot(&view.prefix, &cache) else { return Ok(Some(cache.clone())) };
        if slot.pending.as_ref().is_some_and(|pending| pending.overtaken) {
            return Ok(None);
        }
        cache.leave_out(unread);
        cache.fill(listed.revision, objects);
        if let Conversion::Asked(ask) = &view.convert {
            let (converter, inlet) = Converter::new(cache.clone(), listed.revision, ask.clone());
            self.tasks.spawn_until_cancelled("conversion", converter.run());
            slot.inlet = Some(inlet);
        }
        let pending = slot.pending.take().unwrap_or_default();
        for revision in pending.changes.chunk_by(|a, b| a.0 == b.0) {
            let changes = revision.iter().map(|(_, key, value)| (key.clone(), value.clone()));
            slot.tell(revision[0].0, changes);
        }
        Ok(Some(cache.clone()))
    }

    /// What has become of a cache that was closed while it was filled: somebody dropped it, or changes have overtaken it.
    fn outcome(&self, view: &View, cache: &Arc<Cache>) -> Option<Arc<Cache>> {
        let mut state = self.state.lock();
        let pending = state.slot(&view.prefix, cache).and_then(|slot| slot.pending.as_ref());
        (!pending.is_some_and(|pending| pending.overtaken)).then(|| cache.clone())
    }

    async fn open(&self) -> Result<(u64, store::WatchStream), store::Error> {
        let revision = self.store.revision().await?;
        let request = WatchRequest {
            // The whole key space, so that the revision advances with every write there is.
            start: Bytes::new(),
            end: Bytes::new(),
            start_revision: revision + 1,
            prev_kv: false,
            progress: false,
        };
        Ok((revision, self.store.watch(request).await?))
    }

    async fn run(&self, mut stream: store::WatchStream) {
        loop {
            let mut heard = false;
            while let Some(batch) = stream.next().await {
                match batch {
                    Ok(batch) => {
                        heard = true;
                        self.dispatch(batch);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the store ended the watch; dropping the watch caches");
                        break;
                    }
                }
            }
            if !heard {
                // A store that ends every watch at once must not keep a core busy.
                self.clock.sleep(BACKOFF.0).await;
            }
            let (revision, next) = self.open_again().await;
            self.reset();
            self.revision.send_replace(revision);
            stream = next;
        }
    }

    async fn open_again(&self) -> (u64, store::WatchStream) {
        let mut wait = BACKOFF.0;
        loop {
            match self.open().await {
                Ok(opened) => {
                    self.trouble.send_replace(None);
                    return opened;
                }
                Err(error) => {
                    tracing::error!(%error, "the store cannot be watched; the watch caches are dropped");
                    self.reset();
                    self.trouble.send_replace(Some(error.to_string()));
                    self.clock.sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn dispatch(&self, batch: store::WatchBatch) {
        self.drop_unreadable(&batch);
        let mut state = self.state.lock();
        let mut events = batch.events.as_slice();
        while let Some(first) = events.first() {
            let revision = first.kv.mod_revision;
            let prefix = prefix_of(&first.kv.key).to_vec();
            // One revision's changes of one resource are applied together; a revision that touches several
            // resources in turns is still whole per resource.
            let together = events.iter().take_while(|e| e.kv.mod_revision == revision).count();
            let (now, later) = events.split_at(together);
            let uniform = now.iter().all(|e| prefix_of(&e.kv.key) == prefix);
            if uniform {
                state.apply(revision, &prefix, now.iter());
            } else {
                let mut prefixes: Vec<&[u8]> = now.iter().map(|e| prefix_of(&e.kv.key)).collect();
                prefixes.sort_unstable();
                prefixes.dedup();
                for prefix in prefixes {
                    state.apply(revision, prefix, now.iter().filter(|e| prefix_of(&e.kv.key) == prefix));
                }
            }
            events = later;
        }
        drop(state);
        self.revision.send_if_modified(|now| {
            let newer = batch.revision > *now;
            *now = (*now).max(batch.revision);
            newer
        });
    }

    /// Drops the caches of resources of which an object came without its value (it cannot be decrypted): they would
    /// go on without it. Their clients list again, and are told; those of other resources do not notice.
    fn drop_unreadable(&self, batch: &store::WatchBatch) {
        let lost = |event: &&store::Event| matches!(event.kind, EventKind::Put) && event.kv.value.is_empty();
        for event in batch.events.iter().filter(lost) {
            let prefix = Bytes::copy_from_slice(prefix_of(&event.kv.key));
            tracing::error!(prefix = %String::from_utf8_lossy(&prefix), "a watch cache is dropped: an object cannot be read");
            self.forget(&prefix);
        }
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        for slot in std::mem::take(&mut state.slots).into_values().flatten() {
            slot.cache.close();
        }
        self.cells.lock().clear();
    }

    /// Drops the caches of `prefix`, ending their watches: the resource is no longer served.
    pub fn forget(&self, prefix: &Bytes) {
        let slots = self.state.lock().slots.remove(prefix);
        for slot in slots.into_iter().flatten() {
            slot.cache.close();
        }
        self.cells.lock().retain(|(known, _), _| known != prefix);
    }
}

/// Takes the slot of a cache that was not filled (the read failed, or nobody waits for it any more) out again:
/// changes would pile up in it.
struct Unfinished<'a> {
    hub: &'a Hub,
    prefix: &'a Bytes,
    cache: &'a Arc<Cache>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        if let Some(slots) = state.slots.get_mut(self.prefix) {
            slots.retain(|slot| slot.pending.is_none() || !Arc::ptr_eq(&slot.cache, self.cache));
        }
    }
}

impl State {
    fn slot(&mut self, prefix: &Bytes, cache: &Arc<Cache>) -> Option<&mut Slot> {
        self.slots.get_mut(prefix)?.iter_mut().find(|slot| Arc::ptr_eq(&slot.cache, cache))
    }

    fn apply<'a>(
        &mut self,
        revision: u64,
        prefix: &[u8],
        events: impl Iterator<Item = &'a store::Event> + Clone,
    ) {
        for slot in self.slots.get_mut(prefix).into_iter().flatten() {
            let view = &slot.view;
            let changes = events.clone().map(|event| {
                let key = event.kv.key.slice(view.prefix.len()..);
                let value = matches!(event.kind, EventKind::Put).then(|| view.at_once(&event.kv.value));
                (key, value)
            });
            match &mut slot.pending {
                Some(pending) => {
                    if pending.overtaken {
                        continue;
                    }
                    for (key, value) in changes {
                        pending.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                        pending.changes.push((revision, key, value));
                    }
                    if pending.bytes > PENDING {
                        *pending = Pending { overtaken: true, ..Pending::default() };
                        slot.cache.close();
                    }
                }
                None => slot.tell(revision, changes),
            }
        }
    }
}

impl Slot {
    /// Tells the filled cache of the changes of one revision.
    fn tell(&self, revision: u64, changes: impl Iterator<Item = (Bytes, Option<Bytes>)>) {
        match &self.inlet {
            None => self.cache.apply(revision, changes),
            Some(inlet) => {
                if !inlet.offer(revision, changes.collect()) {
                    self.cache.close();
                }
            }
        }
    }
}

impl View {
    /// Stored bytes as the served version has them.
    ///
    /// # Errors
    /// A conversion that failed.
    pub async fn served(&self, value: &Bytes) -> Result<Bytes, Status> {
        match &self.convert {
            Conversion::Asked(ask) => {
                let served = ask.served(vec![value.clone()]).await?;
                served.into_iter().next().ok_or_else(|| Status::internal("a conversion gave nothing"))
            }
            _ => Ok(self.at_once(value)),
        }
    }

    /// Many of them, in their order.
    ///
    /// # Errors
    /// A conversion that failed.
    pub async fn all_served(&self, values: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        match &self.convert {
            Conversion::Same => Ok(values),
            Conversion::Here(convert) => Ok(values.iter().map(|value| convert(value)).collect()),
            Conversion::Asked(ask) => ask.served(values).await,
        }
    }

    /// What there is without asking: for conversions that are asked for, the bytes as they are stored.
    fn at_once(&self, value: &Bytes) -> Bytes {
        match &self.convert {
            Conversion::Here(convert) => convert(value),
            Conversion::Same | Conversion::Asked(_) => value.clone(),
        }
    }
}

/// `/registry/<group>/<plural>/` of a key below it; the whole key where it has another form.
fn prefix_of(key: &[u8]) -> &[u8] {
    let mut slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.nth(3).map_or(key, |at| &key[..=at])
}

#[cfg(test)]
mod tests;
