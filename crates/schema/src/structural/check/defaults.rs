//! The defaults of a schema: each must be a value that the schema accepts, with no field that it would drop, and metadata of
//! resources must be such, whether a default holds it or lies in it.
//!
//! Upstream: apiextensions-apiserver `pkg/apiserver/schema/defaulting/validation.go`.

use api::field::{self, ErrorList, Path};
use serde_json::{Value, json};

use super::super::{Node, RESOURCE_FIELDS, embedded, rules, validation};
use crate::decode::Findings;

/// Everything that is wrong with the defaults below a node. `pruned`: whether fields that would be dropped are wrong.
pub(super) fn errors(node: &Node, path: &Path, pruned: bool) -> ErrorList {
    let mut check = Check { pruned, budget: rules::BUDGET, errors: ErrorList::new() };
    check.node(node, path, &Place { resource: node, steps: Vec::new(), in_metadata: false });
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

/// Where a schema is in the innermost resource around it.
#[derive(Clone)]
struct Place<'n> {
    resource: &'n Node,
    steps: Vec<Step<'n>>,
    /// Inside of its metadata, or its type.
    in_metadata: bool,
}

#[derive(Clone, Copy)]
enum Step<'n> {
    Member(&'n str),
    Element,
}

impl<'n> Place<'n> {
    fn then(&self, step: Step<'n>, in_metadata: bool) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self { resource: self.resource, steps, in_metadata: self.in_metadata || in_metadata }
    }

    /// A resource with nothing but this here.
    fn around(&self, value: &Value) -> Value {
        let mut whole = self.steps.iter().rev().fold(value.clone(), |inner, step| match step {
            Step::Member(name) => json!({*name: inner}),
            Step::Element => json!([inner]),
        });
        for (name, text) in [("apiVersion", "validation/v1"), ("kind", "Validation")] {
            if let Some(whole) = whole.as_object_mut() {
                whole.entry(name).or_insert_with(|| text.into());
            }
        }
        whole
    }
}

/// All of them in one text, as upstream writes several errors.
fn aggregate(errors: &ErrorList) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match &texts[..] {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

struct Check {
    pruned: bool,
    /// What evaluating rules may still cost, for all defaults together; negative: nothing more is evaluated.
    budget: i64,
    errors: ErrorList,
}

impl Check {
    /// Values of maps have no defaults that could be told here.
    fn node(&mut self, node: &Node, path: &Path, place: &Place<'_>) {
        let resource = Place { resource: node, steps: Vec::new(), in_metadata: false };
        let place = if node.embedded_resource { &resource } else { place };
        if let Some(default) = &node.default {
            self.default(node, default, &path.child("default"), place);
        }
        if self.budget < 0 {
            return;
        }
        if let Some(items) = &node.items {
            self.node(items, &path.child("items"), &place.then(Step::Element, false));
        }
        for (name, property) in &node.properties {
            let in_metadata = node.embedded_resource && RESOURCE_FIELDS.contains(&name.as_str());
            let place = place.then(Step::Member(name), in_metadata);
            self.node(property, &path.child("properties").key(name), &place);
        }
    }

    fn default(&mut self, node: &Node, default: &Value, path: &Path, place: &Place<'_>) {
        if place.in_metadata {
            let wrong = embedded::within(place.resource, &place.around(default), &Path::root());
            if !wrong.is_empty() {
                let detail = format!("must result in valid metadata: {}", aggregate(&wrong));
                return self.errors.push(field::invalid(path, default.clone(), detail));
            }
        } else {
            if self.pruned && is_unpruned(node, default) {
                self.errors.push(field::invalid(path, default.clone(), "must not have unknown fields"));
            }
            let wrong = embedded::within(node, default, path);
            if !wrong.is_empty() {
                return self.errors.extend(wrong);
            }
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
