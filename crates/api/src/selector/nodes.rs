//! Selectors of nodes: the terms by which pods and volumes say where they can be.
//!
//! Pure. Not here: preferences among the nodes that match (the scheduler).
//! Upstream: component-helpers/scheduling/corev1/nodeaffinity.

use std::collections::BTreeMap;

use crate::types::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

/// Whether a node matches a term. A term without requirements matches nothing.
pub fn matches(term: &NodeSelectorTerm, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let by_label = term.match_expressions.iter().flatten();
    let by_field = term.match_fields.iter().flatten();
    if by_label.clone().next().is_none() && by_field.clone().next().is_none() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then_some(node);
    by_label.into_iter().all(|one| holds(one, labels.get(&one.key).map(String::as_str)))
        && by_field.into_iter().all(|one| holds(one, field(&one.key)))
}

fn holds(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let mut values = requirement.values.iter().flatten();
    let number = |text: &str| text.parse::<i64>().ok();
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|found| values.any(|value| value == found)),
        "NotIn" => found.is_none_or(|found| values.all(|value| value != found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        operator @ ("Gt" | "Lt") => {
            let bound = values.next().and_then(|value| number(value));
            found
                .and_then(number)
                .zip(bound)
                .is_some_and(|(found, bound)| if operator == "Gt" { found > bound } else { found < bound })
        }
        _ => false,
    }
}
