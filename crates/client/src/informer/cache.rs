//! What an informer holds: the objects, their indexes, and who wants to hear of changes.
//!
//! Two locks, always taken in this order: `delivery` makes changes and their delivery one step, so that a listener that
//! is added between two changes misses neither; `state` is held only while the maps change, so that readers wait for
//! no listener.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foundation::CancellationToken;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::watch;

use crate::{Cached, key_of};

/// What happened to an object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It is there now.
    Added(Arc<K>),
    /// It changed.
    Updated {
        /// What was cached before.
        old: Arc<K>,
        /// What is cached now.
        new: Arc<K>,
    },
    /// It is gone; its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) => object,
            Change::Updated { new, .. } => new,
        }
    }

    /// The object as it was before the change.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Updated { old, .. } => Some(old),
            _ => None,
        }
    }

    /// Whether the object is gone.
    pub fn is_deleted(&self) -> bool {
        matches!(self, Change::Deleted(_))
    }
}

/// Called with each change; `false` means: never again.
pub type Listener<K> = Box<dyn Fn(&Change<K>) -> bool + Send + Sync>;

pub(super) struct Cache<K> {
    delivery: Mutex<Vec<Listener<K>>>,
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
    stop: CancellationToken,
}

pub(super) struct State<K> {
    pub(super) objects: BTreeMap<Arc<str>, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
    transform: Option<fn(&mut K)>,
    pub(super) resource_version: String,
}

struct Index<K> {
    values: fn(&K) -> Vec<String>,
    keys: HashMap<String, BTreeSet<Arc<str>>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Arc<str>, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Arc<str>, object: &K) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

impl<K: Cached> State<K> {
    fn insert(&mut self, key: &Arc<str>, object: &Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(key, old);
            }
            index.insert(key, object);
        }
        old
    }

    fn remove(&mut self, key: &Arc<str>) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

impl<K: Cached> Cache<K> {
    pub(super) fn new() -> Cache<K> {
        Cache {
            delivery: Mutex::default(),
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                indexes: HashMap::new(),
                transform: None,
                resource_version: String::new(),
            }),
            synced: watch::Sender::new(false),
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read()
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(super) fn set_transform(&self, transform: fn(&mut K)) {
        self.state.write().transform = Some(transform);
    }

    pub(super) fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let mut state = self.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values, keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.insert(name, index);
    }

    pub(super) fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let index = state.indexes.get(name).unwrap_or_else(|| panic!("no index named {name:?} was added"));
        let keys = index.keys.get(value).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    pub(super) fn index_len(&self, name: &'static str, value: &str) -> usize {
        let state = self.state.read();
        let index = state.indexes.get(name).unwrap_or_else(|| panic!("no index named {name:?} was added"));
        index.keys.get(value).map_or(0, BTreeSet::len)
    }

    pub(super) fn listen(&self, listener: Listener<K>) {
        let mut listeners = self.delivery.lock();
        let present: Vec<_> = self.state.read().objects.values().cloned().collect();
        if present.into_iter().all(|object| listener(&Change::Added(object))) {
            listeners.push(listener);
        }
    }

    pub(super) fn resync(&self) {
        let mut listeners = self.delivery.lock();
        let present: Vec<_> = self.state.read().objects.values().cloned().collect();
        for object in present {
            deliver(&mut listeners, &Change::Updated { old: object.clone(), new: object });
        }
    }

    pub(super) fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub(super) async fn wait_synced(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// One object as the server now has it.
    pub(super) fn upsert(&self, object: K, resource_version: String) {
        let object = self.trim(object);
        let key = key_of(&*object);
        let mut listeners = self.delivery.lock();
        let old = {
            let mut state = self.state.write();
            state.resource_version = resource_version;
            state.insert(&key, &object)
        };
        deliver_change(&mut listeners, old, object);
    }

    /// One object that is gone, in its last state.
    pub(super) fn delete(&self, object: K, resource_version: String) {
        let object = self.trim(object);
        let key = key_of(&*object);
        let mut listeners = self.delivery.lock();
        let old = {
            let mut state = self.state.write();
            state.resource_version = resource_version;
            state.remove(&key)
        };
        if old.is_some() {
            deliver(&mut listeners, &Change::Deleted(object));
        }
    }

    /// Nothing changed up to this revision.
    pub(super) fn advance(&self, resource_version: String) {
        self.state.write().resource_version = resource_version;
    }

    /// The whole truth at a revision: what is cached and not in it is gone.
    pub(super) fn replace(&self, objects: Vec<Arc<K>>, resource_version: String) {
        let mut listeners = self.delivery.lock();
        let mut changes = Vec::new();
        {
            let mut state = self.state.write();
            let listed: BTreeMap<Arc<str>, Arc<K>> =
                objects.into_iter().map(|object| (key_of(&*object), object)).collect();
            let gone: Vec<Arc<str>> =
                state.objects.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
            for key in gone {
                if let Some(old) = state.remove(&key) {
                    changes.push((Some(old), None));
                }
            }
            for (key, object) in listed {
                let same = state.objects.get(&key).is_some_and(|old| {
                    old.meta().resource_version == object.meta().resource_version
                        && old.meta().resource_version.is_some()
                });
                if !same {
                    let old = state.insert(&key, &object);
                    changes.push((old, Some(object)));
                }
            }
            state.resource_version = resource_version;
        }
        for change in changes {
            match change {
                (old, Some(new)) => deliver_change(&mut listeners, old, new),
                (Some(old), None) => deliver(&mut listeners, &Change::Deleted(old)),
                (None, None) => {}
            }
        }
        drop(listeners);
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    /// What is to be cached of an object.
    pub(super) fn trim(&self, mut object: K) -> Arc<K> {
        // Nobody who reads a cache decides by who wrote which field, and it is often half of the object.
        object.meta_mut().managed_fields = None;
        if let Some(transform) = self.state.read().transform {
            transform(&mut object);
        }
        Arc::new(object)
    }
}

fn deliver<K>(listeners: &mut Vec<Listener<K>>, change: &Change<K>) {
    listeners.retain(|listener| listener(change));
}

fn deliver_change<K: Cached>(listeners: &mut Vec<Listener<K>>, old: Option<Arc<K>>, new: Arc<K>) {
    match old {
        None => deliver(listeners, &Change::Added(new)),
        // Another object of the same name: whoever tracks identities must hear of both.
        Some(old) if old.meta().uid != new.meta().uid => {
            deliver(listeners, &Change::Deleted(old));
            deliver(listeners, &Change::Added(new));
        }
        Some(old) => deliver(listeners, &Change::Updated { old, new }),
    }
}
