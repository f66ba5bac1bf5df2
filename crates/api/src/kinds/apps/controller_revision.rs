//! ControllerRevision: an immutable snapshot of the state of a StatefulSet or DaemonSet.
//! Upstream: pkg/registry/apps/controllerrevision, pkg/apis/apps.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::not_negative_if_set;
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::apps::v1::ControllerRevision;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        columns: vec![
            Column::object_name(),
            Column::new("Controller", "string", "Controller of the object"),
            Column::new("Revision", "string", "The number of the snapshot."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ControllerRevision>::new()
                .default_with(|revision| {
                    revision.revision.get_or_insert(0);
                })
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("apps", "v1", "ControllerRevision", "controllerrevisions", Scope::Namespaced)
    }
}

fn validate(revision: &ControllerRevision) -> ErrorList {
    let mut errors = ErrorList::new();
    if revision.data.0.is_null() {
        errors.push(field::required(&Path::new("data"), "data is mandatory"));
    }
    not_negative_if_set(&mut errors, &Path::new("revision"), revision.revision);
    errors
}

fn validate_update(new: &ControllerRevision, old: &ControllerRevision) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("data"), &new.data.0, &old.data.0);
    errors
}

fn cells(revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
    let owners = items(&revision.metadata.owner_references);
    let controller = owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| {
        let kind = owner.kind.to_lowercase();
        match owner.api_version.split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
            None => format!("{kind}/{}", owner.name),
        }
    });
    vec![
        row::name(&revision.metadata),
        controller.unwrap_or_else(|| row::NONE.to_owned()).into(),
        revision.revision.unwrap_or(0).into(),
        row::age(&revision.metadata, now),
    ]
}
