//! RuntimeClass: names a way of running containers.
//! Upstream: pkg/registry/node/runtimeclass, pkg/apis/node.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::dns_label;
use crate::kinds::core::pod::resources::validate_list;
use crate::kinds::core::pod::validation::scheduling;
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta_validation::{immutable, labels_errors};
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
                .validate(validate)
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
