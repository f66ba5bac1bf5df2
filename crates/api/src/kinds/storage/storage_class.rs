//! StorageClass: how volumes are made.
//! Upstream: pkg/registry/storage/storageclass, pkg/apis/storage.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{json, one_of, one_of_if_set};
use crate::kinds::optional::{default_text, text};
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::is_qualified_name;
use crate::types::storage::v1::StorageClass;

const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["sc".into()],
        columns: vec![
            Column::object_name(),
            Column::new("Provisioner", "string", "Who makes the volumes."),
            Column::new("ReclaimPolicy", "string", "What becomes of a volume when its claim goes."),
            Column::new("VolumeBindingMode", "string", "When volumes are made and bound."),
            Column::new("AllowVolumeExpansion", "string", "Whether volumes can grow."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<StorageClass>::new()
                .default_with(|class| {
                    default_text(&mut class.reclaim_policy, "Delete");
                    default_text(&mut class.volume_binding_mode, "Immediate");
                })
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("storage.k8s.io", "v1", "StorageClass", "storageclasses", Scope::Cluster)
    }
}

fn validate(class: &StorageClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("provisioner");
    if class.provisioner.is_empty() {
        errors.push(field::required(&path, ""));
    } else {
        let messages = is_qualified_name(&class.provisioner.to_ascii_lowercase());
        push_invalid(&mut errors, &path, &class.provisioner, messages);
    }
    const PARAMETERS_MAX: usize = 512;
    let parameters = class.parameters.iter().flatten();
    let size: usize = parameters.clone().map(|(key, value)| key.len() + value.len()).sum();
    if parameters.count() > PARAMETERS_MAX || size > 256 * 1024 {
        errors.push(field::too_long(&Path::new("parameters"), 256 * 1024));
    }
    let policies = ["Delete", "Retain"];
    one_of_if_set(&mut errors, &Path::new("reclaimPolicy"), &class.reclaim_policy, &policies);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    one_of(&mut errors, &Path::new("volumeBindingMode"), text(&class.volume_binding_mode), &modes);
    errors
}

fn validate_update(new: &StorageClass, old: &StorageClass) -> ErrorList {
    let mut errors = validate(new);
    for (name, changed) in [
        ("parameters", new.parameters != old.parameters),
        ("provisioner", new.provisioner != old.provisioner),
        ("reclaimPolicy", new.reclaim_policy != old.reclaim_policy),
    ] {
        if changed {
            errors.push(field::forbidden(&Path::new(name), format!("updates to {name} are forbidden.")));
        }
    }
    let (new, old) = (json(&new.volume_binding_mode), json(&old.volume_binding_mode));
    immutable(&mut errors, &Path::new("volumeBindingMode"), &new, &old);
    errors
}

fn cells(class: &StorageClass, now: Timestamp) -> Vec<Value> {
    let annotations = class.metadata.annotations.as_ref();
    let is_default = DEFAULT_CLASS
        .iter()
        .any(|key| annotations.and_then(|all| all.get(*key)).is_some_and(|value| value == "true"));
    let name = text(&class.metadata.name);
    vec![
        if is_default { format!("{name} (default)").into() } else { name.into() },
        class.provisioner.clone().into(),
        class.reclaim_policy.as_deref().unwrap_or("Delete").into(),
        class.volume_binding_mode.as_deref().unwrap_or("Immediate").into(),
        class.allow_volume_expansion.unwrap_or(false).into(),
        row::age(&class.metadata, now),
    ]
}
