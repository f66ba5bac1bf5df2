//! The defaults of a schema: each must be a value that the schema accepts, with no field that it would drop.
//!
//! Not here: defaults inside the metadata of embedded resources are held to their own schema only, not to the rules for
//! names and labels.
//! Upstream: apiextensions-apiserver `pkg/apiserver/schema/defaulting/validation.go`.

use api::field::{self, ErrorList, Path};
use serde_json::Value;

use super::super::{Node, RESOURCE_FIELDS, rules, validation};
use crate::decode::Findings;

/// Everything that is wrong with the defaults below a node. `pruned`: whether fields that would be dropped are wrong.
pub(super) fn errors(node: &Node, path: &Path, pruned: bool) -> ErrorList {
    let mut check = Check { pruned, budget: rules::BUDGET, errors: ErrorList::new() };
    check.node(node, path, false);
    check.errors
}

/// Whether some default has a field that its schema drops.
pub(super) fn any_unpruned(node: &Node) -> bool {
    node.default.as_ref().is_some_and(|default| is_unpruned(node, default))
        || node.items.as_deref().is_some_and(any_unpruned)
        || node.properties.values().any(any_unpruned)
}

fn is_unpruned(node: &Node, default: &Value) -> bool {
    let mut pruned = default.clone();
    node.prune(&mut pruned, &mut Findings::new(false));
    pruned != *default
}

struct Check {
    pruned: bool,
    /// What evaluating rules may still cost, for all defaults together; negative: nothing more is evaluated.
    budget: i64,
    errors: ErrorList,
}

impl Check {
    /// Values of maps have no defaults that could be told here. `in_metadata`: inside the metadata of a resource.
    fn node(&mut self, node: &Node, path: &Path, in_metadata: bool) {
        let in_metadata = in_metadata && !node.embedded_resource;
        if let Some(default) = &node.default {
            self.default(node, default, &path.child("default"), in_metadata);
        }
        if self.budget < 0 {
            return;
        }
        if let Some(items) = &node.items {
            self.node(items, &path.child("items"), in_metadata);
        }
        for (name, property) in &node.properties {
            let in_metadata =
                in_metadata || (node.embedded_resource && RESOURCE_FIELDS.contains(&name.as_str()));
            self.node(property, &path.child("properties").key(name), in_metadata);
        }
    }

    fn default(&mut self, node: &Node, default: &Value, path: &Path, in_metadata: bool) {
        if self.pruned && !in_metadata && is_unpruned(node, default) {
            self.errors.push(field::invalid(path, default.clone(), "must not have unknown fields"));
        }
        let wrong = validation::by_schema(node, default);
        if wrong.is_empty() {
            let (found, budget) = rules::of_default(node, path, default, self.budget);
            self.errors.extend(found);
            self.budget = budget;
        }
        self.errors.extend(wrong.into_iter().map(|mut error| {
            error.field = match error.field.as_str() {
                "" => path.to_string(),
                below => format!("{path}.{below}"),
            };
            error
        }));
    }
}
