//! Whether a node is one that a pod may run on: its selector, its required affinity, its tolerations. Pure.
//!
//! Not here: room on the node (the scheduler decides).
//! Upstream: `component-helpers/scheduling/corev1`, `pkg/controller/daemon` (predicates).

use api::types::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

use crate::{claim, object};

/// Whether the pod's node selector and required node affinity allow the node.
pub(crate) fn affinity_allows(spec: &PodSpec, node: &Node) -> bool {
    if let Some(selector) = &spec.node_selector
        && !claim::is_subset(selector, object::labels(node))
    {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_allows(term, node)))
}

/// A term without requirements allows nothing.
fn term_allows(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| object::labels(node).get(key).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then(|| object::name(node));
    expressions.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, have: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = have.is_some_and(|have| values.iter().any(|value| value == have));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let wanted = number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => matches!((number(have), wanted), (Some(have), Some(wanted)) if have > wanted),
        "Lt" => matches!((number(have), wanted), (Some(have), Some(wanted)) if have < wanted),
        _ => false,
    }
}

/// Whether every taint of the node with one of these effects is tolerated.
pub(crate) fn tolerates(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .all(|taint| tolerations.iter().any(|toleration| tolerates_taint(toleration, taint)))
}

/// Whether one toleration is of one taint.
pub(crate) fn tolerates_taint(toleration: &Toleration, taint: &Taint) -> bool {
    let is =
        |field: &Option<String>, value: &str| field.as_deref().is_none_or(|f| f.is_empty() || f == value);
    if !is(&toleration.effect, &taint.effect) || !is(&toleration.key, &taint.key) {
        return false;
    }
    let (have, want) =
        (taint.value.as_deref().unwrap_or_default(), toleration.value.as_deref().unwrap_or_default());
    let numbers = || Some((have.parse::<i64>().ok()?, want.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => have == want,
        "Lt" => numbers().is_some_and(|(have, want)| have < want),
        "Gt" => numbers().is_some_and(|(have, want)| have > want),
        _ => false,
    }
}
