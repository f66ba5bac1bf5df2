//! TaintToleration: a pod stays away from nodes whose taints it does not tolerate.
//!
//! Upstream: pkg/scheduler/framework/plugins/tainttoleration; component-helpers' rules of toleration.

use api::types::core::v1::{Node, PodSpec, Taint};

use crate::{
    cluster::{Cluster, NodeInfo, PodInfo},
    framework::{CycleState, Event, Hint, Plugin, Rejection, normalize},
};

/// The plugin.
pub struct TaintToleration;

/// Whether a pod tolerates a taint.
pub fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let (own, other) =
            (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
        let number = |text: &str| text.parse::<i64>().ok();
        let value_fits = match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => own == other,
            "Exists" => true,
            // Numbers are compared by TaintTolerationComparisonOperators, which is not on by default upstream.
            "Gt" => number(other).zip(number(own)).is_some_and(|(taint, own)| taint > own),
            "Lt" => number(other).zip(number(own)).is_some_and(|(taint, own)| taint < own),
            _ => false,
        };
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value_fits
    })
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

fn kept_away<'a>(spec: &PodSpec, node: &'a Node) -> Option<&'a Taint> {
    taints(node)
        .find(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(spec, taint))
}

/// Whether a node's taints keep a pod away.
pub fn keeps_away(spec: &PodSpec, node: &Node) -> bool {
    kept_away(spec, node).is_some()
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        match kept_away(pod.spec(), &node.node) {
            Some(_) => Err(Rejection::unresolvable(self.name(), "node(s) had untolerated taint(s)")),
            None => Ok(()),
        }
    }

    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, _: &[&NodeInfo], _: &Cluster) -> bool {
        true
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let disliked =
            taints(&node.node).filter(|t| t.effect == "PreferNoSchedule" && !tolerates(pod.spec(), t));
        disliked.count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }

    fn hint(&self, pod: &PodInfo, event: &Event<'_>) -> Hint {
        let fits = |node: &Node| kept_away(pod.spec(), node).is_none();
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
    use crate::framework::testing::{cluster, filter, node, node_with, pod_with, scores};

    #[test]
    fn tolerations_are_matched_by_key_value_and_effect() {
        let taint = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
        let tolerate = |toleration: serde_json::Value| json!({"tolerations": [toleration]});
        let cases = [
            ("NoSchedule", json!({}), false),
            ("PreferNoSchedule", json!({}), true),
            ("NoSchedule", tolerate(json!({"key": "k", "value": "v"})), true),
            ("NoSchedule", tolerate(json!({"key": "k", "value": "other"})), false),
            ("NoSchedule", tolerate(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})), false),
            ("NoExecute", tolerate(json!({"operator": "Exists"})), true),
        ];
        for (effect, spec, fits) in cases {
            let cluster = cluster([node_with("n", taint(effect), json!({}))]);
            let name = format!("{effect} {spec}");
            assert_eq!(filter(&TaintToleration, &pod_with(spec), &cluster, "n").is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn a_disliked_node_scores_less() {
        let disliked = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
        let cluster = cluster([node("a", "1", "1Gi"), node_with("b", disliked, json!({}))]);
        assert_eq!(scores(&TaintToleration, &pod_with(json!({})), &cluster), [100, 0]);
    }
}
