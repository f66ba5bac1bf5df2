//! NodeAffinity: a pod chooses nodes by their labels, by must and by preference.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodeaffinity; component-helpers' nodeaffinity.

use std::collections::BTreeSet;

use api::{
    selector::nodes,
    types::core::v1::{Node, NodeSelectorTerm, PodSpec},
};

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection, normalize},
    terms::Labels,
};

/// The plugin.
pub struct NodeAffinity;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

/// Whether a node is one that the pod's nodeSelector and required affinity allow.
pub fn allows(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    nodes::matches(term, node.metadata.name.as_deref().unwrap_or_default(), labels)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn pre_filter(
        &self,
        _: &mut CycleState,
        pod: &PodInfo,
        _: &Cluster,
    ) -> Result<Option<BTreeSet<String>>, Rejection> {
        // Daemon pods name their node by a field: then no other node need be looked at.
        let affinity = pod.spec().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let Some(required) =
            affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        else {
            return Ok(None);
        };
        let mut names = BTreeSet::new();
        for term in &required.node_selector_terms {
            let named =
                term.match_fields.iter().flatten().find(|r| r.key == "metadata.name" && r.operator == "In");
            match named {
                Some(requirement) => names.extend(requirement.values.iter().flatten().cloned()),
                None => return Ok(None),
            }
        }
        Ok((!names.is_empty()).then_some(names))
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        if allows(pod.spec(), &node.node) {
            Ok(())
        } else {
            Err(Rejection::unresolvable(self.name(), REASON))
        }
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[&NodeInfo], _: &Cluster) -> bool {
        let affinity = pod.spec().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        affinity.is_some_and(|a| a.preferred_during_scheduling_ignored_during_execution.is_some())
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let affinity = pod.spec().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred = affinity
            .iter()
            .flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
        preferred
            .filter(|term| matches(&term.preference, &node.node))
            .map(|term| i64::from(term.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }

    fn hint(&self, pod: &PodInfo, event: &Event<'_>) -> Hint {
        let fits = |node: &Node| allows(pod.spec(), node);
        match event {
            Event::NodeAdded(node) if fits(node) => Hint::Queue,
            Event::NodeUpdated(old, new) if !fits(old) && fits(new) => Hint::Queue,
            Event::PodUpdated(..) => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::{cluster, filter, node, pod_with, scores};

    fn required(terms: serde_json::Value) -> PodInfo {
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        pod_with(json!({"affinity": {"nodeAffinity": required}}))
    }

    #[test]
    fn required_terms() {
        let expression = |key: &str, operator: &str, values: &[&str]| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        let cases = [
            (expression("zone", "In", &["zone-a", "zone-x"]), true),
            (expression("zone", "NotIn", &["zone-a"]), false),
            (expression("missing", "NotIn", &["x"]), true),
            (expression("zone", "Exists", &[]), true),
            (expression("zone", "DoesNotExist", &[]), false),
            (expression("zone", "Gt", &["1"]), false),
            (json!([{}]), false),
            (
                json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]),
                true,
            ),
        ];
        let cluster = cluster([node("a", "1", "1Gi")]);
        for (terms, fits) in cases {
            let name = terms.to_string();
            assert_eq!(filter(&NodeAffinity, &required(terms), &cluster, "a").is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn preferences_are_weighed() {
        let prefer = |zone: &str, weight: i32| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        let preferred = json!([prefer("zone-a", 10), prefer("zone-b", 40)]);
        let spec = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}});
        let cluster = cluster([node("a", "1", "1Gi"), node("b", "1", "1Gi"), node("c", "1", "1Gi")]);
        assert_eq!(scores(&NodeAffinity, &pod_with(spec), &cluster), [25, 100, 0]);
    }
}
