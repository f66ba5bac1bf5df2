//! Pod: containers that run together on a node.
//! Upstream: pkg/registry/core/pod, pkg/apis/core/validation.

pub(crate) mod defaults;
mod label_keys;
pub mod qos;
pub mod resources;
mod table;
mod update;
pub(crate) mod validation;
pub(crate) mod warnings;

use std::sync::Arc;

use serde_json::Value;

use crate::kind::{Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::types::core::v1::Pod;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        resets: &[("status", &["metadata.deletionTimestamp", "metadata.ownerReferences"])],
        returns_deleted: true,
        ends: true,
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            other: vec![
                Subresource::new("attach", "", "v1", "PodAttachOptions", Verbs::CONNECT),
                Subresource::new("binding", "", "v1", "Binding", Verbs::CREATE),
                Subresource::new("ephemeralcontainers", "", "v1", "Pod", Verbs::SUBRESOURCE),
                Subresource::new("eviction", "policy", "v1", "Eviction", Verbs::CREATE),
                Subresource::new("exec", "", "v1", "PodExecOptions", Verbs::CONNECT),
                Subresource::new("log", "", "v1", "Pod", Verbs::GET),
                Subresource::new("portforward", "", "v1", "PodPortForwardOptions", Verbs::CONNECT),
                Subresource::new("proxy", "", "v1", "PodProxyOptions", Verbs::PROXY),
                Subresource::new("resize", "", "v1", "Pod", Verbs::SUBRESOURCE),
            ],
            ..Subresources::default()
        },
        selectable_fields: vec![
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
            SelectableField::new("spec.restartPolicy", "/spec/restartPolicy"),
            SelectableField::new("spec.schedulerName", "/spec/schedulerName"),
            SelectableField::new("spec.serviceAccountName", "/spec/serviceAccountName"),
            SelectableField {
                absent: "false",
                ..SelectableField::new("spec.hostNetwork", "/spec/hostNetwork")
            },
            SelectableField::new("status.phase", "/status/phase"),
            SelectableField::new("status.podIP", "/status/podIP"),
            SelectableField::new("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        // Upstream: pkg/apis/core/v1/conversion.go (addFieldLabelConversionsForPod).
        field_aliases: &[("spec.host", "spec.nodeName"), ("status.podIPs", "")],
        generation: true,
        columns: table::columns(),
        graceful_deletion: true,
        hooks: Arc::new(
            Typed::<Pod>::new()
                .status(|| None)
                .default_with(defaults::pod)
                .status_of_new(update::initial_status)
                .prepare_for_create_where(label_keys::are_given, label_keys::merge)
                .prepare_for_status_update(update::prepare_for_status_update)
                .prepare_for_subresource_update(update::prepare_for_subresource_update)
                .validate(validation::create)
                .validate_update(update::validate)
                .validate_status_update(update::validate_status)
                .validate_subresource_update(update::validate_subresource_update)
                .warnings_of_new(warnings::pod)
                .deletion_grace_period(deletion_grace_period)
                .cells(table::cells),
        ),
        ..Descriptor::new("", "v1", "Pod", "pods", Scope::Namespaced)
    }
}

/// What the client asks for, else what the pod says. A pod that runs nowhere, or no more, goes at once.
fn deletion_grace_period(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let ended = matches!(text("/status/phase"), "Succeeded" | "Failed");
    if ended || text("/spec/nodeName").is_empty() {
        return Some(0);
    }
    let own = || pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let period = requested.or_else(own).unwrap_or(0);
    // A negative period is the way to say "as soon as possible", which is one second.
    Some(if period < 0 { 1 } else { period })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_long_a_pod_gets_to_end() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        for (pod, requested, period) in [
            (pod("n", "Running"), None, 30),
            (pod("n", "Running"), Some(5), 5),
            (pod("n", "Running"), Some(-1), 1),
            (pod("", "Pending"), None, 0),
            (pod("n", "Succeeded"), Some(5), 0),
        ] {
            assert_eq!(deletion_grace_period(&pod, requested), Some(period));
        }
    }
}
