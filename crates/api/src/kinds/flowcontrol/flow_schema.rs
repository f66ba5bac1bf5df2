//! FlowSchema: which requests belong to which priority level.
//! Upstream: pkg/registry/flowcontrol/flowschema, pkg/apis/flowcontrol.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{dns_subdomain, required};
use crate::kinds::optional::{default_number, items};
use crate::kinds::row;
use crate::types::flowcontrol::v1::FlowSchema;

const PRECEDENCE_MAX: i32 = 10_000;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("PriorityLevel", "string", "The level of its requests."),
            Column::new(
                "MatchingPrecedence",
                "string",
                "Its place among the schemas that match: the least wins.",
            ),
            Column::new("DistinguisherMethod", "string", "What tells its flows apart."),
            Column::age(),
            Column::new(
                "MissingPL",
                "string",
                "references a broken or non-existent PriorityLevelConfiguration",
            ),
        ],
        hooks: Arc::new(
            Typed::<FlowSchema>::new()
                .status(|| Some(json!({})))
                .default_with(|schema| default_number(&mut schema.spec.matching_precedence, 1000))
                .validate(validate)
                .cells(cells),
        ),
        ..Descriptor::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", Scope::Cluster)
    }
}

fn validate(schema: &FlowSchema) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &schema.spec;
    let precedence = spec.matching_precedence.unwrap_or(0);
    let precedence_path = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(field::invalid(&precedence_path, precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        let message = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(field::invalid(&precedence_path, precedence, message));
    }
    if let Some(method) = &spec.distinguisher_method {
        let methods = ["ByNamespace", "ByUser"];
        if !methods.contains(&&*method.type_) {
            let path = path.child("distinguisherMethod").child("type");
            errors.push(field::not_supported(&path, &*method.type_, &methods));
        }
    }
    let level = path.child("priorityLevelConfiguration").child("name");
    let name = &*spec.priority_level_configuration.name;
    if name.is_empty() {
        errors.push(field::required(&level, "must reference a priority level"));
    } else {
        dns_subdomain(&mut errors, &level, name);
    }
    for (index, rule) in items(&spec.rules).iter().enumerate() {
        let path = path.child("rules").index(index);
        if rule.subjects.is_empty() {
            errors.push(field::required(&path.child("subjects"), "subjects must contain at least one value"));
        }
        for (index, subject) in rule.subjects.iter().enumerate() {
            required(&mut errors, &path.child("subjects").index(index).child("kind"), &subject.kind);
        }
        if items(&rule.resource_rules).is_empty() && items(&rule.non_resource_rules).is_empty() {
            let message = "at least one of resourceRules and nonResourceRules has to be non-empty";
            errors.push(field::required(&path, message));
        }
    }
    errors
}

fn cells(schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
    let spec = &schema.spec;
    let conditions = schema.status.as_ref().map_or(&[][..], |status| items(&status.conditions));
    let dangling = conditions.iter().find(|condition| condition.type_ == "Dangling");
    vec![
        row::name(&schema.metadata),
        spec.priority_level_configuration.name.clone().into(),
        row::count(spec.matching_precedence),
        row::or_none(spec.distinguisher_method.as_ref().map_or("", |method| &method.type_)),
        row::age(&schema.metadata, now),
        dangling.and_then(|condition| condition.status.as_deref()).unwrap_or("?").into(),
    ]
}
