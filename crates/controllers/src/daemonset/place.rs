//! On which nodes a DaemonSet's pods belong, and what such a pod looks like. Pure.
//!
//! Upstream: `pkg/controller/daemon/daemon_controller.go` (NodeShouldRunDaemonPod), `util/daemonset_util.go`.

use api::types::apps::v1::DaemonSet;
use api::types::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

use crate::{claim, history, node_fit, object, pods};

/// What every pod of a DaemonSet tolerates: the states of a node that it may be there to repair.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NO_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The template's spec with the tolerations that every such pod has.
fn spec(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.template.spec.clone().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let tolerations = spec.tolerations.get_or_insert_default();
    let wanted = TOLERATED.iter().chain(host_network.then_some(&NO_NETWORK));
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// Whether the node should have a pod, and whether one that is there may stay.
pub(super) fn judge(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let spec = spec(set);
    let name = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if name.is_some_and(|name| name != object::name(node)) || !node_fit::affinity_allows(&spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if !node_fit::tolerates(tolerations, node, &["NoSchedule", "NoExecute"]) {
        return (false, node_fit::tolerates(tolerations, node, &["NoExecute"]));
    }
    (true, true)
}

/// The node a pod is on, or is pinned to while it waits to be bound.
pub(super) fn node_of(pod: &Pod) -> &str {
    let node = pods::node(pod);
    if !node.is_empty() {
        return node;
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten())
        .find(|field| field.key == "metadata.name")
        .and_then(|field| field.values.as_ref()?.first())
        .map_or("", String::as_str)
}

/// The pod of this revision for a node: pinned by an affinity to its name, which replaces the required one (that has been
/// judged already).
pub(super) fn pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let owner = claim::reference(set);
    let mut pod = pods::from_template(&set.spec.template, object::namespace(set), object::name(set), owner);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(history::HASH.to_owned(), hash.to_owned());
    labels.insert(
        "pod-template-generation".to_owned(),
        object::annotation(set, "deprecated.daemonset.template.generation").unwrap_or("1").to_owned(),
    );
    let mut spec = spec(set);
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
    pod.spec = Some(spec);
    pod
}
