//! StorageClass: how volumes are made.
//! Upstream: pkg/registry/storage/storageclass, pkg/apis/storage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{json, one_of, one_of_if_set, qualified_name};
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::is_qualified_name;
use crate::types::core::v1::TopologySelectorTerm;
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
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("storage.k8s.io", "v1", "StorageClass", "storageclasses", Scope::Cluster)
    }
}

/// Refuses what cannot name who makes the volumes.
pub(super) fn provisioner(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(field::required(path, ""));
    } else {
        push_invalid(errors, path, name, is_qualified_name(&name.to_ascii_lowercase()));
    }
}

/// Refuses parameters that are too many or too large, or have no name.
pub(super) fn parameters(errors: &mut ErrorList, parameters: &BTreeMap<String, String>, path: &Path) {
    const MOST: usize = 512;
    const SIZE_MAX: usize = 256 * 1024;
    if parameters.len() > MOST {
        errors.push(field::too_long(path, MOST));
        return;
    }
    if parameters.contains_key("") {
        errors.push(field::invalid(path, "", "field can not be empty."));
    }
    if parameters.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > SIZE_MAX {
        errors.push(field::too_long(path, SIZE_MAX));
    }
}

/// What a term allows: its keys with their values.
type Allowed<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Refuses terms that allow nothing, and those that allow the same as another.
fn topologies(errors: &mut ErrorList, terms: &[TopologySelectorTerm], path: &Path) {
    let mut seen: Vec<Allowed<'_>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index).child("matchLabelExpressions");
        let mut allowed = Allowed::new();
        for (index, expression) in items(&term.match_label_expressions).iter().enumerate() {
            let path = path.index(index);
            let values_path = path.child("values");
            if expression.values.is_empty() {
                errors.push(field::required(&values_path, ""));
            }
            let mut values = BTreeSet::new();
            for (index, value) in expression.values.iter().enumerate() {
                if !values.insert(value.as_str()) {
                    errors.push(field::duplicate(&values_path.index(index), value.as_str()));
                }
            }
            qualified_name(errors, &path.child("key"), &expression.key);
            if allowed.insert(&expression.key, values).is_some() {
                errors.push(field::duplicate(&path.child("key"), expression.key.as_str()));
            }
        }
        if seen.contains(&allowed) {
            errors.push(field::duplicate(&path, ""));
        }
        seen.push(allowed);
    }
}

fn validate(class: &StorageClass) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(&mut errors, &class.provisioner, &Path::new("provisioner"));
    if let Some(parameters) = &class.parameters {
        self::parameters(&mut errors, parameters, &Path::new("parameters"));
    }
    topologies(&mut errors, items(&class.allowed_topologies), &Path::new("allowedTopologies"));
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

fn warnings(class: &StorageClass, _: Option<&Value>) -> Vec<String> {
    let path = Path::new("allowedTopologies");
    let mut warnings = Vec::new();
    for (index, term) in items(&class.allowed_topologies).iter().enumerate() {
        let path = path.index(index).child("matchLabelExpressions");
        for (index, expression) in items(&term.match_label_expressions).iter().enumerate() {
            if let Some(message) = warn::node_label(&expression.key) {
                warnings.push(format!("{}: {message}", path.index(index).child("key")));
            }
        }
    }
    warnings
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_are_checked() {
        let term = |values: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
        for (change, expected) in [
            (json!({"allowedTopologies": [term(json!(["a"])), term(json!(["b"]))]}), vec![]),
            (json!({"provisioner": ""}), vec!["provisioner: Required value"]),
            (
                json!({"parameters": {"": "x"}}),
                vec![r#"parameters: Invalid value: "": field can not be empty."#],
            ),
            (
                json!({"allowedTopologies": [term(json!(["a", "a"])), term(json!(["a"])), term(json!([]))]}),
                vec![
                    r#"allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a""#,
                    r#"allowedTopologies[1].matchLabelExpressions: Duplicate value: """#,
                    "allowedTopologies[2].matchLabelExpressions[0].values: Required value",
                ],
            ),
        ] {
            let mut class = json!({"metadata": {"name": "c"}, "provisioner": "p.example.com",
                                   "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
            class.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let errors = validate(&serde_json::from_value(class).unwrap());
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
    }
}
