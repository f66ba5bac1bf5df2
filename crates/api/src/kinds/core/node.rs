//! Node: a machine that runs pods.
//! Upstream: pkg/registry/core/node, pkg/apis/core.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::kinds::check::{cidr, json as value_of};
use crate::kinds::core::pod::resources::validate_amount;
use crate::kinds::core::pod::validation::scheduling;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::types::core::v1::{Node, NodeSpec, NodeStatus};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const OLD_ROLE: &str = "kubernetes.io/role";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["no".into()],
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new("proxy", "", "v1", "NodeProxyOptions", Verbs::PROXY)],
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField {
            absent: "false",
            ..SelectableField::new("spec.unschedulable", "/spec/unschedulable")
        }],
        columns: vec![
            Column::object_name(),
            Column::new("Status", "string", "The status of the node"),
            Column::new("Roles", "string", "The roles of the node"),
            Column::age(),
            Column::new("Version", "string", "Kubelet Version reported by the node."),
            Column::wide("Internal-IP", "string", "The first internal address of the node."),
            Column::wide("External-IP", "string", "The first external address of the node."),
            Column::wide("OS-Image", "string", "The operating system the node reports."),
            Column::wide("Kernel-Version", "string", "The kernel the node reports."),
            Column::wide("Container-Runtime", "string", "The container runtime the node reports."),
        ],
        hooks: Arc::new(
            // A kubelet registers with its status, so creation keeps it.
            Typed::<Node>::new()
                .default_with(default)
                .prepare_for_update(|new, old| new.status.clone_from(&old.status))
                .prepare_for_status_update(|new, old| new.spec.clone_from(&old.spec))
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "Node", "nodes", Scope::Cluster)
    }
}

fn default(node: &mut Node) {
    node.spec.get_or_insert_default();
    let status = node.status.get_or_insert_default();
    if status.allocatable.is_none() {
        status.allocatable.clone_from(&status.capacity);
    }
    let endpoints = status.daemon_endpoints.get_or_insert_default();
    endpoints.kubelet_endpoint.get_or_insert_default();
    status.node_info.get_or_insert_default();
}

fn resources(errors: &mut ErrorList, status: Option<&NodeStatus>) {
    let Some(status) = status else { return };
    let path = Path::new("status");
    for (list, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (name, amount) in amounts.iter().flatten() {
            validate_amount(errors, name, amount, &path.child(list).child(name.clone()));
        }
    }
}

fn validate(node: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = NodeSpec::default();
    let spec = node.spec.as_ref().unwrap_or(&empty);
    // Upstream reports taints under the metadata.
    scheduling::taints(&mut errors, items(&spec.taints), &Path::new("metadata").child("taints"));
    resources(&mut errors, node.status.as_ref());
    let path = Path::new("spec").child("podCIDRs");
    let ranges = items(&spec.pod_cidrs);
    let mut seen = HashSet::new();
    for (index, range) in ranges.iter().enumerate() {
        cidr(&mut errors, &path.index(index), range);
        if !seen.insert(range) {
            errors.push(field::duplicate(&path.index(index), &**range));
        }
    }
    let v6 = ranges.iter().filter(|range| range.contains(':')).count();
    if v6 > 1 || ranges.len() - v6 > 1 {
        let message = "may specify no more than one CIDR for each IP family";
        errors.push(field::invalid(&path, value_of(&ranges), message));
    }
    errors
}

fn validate_update(new: &Node, old: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    let (empty, no_status) = (NodeSpec::default(), NodeStatus::default());
    let (spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    resources(&mut errors, new.status.as_ref());
    let addresses = items(&new.status.as_ref().unwrap_or(&no_status).addresses);
    let mut seen = HashSet::new();
    for (index, address) in addresses.iter().enumerate() {
        if !seen.insert((&address.type_, &address.address)) {
            let path = Path::new("status").child("addresses").index(index);
            errors.push(field::duplicate(&path, value_of(address)));
        }
    }
    let path = Path::new("spec");
    let ranges = items(&old_spec.pod_cidrs);
    if !ranges.is_empty() && ranges != items(&spec.pod_cidrs) {
        let message = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(field::forbidden(&path.child("podCIDRs"), message));
    }
    if !text(&old_spec.provider_id).is_empty() && text(&old_spec.provider_id) != text(&spec.provider_id) {
        let message = "node updates may not change providerID except from \"\" to valid";
        errors.push(field::forbidden(&path.child("providerID"), message));
    }
    scheduling::taints(&mut errors, items(&spec.taints), &Path::new("metadata").child("taints"));
    errors
}

fn roles(node: &Node) -> Vec<&str> {
    let labels = node.metadata.labels.iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == OLD_ROLE => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn warnings(node: &Node, _: Option<&Value>) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    if spec.config_source.is_some() {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !text(&spec.external_id).is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    warnings
}

fn cells(node: &Node, now: Timestamp) -> Vec<Value> {
    let (empty, no_status) = (NodeSpec::default(), NodeStatus::default());
    let spec = node.spec.as_ref().unwrap_or(&empty);
    let status = node.status.as_ref().unwrap_or(&no_status);
    let ready = items(&status.conditions).iter().find(|condition| condition.type_ == "Ready");
    let mut state = match ready.map(|condition| &*condition.status) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if spec.unschedulable == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    let info = status.node_info.clone().unwrap_or_default();
    let address = |kind: &str| {
        let found = items(&status.addresses).iter().find(|address| address.type_ == kind);
        row::or_none(found.map_or("", |address| &address.address))
    };
    let known = |text: &str| if text.is_empty() { "<unknown>" } else { text }.to_owned();
    vec![
        row::name(&node.metadata),
        state.into(),
        row::or_none(&roles(node).join(",")),
        row::age(&node.metadata, now),
        info.kubelet_version.clone().into(),
        address("InternalIP"),
        address("ExternalIP"),
        known(&info.os_image).into(),
        match &*info.architecture {
            "" => known(&info.kernel_version).into(),
            architecture => format!("{} ({architecture})", known(&info.kernel_version)).into(),
        },
        known(&info.container_runtime_version).into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(value: Value) -> Node {
        let mut node = serde_json::from_value(value).unwrap();
        default(&mut node);
        node
    }

    #[test]
    fn rows() {
        let node =
            node(json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kernelVersion": "6.1.0", "architecture": "amd64"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}));
        let cells = cells(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!("Ready,SchedulingDisabled"), json!("control-plane")]);
        assert_eq!(cells[5..7], [json!("10.0.0.1"), json!("<none>")]);
        assert_eq!(cells[7..9], [json!("<unknown>"), json!("6.1.0 (amd64)")]);
    }

    #[test]
    fn what_stays_once_set() {
        let old = node(json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "a"}}));
        assert_eq!(validate_update(&old, &old), []);
        assert_eq!(validate_update(&node(json!({})), &old).len(), 2);
        assert_eq!(validate_update(&old, &node(json!({}))), []);
    }
}
