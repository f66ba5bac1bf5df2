//! FlowSchema: which requests belong to which priority level.
//! Upstream: pkg/registry/flowcontrol/flowschema, pkg/apis/flowcontrol.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{dns_subdomain, json};
use crate::kinds::optional::{default_number, items, text};
use crate::kinds::row;
use crate::types::flowcontrol::v1::{FlowSchema, FlowSchemaSpec};

const EXEMPT: &str = "exempt";

const PRECEDENCE_MAX: i32 = 10_000;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        resets: &[("status", &["metadata"])],
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
                .validate_status_update(validate_status_update)
                .row_order(row_order)
                .cells(cells),
        ),
        ..Descriptor::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", Scope::Cluster)
    }
}

fn validate(schema: &FlowSchema) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &schema.spec;
    let name = text(&schema.metadata.name);
    let precedence = spec.matching_precedence.unwrap_or(0);
    let precedence_path = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(field::invalid(&precedence_path, precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        let message = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(field::invalid(&precedence_path, precedence, message));
    }
    if precedence == 1 && name != EXEMPT {
        let message = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(field::invalid(&precedence_path, precedence, message));
    }
    if let Some(method) = &spec.distinguisher_method {
        let methods = ["ByNamespace", "ByUser"];
        if !methods.contains(&&*method.type_) {
            let path = path.child("distinguisherMethod").child("type");
            errors.push(field::not_supported(&path, &*method.type_, &methods));
        }
    }
    let level_path = path.child("priorityLevelConfiguration").child("name");
    let level = &*spec.priority_level_configuration.name;
    if level.is_empty() {
        errors.push(field::required(&level_path, "must reference a priority level"));
    } else {
        dns_subdomain(&mut errors, &level_path, level);
    }
    for (index, rule) in items(&spec.rules).iter().enumerate() {
        rules::validate(&mut errors, &path.child("rules").index(index), rule);
    }
    if fixed_spec(name).is_some_and(|fixed| fixed != *spec) {
        let message = format!("spec of '{name}' must equal the fixed value");
        errors.push(field::invalid(&path, json(spec), message));
    }
    errors
}

/// The schemas that a server always has, and cannot do without.
fn fixed_spec(name: &str) -> Option<FlowSchemaSpec> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let (level, precedence, method, subjects) = match name {
        EXEMPT => (EXEMPT, 1, Value::Null, vec![group("system:masters")]),
        "catch-all" => (
            "catch-all",
            PRECEDENCE_MAX,
            json!({"type": "ByUser"}),
            vec![group("system:unauthenticated"), group("system:authenticated")],
        ),
        _ => return None,
    };
    crate::json::typed(&json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "distinguisherMethod": method,
        "rules": [{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                               "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    }))
    .ok()
}

fn validate_status_update(new: &FlowSchema, _: &FlowSchema) -> ErrorList {
    let conditions = new.status.as_ref().map(|status| items(&status.conditions)).unwrap_or_default();
    rules::conditions(conditions.iter().map(|condition| condition.type_.as_str()))
}

/// In the order in which they are asked for a request.
/// Upstream: pkg/printers/internalversion (printFlowSchemaList).
fn row_order(a: &Value, b: &Value) -> Ordering {
    let precedence = |schema: &Value| schema["spec"]["matchingPrecedence"].as_i64().unwrap_or(0);
    let name = |schema: &Value| schema["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    precedence(a).cmp(&precedence(b)).then_with(|| name(a).cmp(&name(b)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_matching() {
        let schema = |name: &str, precedence: i32| json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence}});
        let mut list = [schema("a", 9000), schema("z", 1), schema("c", 1000), schema("b", 1000)];
        list.sort_by(descriptor().hooks.row_order().unwrap());
        let names: Vec<&str> = list.iter().map(|one| one["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["z", "b", "c", "a"]);
    }

    fn texts(name: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = json!({"matchingPrecedence": 100, "priorityLevelConfiguration": {"name": "workload-low"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}],
                       "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}]});
        change(&mut spec);
        let schema = json!({"metadata": {"name": name}, "spec": spec});
        validate(&serde_json::from_value(schema).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas_are_checked() {
        assert_eq!(texts("s", |_| {}), Vec::<String>::new());
        assert_eq!(
            texts("s", |spec| spec["matchingPrecedence"] = 1.into()),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"
            ]
        );
        assert_eq!(
            texts("s", |spec| spec["priorityLevelConfiguration"] = json!({"name": ""})),
            ["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"]
        );
    }

    #[test]
    fn the_mandatory_ones_are_fixed() {
        for name in [EXEMPT, "catch-all"] {
            let fixed = json!(fixed_spec(name).unwrap());
            assert_eq!(texts(name, |spec| *spec = fixed.clone()), Vec::<String>::new(), "{name}");
            let errors = texts(name, |spec| {
                *spec = fixed.clone();
                spec["rules"][0]["nonResourceRules"] = json!([]);
            });
            assert!(
                errors.len() == 1
                    && errors[0].ends_with(&format!("spec of '{name}' must equal the fixed value")),
                "{errors:?}"
            );
        }
    }
}
