//! The one watch on the store, and the caches it feeds.
//!
//! Reads the store (one list per cache at its first use, one watch for all). Because every change passes
//! here in order, «this cache is as new as revision R» is one comparison, with no traffic per resource.
//! When the store ends the watch (compacted, restarted) every cache is dropped with its watchers, and made
//! anew at its next use: clients then list again, as they must after a 410.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foundation::Tasks;
use futures::StreamExt;
use parking_lot::Mutex;
use store::{EventKind, Range, Store, WatchRequest};
use tokio::sync::{OnceCell, watch};

use super::Cache;
use crate::encoding::Extractor;

/// Turns stored bytes into those of the version that is served; `None` where they are the same.
pub type Convert = Arc<dyn Fn(&Bytes) -> Bytes + Send + Sync>;

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
    pub convert: Option<Convert>,
}

struct Slot {
    view: View,
    cache: Arc<Cache>,
    /// Changes that came while the list was read; `None` once it is filled.
    pending: Option<Vec<(u64, Bytes, Option<Bytes>)>>,
}

type Filling = Arc<OnceCell<Arc<Cache>>>;

#[derive(Default)]
struct State {
    /// By prefix, then one per served version.
    slots: HashMap<Bytes, Vec<Slot>>,
    /// Counts how often the caches were dropped.
    epoch: u64,
}

/// The caches of a server.
pub struct Hub {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    cells: Mutex<HashMap<(Bytes, String), Filling>>,
    revision: watch::Sender<u64>,
}

impl Hub {
    /// Starts the watch; changes from now on are seen.
    pub async fn start(store: Arc<dyn Store>, tasks: &Tasks) -> Result<Arc<Self>, store::Error> {
        let hub = Arc::new(Self {
            store: store.clone(),
            state: Mutex::default(),
            cells: Mutex::default(),
            revision: watch::Sender::new(0),
        });
        let (revision, stream) = hub.open().await?;
        hub.revision.send_replace(revision);
        let running = hub.clone();
        tasks.spawn_until_cancelled("watch-cache", async move { running.run(stream).await });
        Ok(hub)
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

    /// Waits until the caches are as new as the store is now, and says how new that is.
    pub async fn catch_up(&self) -> Result<u64, store::Error> {
        let revision = self.store.status().await?.revision;
        self.reach(revision).await;
        Ok(self.revision().max(revision))
    }

    /// The cache of `view`, filled at first use.
    pub async fn cache(&self, view: &View) -> Result<Arc<Cache>, store::Error> {
        let cell = self.cells.lock().entry((view.prefix.clone(), view.version.clone())).or_default().clone();
        cell.get_or_try_init(|| self.fill(view)).await.cloned()
    }

    /// The cache of `view` if it is there already.
    pub fn filled(&self, view: &View) -> Option<Arc<Cache>> {
        self.cells.lock().get(&(view.prefix.clone(), view.version.clone()))?.get().cloned()
    }

    async fn fill(&self, view: &View) -> Result<Arc<Cache>, store::Error> {
        loop {
            let cache = Arc::new(Cache::new(view.extractor.clone()));
            let epoch = {
                let mut state = self.state.lock();
                let slot = Slot { view: view.clone(), cache: cache.clone(), pending: Some(Vec::new()) };
                let slots = state.slots.entry(view.prefix.clone()).or_default();
                // A fill that was cancelled half way leaves its slot behind.
                slots.retain(|slot| slot.view.version != view.version);
                slots.push(slot);
                state.epoch
            };
            let listed = self.store.range(Range::prefix(view.prefix.clone())).await?;
            let mut state = self.state.lock();
            if state.epoch != epoch {
                continue;
            }
            cache.fill(
                listed.revision,
                listed
                    .kvs
                    .into_iter()
                    .map(|kv| (kv.key.slice(view.prefix.len()..), view.served(&kv.value), kv.mod_revision)),
            );
            let slots = state.slots.entry(view.prefix.clone()).or_default();
            let Some(slot) = slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.cache, &cache)) else { continue };
            let pending = slot.pending.take().unwrap_or_default();
            for revision in pending.chunk_by(|a, b| a.0 == b.0) {
                let changes = revision.iter().map(|(_, key, value)| (key.clone(), value.clone()));
                cache.apply(revision[0].0, changes);
            }
            return Ok(cache);
        }
    }

    async fn open(&self) -> Result<(u64, store::WatchStream), store::Error> {
        let revision = self.store.status().await?.revision;
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
            while let Some(batch) = stream.next().await {
                match batch {
                    Ok(batch) => self.dispatch(batch),
                    Err(error) => {
                        tracing::warn!(%error, "the store ended the watch; dropping the watch caches");
                        break;
                    }
                }
            }
            self.reset();
            match self.open().await {
                Ok((revision, next)) => {
                    self.revision.send_replace(revision);
                    stream = next;
                }
                Err(error) => {
                    tracing::error!(%error, "the store cannot be watched; the watch caches stand still");
                    return;
                }
            }
        }
    }

    fn dispatch(&self, batch: store::WatchBatch) {
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

    fn reset(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
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

impl State {
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
                let value = matches!(event.kind, EventKind::Put).then(|| view.served(&event.kv.value));
                (key, value)
            });
            match &mut slot.pending {
                Some(pending) => pending.extend(changes.map(|(key, value)| (revision, key, value))),
                None => slot.cache.apply(revision, changes),
            }
        }
    }
}

impl View {
    /// Stored bytes as the served version has them.
    pub fn served(&self, value: &Bytes) -> Bytes {
        self.convert.as_ref().map_or_else(|| value.clone(), |convert| convert(value))
    }
}

/// `/registry/<group>/<plural>/` of a key below it; the whole key where it has another form.
fn prefix_of(key: &[u8]) -> &[u8] {
    let mut slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    slashes.nth(3).map_or(key, |at| &key[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_their_resource() {
        assert_eq!(prefix_of(b"/registry/core/pods/default/x"), b"/registry/core/pods/");
        assert_eq!(prefix_of(b"/registry/core/nodes/n1"), b"/registry/core/nodes/");
        assert_eq!(prefix_of(b"other"), b"other");
    }
}
