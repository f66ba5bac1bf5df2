//! ResourceClaim: a request for devices.
//! Upstream: pkg/registry/resource/resourceclaim.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{allocation, requests};
use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::resource::v1::ResourceClaim;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column::new(
                "State",
                "string",
                "A summary of the current state (allocated, pending, reserved, etc.).",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ResourceClaim>::new()
                .status(|| Some(json!({})))
                .default_with(|claim| requests::default(claim.spec.as_mut()))
                .validate(|claim| requests::validate(claim.spec.as_ref(), &Path::new("spec")))
                .validate_update(validate_update)
                .validate_status_update(allocation::validate_status_update)
                .cells(cells),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", Scope::Namespaced)
    }
}

fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec);
    errors
}

fn cells(claim: &ResourceClaim, now: Timestamp) -> Vec<Value> {
    let deleted = claim.metadata.deletion_timestamp.is_some();
    let status = claim.status.as_ref();
    let allocated = status.is_some_and(|status| status.allocation.is_some());
    let reserved = status.is_some_and(|status| !items(&status.reserved_for).is_empty());
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (allocated && reserved, "reserved"),
    ];
    let states: Vec<_> = states.into_iter().filter(|(holds, _)| *holds).map(|(_, state)| state).collect();
    vec![row::name(&claim.metadata), states.join(",").into(), row::age(&claim.metadata, now)]
}
