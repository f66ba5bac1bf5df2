//! Reaching into objects in their untyped form, for the plugins that change them.
//! Not here: what is changed.

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::parsed::Parsed;
use crate::cluster::ClusterState;

/// What is at a pointer through objects, without escapes: `Value::pointer` makes two texts of each step.
fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(value, |value, member| value.as_object()?.get(member))
}

/// The text at a pointer through objects; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the array at a pointer through objects; none where there is none.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    at(value, pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The array `field` of an object, made if it is not there.
pub(super) fn array_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let slot = &mut value[field];
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("it was just made an array if it was none")
}

/// The object as its type. What does not fit the type has been refused by validation before or will be.
pub(super) fn typed<T: DeserializeOwned>(object: &Object) -> Result<T, Status> {
    api::json::typed(&object.0).map_err(|e| Status::bad_request(e.to_string()))
}

/// As [`list`], of objects that are read at many writes.
pub(super) async fn list_parsed<T: DeserializeOwned>(
    parsed: &Parsed<T>,
    cluster: &dyn ClusterState,
    group: &str,
    resource: &str,
    namespace: &str,
) -> Result<Vec<Arc<T>>, Status> {
    let listing = cluster.list(&GroupResource::new(group, resource), namespace).await?;
    listing.items.iter().map(|item| parsed.get(item, |bytes| read(bytes))).collect()
}

/// As [`find`], of an object that is read at many writes.
pub(super) async fn find_parsed<T: DeserializeOwned>(
    parsed: &Parsed<T>,
    cluster: &dyn ClusterState,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<T>>, Status> {
    let known = cluster.cached(&GroupResource::new(group, resource), namespace, name).await?;
    match known {
        Some(bytes) => parsed.get(&bytes, |bytes| read(bytes)).map(Some),
        None => Ok(find(cluster, group, resource, namespace, name).await?.map(Arc::new)),
    }
}

fn read<T: DeserializeOwned>(object: &[u8]) -> Result<T, Status> {
    api::json::read(object).map_err(Status::internal)
}

/// All objects of a resource in a namespace (empty: everywhere).
pub(super) async fn list<T: DeserializeOwned>(
    cluster: &dyn ClusterState,
    group: &str,
    resource: &str,
    namespace: &str,
) -> Result<Vec<T>, Status> {
    let listing = cluster.list(&GroupResource::new(group, resource), namespace).await?;
    listing.items.iter().map(|item| read(item)).collect()
}

/// One object out of the cache, or, where the cache has none yet, from the store; `None` if there is none.
pub(super) async fn find<T: DeserializeOwned>(
    cluster: &dyn ClusterState,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<T>, Status> {
    let resource = GroupResource::new(group, resource);
    if let Some(bytes) = cluster.cached(&resource, namespace, name).await? {
        return read(&bytes).map(Some);
    }
    match cluster.get(&resource, namespace, name).await {
        Ok(object) => api::json::typed(&object.0).map(Some).map_err(Status::internal),
        Err(status) if status.is_not_found() => Ok(None),
        Err(status) => Err(status),
    }
}
