//! The caches: one per kind and selector in the whole process, fed by one list and one watch each.
//!
//! [`Informers`] is the shared set; asking it twice for the same thing gives the same [`Informer`]. A consumer reads
//! `Arc`s (objects are never copied), and hears of changes in one of two ways: a [`Listener`] is called synchronously,
//! in order, after the cache has changed (the reconcile runner's way: it only marks keys); a [`Subscription`] is
//! awaited and coalesces per key.
//!
//! Guarantees, each the name of a test in `tests/it/informer.rs`: changes of one object arrive in order; a listener added
//! late first sees what is there; nothing is missed over a relist, deletions least of all; an object replaced by
//! another of its name is a deletion and an addition; `synced` means that everything listed has been delivered.
//! Upstream: `client-go/tools/cache` (Reflector, DeltaFIFO, SharedIndexInformer).

mod cache;
mod reflector;
mod subscription;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use foundation::{SharedClock, SharedRandomness, SystemRandomness, Tasks};
use parking_lot::Mutex;

pub use cache::{Change, Listener};
pub use subscription::Subscription;

use self::cache::Cache;
use crate::{Accept, Cached, Client, Endpoint, ListOptions, PartialMetadata, Resource, cache_key};

/// The shared set of caches. Cloning is a reference count.
#[derive(Clone)]
pub struct Informers(Arc<Shared>);

/// Settings of a set.
#[derive(Clone)]
pub struct InformersOptions {
    /// Where jitter comes from.
    pub randomness: SharedRandomness,
    /// Objects per page of a list: bounds what a relist holds at once.
    pub page: u32,
}

impl Default for InformersOptions {
    fn default() -> Self {
        // client-go's pager asks for 500 at a time.
        InformersOptions { randomness: SystemRandomness::shared(), page: 500 }
    }
}

struct Shared {
    /// What feeds the caches; `None` is a set that is fed by hand.
    feed: Option<Feed>,
    options: InformersOptions,
    running: Mutex<HashMap<Source, Arc<dyn Any + Send + Sync>>>,
}

struct Feed {
    client: Client,
    tasks: Tasks,
    clock: SharedClock,
}

/// What makes two informers the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    kind: TypeId,
    endpoint: Endpoint,
    namespace: Option<String>,
    select: ListOptions,
}

impl Informers {
    /// An empty set; `client` is the identity that lists and watches.
    pub fn new(client: Client, tasks: &Tasks, clock: SharedClock) -> Informers {
        Informers::with_options(client, tasks, clock, InformersOptions::default())
    }

    /// [`Informers::new`] with settings.
    pub fn with_options(
        client: Client,
        tasks: &Tasks,
        clock: SharedClock,
        options: InformersOptions,
    ) -> Informers {
        let tasks = tasks.child("informers");
        let feed = Some(Feed { client, tasks, clock });
        Informers(Arc::new(Shared { feed, options, running: Mutex::default() }))
    }

    /// A set without a server: its caches hold what [`Informer::feed`] gives them. For tests and simulation of whatever
    /// decides over caches.
    pub fn unfed() -> Informers {
        Informers(Arc::new(Shared {
            feed: None,
            options: InformersOptions::default(),
            running: Mutex::default(),
        }))
    }

    /// The informer of all objects of a kind, started now if it is new.
    pub fn informer<K: Resource>(&self) -> Informer<K> {
        self.informer_with(ListOptions::default())
    }

    /// The informer of the objects of a kind that the selectors of `select` match (its other fields are ignored).
    pub fn informer_with<K: Resource>(&self, select: ListOptions) -> Informer<K> {
        self.start(Endpoint::of::<K>(), None, select, Accept::Object, Accept::Object)
    }

    /// The informer of one namespace's objects of a kind that the selectors of `select` match.
    pub fn namespaced<K: Resource>(&self, namespace: &str, select: ListOptions) -> Informer<K> {
        self.start(Endpoint::of::<K>(), Some(namespace.to_owned()), select, Accept::Object, Accept::Object)
    }

    /// The informer of any kind's metadata: all that the garbage collector needs, at a fraction of the memory.
    pub fn metadata(&self, endpoint: Endpoint) -> Informer<PartialMetadata> {
        self.start(endpoint, None, ListOptions::default(), Accept::MetadataList, Accept::Metadata)
    }

    /// Ends [`Informers::metadata`] of a kind that is no longer served.
    pub fn stop_metadata(&self, endpoint: &Endpoint) {
        let source = Source {
            kind: TypeId::of::<PartialMetadata>(),
            endpoint: endpoint.clone(),
            namespace: None,
            select: ListOptions::default(),
        };
        if let Some(informer) = self.0.running.lock().remove(&source)
            && let Ok(informer) = informer.downcast::<Cache<PartialMetadata>>()
        {
            informer.stop();
        }
    }

    fn start<K: Cached>(
        &self,
        endpoint: Endpoint,
        namespace: Option<String>,
        select: ListOptions,
        list: Accept,
        watch: Accept,
    ) -> Informer<K> {
        let select = ListOptions {
            label_selector: select.label_selector,
            field_selector: select.field_selector,
            ..ListOptions::default()
        };
        let source = Source { kind: TypeId::of::<K>(), endpoint, namespace, select };
        let mut running = self.0.running.lock();
        if let Some(cache) = running.get(&source) {
            let cache = cache.clone().downcast::<Cache<K>>().expect("the key holds the type");
            return Informer { cache };
        }
        let cache = Arc::new(Cache::<K>::new());
        running.insert(source.clone(), cache.clone());
        let Some(feed) = &self.0.feed else { return Informer { cache } };
        let reflector = reflector::Reflector {
            client: feed.client.clone(),
            clock: feed.clock.clone(),
            randomness: self.0.options.randomness.clone(),
            page: self.0.options.page,
            endpoint: source.endpoint,
            namespace: source.namespace,
            select: source.select,
            list_as: list,
            watch_as: watch,
            cache: cache.clone(),
        };
        let stop = cache.stopped();
        feed.tasks.spawn_until_cancelled("informer", async move {
            stop.run_until_cancelled(reflector.run()).await;
        });
        Informer { cache }
    }
}

/// One cache. Cloning is a reference count; the cache lives as long as its set.
pub struct Informer<K> {
    cache: Arc<Cache<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { cache: self.cache.clone() }
    }
}

impl<K: Cached> Informer<K> {
    /// One object; `namespace` is `None` (or empty) for a cluster-scoped kind.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.get_key(&cache_key(namespace, name))
    }

    /// One object by its [`cache_key`].
    pub fn get_key(&self, key: &str) -> Option<Arc<K>> {
        self.cache.read().objects.get(key).cloned()
    }

    /// Everything, in the order of the keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.read().objects.values().cloned().collect()
    }

    /// How many objects are cached.
    pub fn len(&self) -> usize {
        self.cache.read().objects.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with each object under the cache's read lock: for scans that keep little. `visit` must not touch
    /// an informer.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<K>)) {
        for object in self.cache.read().objects.values() {
            visit(object);
        }
    }

    /// The objects of one namespace, in the order of their names.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = format!("{namespace}/");
        self.cache
            .read()
            .objects
            .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&start))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Adds an index: `values` gives the values under which an object is found. The name of an index belongs to the
    /// function it was first added with; adding it again does nothing.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        self.cache.add_index(name, values);
    }

    /// The objects with this value in an index, in the order of their keys.
    ///
    /// # Panics
    /// When nobody has added an index of this name: that is a mistake in the program, which an empty answer would hide.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        self.cache.by_index(name, value)
    }

    /// How many objects have this value in an index.
    ///
    /// # Panics
    /// As [`Informer::by_index`].
    pub fn index_len(&self, name: &'static str, value: &str) -> usize {
        self.cache.index_len(name, value)
    }

    /// Calls `listener` with [`Change::Added`] for each object that is there, and then with each change, in order, after
    /// the cache shows it, on the informer's own task: it must be quick and must not add listeners to this informer.
    pub fn listen(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.cache.listen(Box::new(move |change| {
            listener(change);
            true
        }));
    }

    /// The changes as something to await; see [`Subscription`].
    pub fn subscribe(&self) -> Subscription<K> {
        let (subscription, listener) = subscription::pair();
        self.cache.listen(listener);
        subscription
    }

    /// Delivers [`Change::Updated`] with `old` and `new` the same for each object to every listener: for a consumer whose
    /// own state was lost.
    pub fn resync(&self) {
        self.cache.resync();
    }

    /// Whether this is the very cache of `other`: a cache that was stopped and made anew is another.
    pub fn is_same(&self, other: &Informer<K>) -> bool {
        Arc::ptr_eq(&self.cache, &other.cache)
    }

    /// Whether the first list has been delivered.
    pub fn has_synced(&self) -> bool {
        self.cache.has_synced()
    }

    /// Waits for the first list to have been delivered.
    pub async fn synced(&self) {
        self.cache.wait_synced().await;
    }

    /// The revision the cache has reached; empty before the first list.
    pub fn resource_version(&self) -> String {
        self.cache.read().resource_version.clone()
    }

    /// Makes the cache hold exactly these objects, as a list would: for a set that no server feeds
    /// ([`Informers::unfed`]).
    pub fn feed(&self, objects: Vec<K>) {
        let objects = objects.into_iter().map(Arc::new).collect();
        self.cache.replace(objects, String::new());
    }

    /// What trims objects before they are cached, beside `managedFields`, which never are. Set it before the first
    /// list returns, where the informer is made.
    pub fn set_transform(&self, transform: fn(&mut K)) {
        self.cache.set_transform(transform);
    }
}
