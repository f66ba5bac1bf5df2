//! StorageVersionMigration: the wish to write all objects of a resource again.
//! Upstream: pkg/registry/storagemigration/storageversionmigration.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{self, json as value_of};
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::names::{is_dns1035_label, is_dns1123_subdomain};
use crate::types::storagemigration::v1::{StorageVersionMigration, StorageVersionMigrationStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::GroupResource;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column { format: "".into(), ..Column::object_name() },
            Column::new("Resource", "string", "Fully qualified resource to migrate"),
        ],
        hooks: Arc::new(
            Typed::<StorageVersionMigration>::new()
                .status(|| Some(json!({})))
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .cells(cells),
        ),
        ..Descriptor::new(
            "storagemigration.k8s.io",
            "v1",
            "StorageVersionMigration",
            "storageversionmigrations",
            Scope::Cluster,
        )
    }
}

fn validate(migration: &StorageVersionMigration) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("resource");
    let empty = GroupResource::default();
    let resource = migration.spec.as_ref().map_or(&empty, |spec| &spec.resource);
    let resource_path = path.child("resource");
    if resource.resource.is_empty() {
        errors.push(field::required(&resource_path, "resource is required"));
    } else {
        joined(&mut errors, &resource_path, &resource.resource, is_dns1035_label(&resource.resource));
    }
    if !resource.group.is_empty() {
        let messages = is_dns1123_subdomain(&resource.group);
        joined(&mut errors, &path.child("group"), &resource.group, messages);
    }
    errors
}

/// One error for all that is wrong with a name.
fn joined(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    if !messages.is_empty() {
        errors.push(field::invalid(path, value, messages.join(",")));
    }
}

fn validate_update(new: &StorageVersionMigration, old: &StorageVersionMigration) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec);
    errors
}

/// A migration ends once, in one way, and is then no longer running; its resource version is set once.
fn validate_status_update(new: &StorageVersionMigration, old: &StorageVersionMigration) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let empty = StorageVersionMigrationStatus::default();
    let (new, old) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let version_path = path.child("resourceVersion");
    let version = text(&new.resource_version);
    if !version.is_empty() && version.parse::<u64>().is_err() {
        errors.push(field::invalid(&version_path, version, "resource version is not well formed"));
    }
    let path = path.child("conditions");
    check::conditions(&mut errors, &path, items(&new.conditions));
    if !text(&old.resource_version).is_empty() && text(&old.resource_version) != version {
        errors.push(field::invalid(&version_path, version, "field is immutable"));
    }
    let holds = |status: &StorageVersionMigrationStatus, kind: &str| {
        items(&status.conditions)
            .iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let (succeeded, failed, running) = (holds(new, "Succeeded"), holds(new, "Failed"), holds(new, "Running"));
    for (contradiction, message) in [
        (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
        (succeeded && running, "Running condition cannot be true when success condition is true"),
        (failed && running, "Running condition cannot be true when failed condition is true"),
        (holds(old, "Succeeded") && !succeeded, "Success condition cannot be set to false once it is true"),
        (holds(old, "Failed") && !failed, "Failed condition cannot be set to false once it is true"),
    ] {
        if contradiction {
            errors.push(field::invalid(&path, value_of(&new.conditions), message));
        }
    }
    errors
}

fn cells(migration: &StorageVersionMigration, _: Timestamp) -> Vec<Value> {
    let resource = migration.spec.as_ref().map(|spec| &spec.resource);
    let resource = resource.map(|resource| match resource.group.as_str() {
        "" => resource.resource.clone(),
        group => format!("{}.{group}", resource.resource),
    });
    vec![row::name(&migration.metadata), resource.unwrap_or_default().into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(resource: Value, status: Value) -> StorageVersionMigration {
        serde_json::from_value(json!({
            "metadata": {"name": "m"}, "spec": {"resource": resource}, "status": status
        }))
        .unwrap()
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_resource_is_named_and_kept() {
        let crds = json!({"group": "stable.example.com", "resource": "crontabs"});
        let good = migration(crds, json!({}));
        assert_eq!(texts(&validate(&good)), Vec::<String>::new());
        assert_eq!(
            texts(&validate(&migration(json!({"group": "", "resource": ""}), json!({})))),
            ["spec.resource.resource: Required value: resource is required"]
        );
        let other = migration(json!({"group": "", "resource": "secrets"}), json!({}));
        assert_eq!(
            texts(&validate_update(&other, &good)),
            [r#"spec: Invalid value: {"resource":{"group":"","resource":"secrets"}}: field is immutable"#]
        );
        assert_eq!(cells(&good, Timestamp::UNIX_EPOCH), [json!("m"), json!("crontabs.stable.example.com")]);
        assert_eq!(cells(&other, Timestamp::UNIX_EPOCH), [json!("m"), json!("secrets")]);
    }

    #[test]
    fn the_end_is_final() {
        let with = |types: &[&str], version: &str| {
            let conditions: Vec<_> = types
                .iter()
                .map(|kind| {
                    json!({"type": kind, "status": "True", "reason": "R", "message": "",
                           "lastTransitionTime": "2026-01-01T00:00:00Z"})
                })
                .collect();
            let resource = json!({"group": "", "resource": "secrets"});
            migration(resource, json!({"resourceVersion": version, "conditions": conditions}))
        };
        let details = |new: &StorageVersionMigration, old: &StorageVersionMigration| {
            validate_status_update(new, old).into_iter().map(|error| error.detail).collect::<Vec<_>>()
        };
        assert!(details(&with(&["Succeeded"], "7"), &with(&["Running"], "")).is_empty());
        assert_eq!(
            details(&with(&["Failed", "Running"], "8"), &with(&["Succeeded"], "7")),
            [
                "field is immutable",
                "Running condition cannot be true when failed condition is true",
                "Success condition cannot be set to false once it is true",
            ]
        );
        assert_eq!(details(&with(&[], "x"), &with(&[], "")), ["resource version is not well formed"]);
    }
}
