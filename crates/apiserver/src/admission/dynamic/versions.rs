//! The same object in another version of its kind, for those who asked for that one.
//! Upstream: apiserver `pkg/admission/conversion.go`, `runtime.EquivalentResourceRegistry`.

use std::sync::Arc;

use api::{GroupVersionKind, GroupVersionResource, Status};
use serde_json::Value;

use crate::registry::{Registry, Resource};

/// The resources that are this one in other groups or versions.
pub(in crate::admission) fn equivalents(
    registry: &Registry,
    resource: &GroupVersionResource,
) -> Vec<(GroupVersionResource, GroupVersionKind)> {
    let table = registry.table();
    let Some(own) = table.get(&resource.group, &resource.version, &resource.resource) else {
        return Vec::new();
    };
    let stored = own.descriptor.storage();
    let mut found: Vec<_> = table
        .all()
        .filter(|other| other.descriptor.storage() == stored)
        .map(|other| (other.descriptor.group_version_resource(), other.descriptor.group_version_kind()))
        .filter(|(other, _)| other != resource)
        .collect();
    found.sort_by(|(a, _), (b, _)| (&a.group, &a.version).cmp(&(&b.group, &b.version)));
    found
}

/// The served resource.
pub(in crate::admission) fn resource(
    registry: &Registry,
    of: &GroupVersionResource,
) -> Option<Arc<Resource>> {
    registry.table().get(&of.group, &of.version, &of.resource).cloned()
}

/// An object of one version in another.
///
/// # Errors
/// 500 where a conversion webhook failed.
pub(in crate::admission) async fn convert(
    registry: &Registry,
    object: &Value,
    from: &GroupVersionResource,
    to: &GroupVersionResource,
) -> Result<Value, Status> {
    if from == to || object.is_null() {
        return Ok(object.clone());
    }
    // A version that is served no more since it was matched has nothing to convert it to.
    let (Some(source), Some(target)) = (resource(registry, from), resource(registry, to)) else {
        return Ok(object.clone());
    };
    // What subresources have of their own (a Scale) is the same whatever the version of the resource.
    if object["kind"] != *source.descriptor.kind {
        return Ok(object.clone());
    }
    target.converted_from(&source, object).await.map_err(|error| Status::internal(error.message))
}
