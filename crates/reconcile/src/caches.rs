//! The caches a controller declared, found by type; and what the runner asks of them without knowing their kinds.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use client::{Cached, Endpoint, Informer, Resource};

/// The index under which [`Caches::controlled_by`] finds objects: the UID of their controller.
pub const CONTROLLER_UID: &str = "controller-uid";

/// The informers of one controller.
#[derive(Default)]
pub struct Caches {
    typed: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    progress: HashMap<Endpoint, Arc<dyn Progress>>,
}

/// How far a cache has come.
pub(crate) trait Progress: Send + Sync {
    fn revision(&self) -> u64;
    /// The UID under a key, and whether the object is being deleted.
    fn uid(&self, key: &str) -> Option<(String, bool)>;
    /// Calls `listener` after each change.
    fn listen(&self, listener: Box<dyn Fn() + Send + Sync>);
    fn synced(&self) -> futures::future::BoxFuture<'static, ()>;
}

impl<K: Cached> Progress for Informer<K> {
    fn revision(&self) -> u64 {
        self.resource_version().parse().unwrap_or(0)
    }

    fn uid(&self, key: &str) -> Option<(String, bool)> {
        let object = self.get_key(key)?;
        let meta = object.meta();
        Some((meta.uid.clone().unwrap_or_default(), meta.deletion_timestamp.is_some()))
    }

    fn listen(&self, listener: Box<dyn Fn() + Send + Sync>) {
        Informer::listen(self, move |_| listener());
    }

    fn synced(&self) -> futures::future::BoxFuture<'static, ()> {
        let informer = self.clone();
        Box::pin(async move { Informer::synced(&informer).await })
    }
}

impl Caches {
    pub(crate) fn insert<K: Resource>(&mut self, informer: Informer<K>) {
        self.progress.insert(Endpoint::of::<K>(), Arc::new(informer.clone()));
        self.typed.insert(TypeId::of::<K>(), Box::new(informer));
    }

    pub(crate) fn progress(&self, endpoint: &Endpoint) -> Option<&Arc<dyn Progress>> {
        self.progress.get(endpoint)
    }

    /// Calls `listener` after each change of any cache.
    pub(crate) fn listen(&self, listener: impl Fn() + Clone + Send + Sync + 'static) {
        for progress in self.progress.values() {
            progress.listen(Box::new(listener.clone()));
        }
    }

    /// The first list of every cache is in.
    pub(crate) async fn synced(&self) {
        for progress in self.progress.values() {
            progress.synced().await;
        }
    }

    /// The cache of a kind.
    ///
    /// # Panics
    /// When the controller did not declare the kind in [`crate::Controller::watch`]: it would read what nothing wakes it for.
    pub fn informer<K: Resource>(&self) -> &Informer<K> {
        self.typed
            .get(&TypeId::of::<K>())
            .and_then(|informer| informer.downcast_ref())
            .unwrap_or_else(|| panic!("the controller reads {} but does not declare it", K::KIND))
    }

    /// One object; `namespace` is empty for a cluster-scoped kind.
    pub fn get<K: Resource>(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.informer::<K>().get(Some(namespace), name)
    }

    /// The object of a key.
    pub fn get_key<K: Resource>(&self, key: &crate::Key) -> Option<Arc<K>> {
        self.informer::<K>().get_key(key.as_str())
    }

    /// All objects of a kind.
    pub fn list<K: Resource>(&self) -> Vec<Arc<K>> {
        self.informer::<K>().list()
    }

    /// The objects of a namespace.
    pub fn list_namespace<K: Resource>(&self, namespace: &str) -> Vec<Arc<K>> {
        self.informer::<K>().list_namespace(namespace)
    }

    /// The objects with this value in an index that the controller declared.
    pub fn by_index<K: Resource>(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        self.informer::<K>().by_index(name, value)
    }

    /// The objects whose controller has this UID ([`crate::Watches::owned`] declares the index).
    pub fn controlled_by<K: Resource>(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(CONTROLLER_UID, uid)
    }
}
