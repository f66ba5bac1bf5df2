//! PriorityClass: names a priority of pods.
//! Upstream: pkg/registry/scheduling/priorityclass, pkg/apis/scheduling.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::one_of_if_set;
use crate::kinds::optional::{default_text, drop_false, text};
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::scheduling::v1::PriorityClass;

/// The highest priority users may define.
const USER_MAX: i32 = 1_000_000_000;
/// The classes of the system, and their priorities.
const SYSTEM: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["pc".into()],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Value", "integer", "The priority."),
            Column::new("Global-Default", "boolean", "Whether pods that name no class have it."),
            Column::age(),
            Column::new("PreemptionPolicy", "string", "Whether its pods may preempt others."),
        ],
        hooks: Arc::new(
            Typed::<PriorityClass>::new()
                .default_with(|class| {
                    class.value.get_or_insert(0);
                    drop_false(&mut class.global_default);
                    default_text(&mut class.preemption_policy, "PreemptLowerPriority");
                })
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", Scope::Cluster)
    }
}

fn value_of(class: &PriorityClass) -> i32 {
    class.value.unwrap_or(0)
}

fn validate(class: &PriorityClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let name = text(&class.metadata.name);
    let value_path = Path::new("value");
    if name.starts_with("system-") {
        match SYSTEM.iter().find(|(system, _)| *system == name) {
            None => errors.push(field::forbidden(
                &Path::new("metadata").child("name"),
                format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {name} is \
                     not a known system priority class"
                ),
            )),
            Some((_, value)) if value_of(class) != *value => errors.push(field::forbidden(
                &Path::new("metadata").child("name"),
                format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: value of \
                     {name} PriorityClass must be {value}"
                ),
            )),
            Some(_) => {}
        }
    } else if value_of(class) > USER_MAX {
        let message = format!("maximum allowed value of a user defined priority is {USER_MAX}");
        errors.push(field::forbidden(&value_path, message));
    }
    let policies = ["PreemptLowerPriority", "Never"];
    one_of_if_set(&mut errors, &Path::new("preemptionPolicy"), &class.preemption_policy, &policies);
    errors
}

fn validate_update(new: &PriorityClass, old: &PriorityClass) -> ErrorList {
    let mut errors = ErrorList::new();
    if new.value != old.value {
        errors.push(field::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    immutable(&mut errors, &Path::new("preemptionPolicy"), &new.preemption_policy, &old.preemption_policy);
    errors
}

fn cells(class: &PriorityClass, now: Timestamp) -> Vec<Value> {
    vec![
        row::name(&class.metadata),
        value_of(class).into(),
        class.global_default.unwrap_or(false).into(),
        row::age(&class.metadata, now),
        text(&class.preemption_policy).into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks() {
        for (name, value, errors) in [
            ("a", 5, 0),
            ("a", USER_MAX + 1, 1),
            ("system-node-critical", 2_000_001_000, 0),
            ("system-node-critical", 1, 1),
            ("system-mine", 1, 1),
        ] {
            let class: PriorityClass =
                serde_json::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
            assert_eq!(validate(&class).len(), errors, "{name} {value}");
        }
    }
}
