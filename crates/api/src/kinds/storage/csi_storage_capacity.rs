//! CSIStorageCapacity: how much a CSI driver can still provide.
//! Upstream: pkg/registry/storage/csistoragecapacity, pkg/apis/storage.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{dns_subdomain, quantity};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta_validation::{NOT_NEGATIVE, immutable, label_selector_errors};
use crate::types::storage::v1::CSIStorageCapacity;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        columns: vec![
            Column::object_name(),
            Column::new("StorageClassName", "string", "The class the capacity is for."),
            Column::new("Capacity", "string", "How much can still be provided."),
        ],
        hooks: Arc::new(
            Typed::<CSIStorageCapacity>::new()
                .validate(validate)
                .validate_update(validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "storage.k8s.io",
            "v1",
            "CSIStorageCapacity",
            "csistoragecapacities",
            Scope::Namespaced,
        )
    }
}

fn validate(capacity: &CSIStorageCapacity) -> ErrorList {
    let mut errors = ErrorList::new();
    dns_subdomain(&mut errors, &Path::new("storageClassName"), &capacity.storage_class_name);
    if let Some(selector) = &capacity.node_topology {
        errors.extend(label_selector_errors(selector, &Path::new("nodeTopology")));
    }
    for (name, amount) in
        [("capacity", &capacity.capacity), ("maximumVolumeSize", &capacity.maximum_volume_size)]
    {
        if let Some(amount) = amount.as_ref().map(quantity).filter(|amount| amount.is_negative()) {
            errors.push(field::invalid(&Path::new(name), amount.to_string(), NOT_NEGATIVE));
        }
    }
    errors
}

fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("nodeTopology"), &new.node_topology, &old.node_topology);
    immutable(&mut errors, &Path::new("storageClassName"), &new.storage_class_name, &old.storage_class_name);
    errors
}

fn warnings(capacity: &CSIStorageCapacity, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    warn::node_selector(&mut warnings, capacity.node_topology.as_ref(), &Path::new("nodeTopology"));
    warnings
}

fn cells(capacity: &CSIStorageCapacity, _: Timestamp) -> Vec<Value> {
    let amount =
        capacity.capacity.as_ref().map_or_else(|| "<unset>".to_owned(), |wire| quantity(wire).to_string());
    vec![row::name(&capacity.metadata), capacity.storage_class_name.clone().into(), amount.into()]
}
