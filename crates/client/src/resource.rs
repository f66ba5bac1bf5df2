//! What the client asks of a type: [`Resource`] to be sent and received, [`Cached`] to be held by an informer.

use std::sync::Arc;

use api::k8s_openapi;
use api::meta::ObjectMeta;
use api::types::core::v1::ObjectReference;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A kind of `k8s-openapi` with ordinary metadata. Implemented for all of them.
pub trait Resource:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<K> Resource for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What an informer can hold.
pub trait Cached: DeserializeOwned + Send + Sync + 'static {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, for a transform that trims it before it is cached.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
}

impl<K: Resource> Cached for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// An object of any kind reduced to its type and metadata (`PartialObjectMetadata` of `meta.k8s.io/v1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialMetadata {
    /// The object's own `apiVersion` where the server says it (watch events), else `meta.k8s.io/v1`.
    #[serde(default)]
    pub api_version: String,
    /// The object's own kind where the server says it, else `PartialObjectMetadata`.
    #[serde(default)]
    pub kind: String,
    /// The metadata, whole.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Cached for PartialMetadata {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The key under which an object is cached: `namespace/name`, or `name` for a cluster-scoped one.
pub fn cache_key(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

/// [`cache_key`] of an object.
pub fn key_of<K: Cached>(object: &K) -> Arc<str> {
    let meta = object.meta();
    cache_key(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default()).into()
}

/// The namespace (empty for cluster-scoped) and name in a [`cache_key`].
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// Anything an event can be about.
pub trait ObjectReferenceOf {
    /// The reference an Event's `involvedObject` carries.
    fn object_reference(&self) -> ObjectReference;
}

impl<K: Resource> ObjectReferenceOf for K {
    fn object_reference(&self) -> ObjectReference {
        object_reference(self)
    }
}

/// The reference to `object` as upstream's `reference.GetReference` makes it.
pub fn object_reference<K: Resource>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}
