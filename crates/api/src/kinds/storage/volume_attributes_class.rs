//! VolumeAttributesClass: attributes of volumes that can change.
//! Upstream: pkg/registry/storage/volumeattributesclass, pkg/apis/storage.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::storage_class;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::row;
use crate::types::storage::v1::VolumeAttributesClass;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["vac".into()],
        columns: vec![
            Column::object_name(),
            Column::new("DriverName", "string", "The driver that understands the attributes."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<VolumeAttributesClass>::new()
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new(
            "storage.k8s.io",
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            Scope::Cluster,
        )
    }
}

fn validate(class: &VolumeAttributesClass) -> ErrorList {
    let mut errors = ErrorList::new();
    storage_class::provisioner(&mut errors, &class.driver_name, &Path::new("driverName"));
    let empty = Default::default();
    let parameters = class.parameters.as_ref().unwrap_or(&empty);
    storage_class::parameters(&mut errors, parameters, &Path::new("parameters"));
    if parameters.is_empty() {
        errors.push(field::required(&Path::new("parameters"), "must contain at least one key/value pair"));
    }
    errors
}

fn validate_update(new: &VolumeAttributesClass, old: &VolumeAttributesClass) -> ErrorList {
    let mut errors = validate(new);
    for (name, changed) in
        [("driverName", new.driver_name != old.driver_name), ("parameters", new.parameters != old.parameters)]
    {
        if changed {
            errors.push(field::forbidden(&Path::new(name), format!("updates to {name} are forbidden.")));
        }
    }
    errors
}

fn cells(class: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
    vec![row::name(&class.metadata), class.driver_name.clone().into(), row::age(&class.metadata, now)]
}
