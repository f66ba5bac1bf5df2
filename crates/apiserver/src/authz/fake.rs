//! A cluster in a map, for the tests of authentication, authorization and admission.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cluster::{ClusterState, Listing};

type Key = (String, String, String);

/// Objects by resource (`roles.rbac.authorization.k8s.io`), namespace and name.
pub(crate) struct FakeCluster {
    objects: Mutex<BTreeMap<Key, Bytes>>,
    revision: Mutex<watch::Sender<u64>>,
    lists: AtomicUsize,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl FakeCluster {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::default(),
            revision: Mutex::new(watch::Sender::new(1)),
            lists: AtomicUsize::new(0),
            meanwhile: Mutex::default(),
        })
    }

    fn now(&self) -> u64 {
        *self.revision.lock().borrow()
    }

    fn all(&self, resource: &GroupResource, namespace: &str) -> Listing {
        let resource = resource.to_string();
        let objects = self.objects.lock();
        let chosen = objects
            .iter()
            .filter(|((r, ns, _), _)| *r == resource && (namespace.is_empty() || ns == namespace));
        Listing { revision: self.now(), items: chosen.map(|(_, b)| b.clone()).collect() }
    }

    /// How often all of anything was listed.
    pub(crate) fn lists(&self) -> usize {
        self.lists.load(Ordering::Relaxed)
    }

    /// Does this while somebody waits for the next list.
    pub(crate) fn during_list(&self, meanwhile: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(meanwhile));
    }

    /// What the watch caches do when the store ends their watch: nobody hears from them any more.
    pub(crate) fn reset(&self) {
        let now = self.now();
        *self.revision.lock() = watch::Sender::new(now);
    }

    /// Stores an object under its resource.
    pub(crate) fn put(&self, resource: &str, mut object: Value) {
        let revision = self.now() + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = (resource.to_owned(), field("namespace"), field("name"));
        self.objects.lock().insert(key, Bytes::from(object.to_string()));
        self.revision.lock().send_replace(revision);
    }

    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.objects.lock().remove(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
        self.revision.lock().send_modify(|revision| *revision += 1);
    }
}

#[async_trait]
impl ClusterState for FakeCluster {
    async fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Object, Status> {
        let bytes = self.cached(resource, namespace, name).await?;
        let bytes = bytes.ok_or_else(|| Status::not_found(resource, name))?;
        Ok(Object(serde_json::from_slice(&bytes).unwrap()))
    }

    async fn cached(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Bytes>, Status> {
        let key = (resource.to_string(), namespace.to_owned(), name.to_owned());
        Ok(self.objects.lock().get(&key).cloned())
    }

    async fn list(&self, resource: &GroupResource, namespace: &str) -> Result<Listing, Status> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        Ok(self.all(resource, namespace))
    }

    async fn list_where(
        &self,
        resource: &GroupResource,
        field: &str,
        value: &str,
    ) -> Result<Listing, Status> {
        let pointer = format!("/{}", field.replace('.', "/"));
        let mut listing = self.all(resource, "");
        listing.items.retain(|item| {
            let object: Value = serde_json::from_slice(item).unwrap();
            object.pointer(&pointer).and_then(Value::as_str) == Some(value)
        });
        Ok(listing)
    }

    async fn changes(&self, _: &GroupResource) -> Result<watch::Receiver<u64>, Status> {
        Ok(self.revision.lock().subscribe())
    }

    async fn replace(&self, resource: &GroupResource, object: Object) -> Result<Object, Status> {
        let namespace = object.namespace().unwrap_or_default().to_owned();
        let old = self.get(resource, &namespace, object.name()).await?;
        if old.resource_version() != object.resource_version() {
            return Err(Status::conflict(resource, object.name(), "the object has been modified"));
        }
        self.put(&resource.to_string(), object.0.clone());
        self.get(resource, &namespace, object.name()).await
    }
}
