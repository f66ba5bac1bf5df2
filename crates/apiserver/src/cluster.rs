//! The server's own view of the cluster's state, for authentication, authorization and admission.
//!
//! Reads the watch caches and the store in process, without a request: no filters, no identity, no RBAC.
//! Writes only by compare-and-swap of a whole object (what quota accounting needs).
//! Not here: anything a client asks for (`engine`).

mod local;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use bytes::Bytes;

pub use local::Local;

/// A list of objects at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The store revision that the list reflects.
    pub revision: u64,
    /// The canonical JSON of each object, `metadata.resourceVersion` included, ordered by namespace and name.
    pub items: Vec<Bytes>,
}

/// Reads (and, rarely, writes) of cluster state from inside the server.
///
/// Objects are in their storage version. A group-resource that is not served answers 404.
#[async_trait]
pub trait ClusterState: Send + Sync + 'static {
    /// The newest state of one object; `namespace` is empty for cluster-scoped ones. 404 if there is none.
    async fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Object, Status>;

    /// One object out of the watch cache, which may be a few milliseconds old; `None` if there is none.
    /// Cheap: no parse, the bytes are shared.
    async fn cached(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Bytes>, Status>;

    /// All objects of a namespace (empty: of all namespaces) out of the watch cache.
    async fn list(&self, resource: &GroupResource, namespace: &str) -> Result<Listing, Status>;

    /// The objects of all namespaces whose selectable field (`spec.nodeName`) has a value, out of the watch cache's
    /// index: as many as there are of them, however many there are besides. Empty where there is no such field.
    async fn list_where(&self, resource: &GroupResource, field: &str, value: &str)
    -> Result<Listing, Status>;

    /// A value that changes whenever any object of `resource` changes: the revision of the latest change.
    /// Whoever derives something from a list keeps the revision it was derived at and compares.
    async fn changes(&self, resource: &GroupResource) -> Result<tokio::sync::watch::Receiver<u64>, Status>;

    /// Replaces an object if its resourceVersion is still the one that `object` carries, with neither
    /// admission nor validation; 409 if it is not. Returns the object as stored.
    async fn replace(&self, resource: &GroupResource, object: Object) -> Result<Object, Status>;
}
