//! RuntimeClass: names a way of running containers.
//! Upstream: pkg/registry/node/runtimeclass, pkg/apis/node.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::dns_label;
use crate::kinds::core::pod::resources::validate_list;
use crate::kinds::core::pod::validation::scheduling;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta_validation::{immutable, labels_errors};
use crate::types::core::v1::Toleration;
use crate::types::node::v1::RuntimeClass;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        columns: vec![
            Column::object_name(),
            Column::new("Handler", "string", "The handler the container runtime knows."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<RuntimeClass>::new()
                .validate(validate_new)
                .validate_update(validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", Scope::Cluster)
    }
}

fn validate(class: &RuntimeClass) -> ErrorList {
    let mut errors = ErrorList::new();
    dns_label(&mut errors, &Path::new("handler"), &class.handler);
    if let Some(fixed) = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref()) {
        validate_list(&mut errors, fixed, &Path::new("overhead").child("podFixed").child("limits"));
    }
    if let Some(scheduling) = &class.scheduling {
        let path = Path::new("scheduling");
        if let Some(selector) = &scheduling.node_selector {
            errors.extend(labels_errors(selector, &path.child("nodeSelector")));
        }
        scheduling::tolerations(&mut errors, items(&scheduling.tolerations), &path.child("tolerations"));
    }
    errors
}

/// What is wrong with a new class: no toleration may be there twice. Updates do not ask that, nor does upstream.
fn validate_new(class: &RuntimeClass) -> ErrorList {
    let mut errors = validate(class);
    let path = Path::new("scheduling").child("tolerations");
    let list = class.scheduling.as_ref().map(|scheduling| items(&scheduling.tolerations)).unwrap_or_default();
    let mut seen = HashSet::new();
    for (index, toleration) in list.iter().enumerate() {
        let Toleration { key, operator, value, effect, toleration_seconds } = toleration;
        if !seen.insert([key, operator, value, effect].map(|part| text(part))) {
            let shown = json!({
                "Key": text(key), "Operator": text(operator), "Value": text(value), "Effect": text(effect),
                "TolerationSeconds": toleration_seconds,
            });
            errors.push(field::duplicate(&path.index(index), shown));
        }
    }
    errors
}

fn validate_update(new: &RuntimeClass, old: &RuntimeClass) -> ErrorList {
    let mut errors = validate(new);
    immutable(&mut errors, &Path::new("handler"), &new.handler, &old.handler);
    errors
}

fn warnings(class: &RuntimeClass, _: Option<&Value>) -> Vec<String> {
    let selector = class.scheduling.as_ref().and_then(|scheduling| scheduling.node_selector.as_ref());
    let keys = selector.into_iter().flat_map(|selector| selector.keys());
    keys.filter_map(|key| warn::node_label(key))
        .map(|message| format!("scheduling.nodeSelector: {message}"))
        .collect()
}

fn cells(class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
    vec![row::name(&class.metadata), class.handler.clone().into(), row::age(&class.metadata, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_class_has_no_toleration_twice() {
        let toleration = |value: &str, seconds: i64| json!({"key": "k", "operator": "Equal", "value": value, "effect": "NoExecute", "tolerationSeconds": seconds});
        for (tolerations, wrong) in [
            (json!([toleration("a", 1), toleration("b", 1)]), false),
            (json!([toleration("a", 1), toleration("a", 2)]), true),
        ] {
            let class = json!({"metadata": {"name": "c"}, "handler": "h", "scheduling": {"tolerations": tolerations}});
            let hooks = descriptor().hooks;
            let fields: Vec<String> = hooks.validate(&class).into_iter().map(|error| error.field).collect();
            let expected: &[&str] = if wrong { &["scheduling.tolerations[1]"] } else { &[] };
            assert_eq!(fields, expected, "{class}");
            assert_eq!(hooks.validate_update(&class, &class), []);
        }
    }
}
