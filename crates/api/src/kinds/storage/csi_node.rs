//! CSINode: the CSI drivers on a node.
//! Upstream: pkg/registry/storage/csinode, pkg/apis/storage.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{not_negative_if_set, required};
use crate::kinds::row;
use crate::types::storage::v1::CSINode;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        columns: vec![
            Column::object_name(),
            Column::new(
                "Drivers",
                "integer",
                "Drivers indicates the number of CSI drivers registered on the node",
            ),
            Column::age(),
        ],
        hooks: Arc::new(Typed::<CSINode>::new().validate(validate).cells(cells)),
        ..Descriptor::new("storage.k8s.io", "v1", "CSINode", "csinodes", Scope::Cluster)
    }
}

fn validate(node: &CSINode) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (index, driver) in node.spec.drivers.iter().enumerate() {
        let path = Path::new("spec").child("drivers").index(index);
        required(&mut errors, &path.child("name"), &driver.name);
        required(&mut errors, &path.child("nodeID"), &driver.node_id);
        if !seen.insert(&driver.name) {
            errors.push(field::duplicate(&path.child("name"), &*driver.name));
        }
        let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
        not_negative_if_set(&mut errors, &path.child("allocatable").child("count"), count);
    }
    errors
}

fn cells(node: &CSINode, now: Timestamp) -> Vec<Value> {
    vec![row::name(&node.metadata), node.spec.drivers.len().into(), row::age(&node.metadata, now)]
}
