//! ResourceSlice: devices that a driver offers.
//! Upstream: pkg/registry/resource/resourceslice.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Typed};
use crate::kinds::check::required;
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::resource::v1::ResourceSlice;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        selectable_fields: vec![
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
            SelectableField::new("spec.driver", "/spec/driver"),
        ],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Node", "string", "The node of the devices, when they are of one node"),
            Column::new("Driver", "string", "The driver that offers the devices"),
            Column::new("Pool", "string", "The pool that the devices belong to"),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ResourceSlice>::new().validate(validate).validate_update(validate_update).cells(cells),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", Scope::Cluster)
    }
}

fn validate(slice: &ResourceSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    required(&mut errors, &path.child("driver"), &slice.spec.driver);
    required(&mut errors, &path.child("pool").child("name"), &slice.spec.pool.name);
    errors
}

fn validate_update(new: &ResourceSlice, old: &ResourceSlice) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec");
    immutable(&mut errors, &path.child("driver"), &new.spec.driver, &old.spec.driver);
    immutable(&mut errors, &path.child("nodeName"), &new.spec.node_name, &old.spec.node_name);
    immutable(&mut errors, &path.child("pool").child("name"), &new.spec.pool.name, &old.spec.pool.name);
    errors
}

fn cells(slice: &ResourceSlice, now: Timestamp) -> Vec<Value> {
    vec![
        row::name(&slice.metadata),
        row::or_none(text(&slice.spec.node_name)),
        slice.spec.driver.clone().into(),
        slice.spec.pool.name.clone().into(),
        row::age(&slice.metadata, now),
    ]
}
