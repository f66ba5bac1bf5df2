//! ValidatingAdmissionPolicy: CEL expressions that judge requests.
//! Not here: compiling the expressions.
//! Upstream: pkg/registry/admissionregistration/validatingadmissionpolicy.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::matching::{
    conditions, default_resources, failure_policy, kind_cell, param_kind, resources, variables,
};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::one_of_if_set;
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::meta_validation::push_invalid;
use crate::names::is_qualified_name;
use crate::types::admissionregistration::v1::{
    AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new(
                "Validations",
                "integer",
                "Validations indicates the number of validation rules defined in this configuration",
            ),
            Column::new(
                "ParamKind",
                "string",
                "ParamKind specifies the kind of resources used to parameterize this policy",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ValidatingAdmissionPolicy>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .validate(validate)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            Scope::Cluster,
        )
    }
}

fn default(policy: &mut ValidatingAdmissionPolicy) {
    let spec = policy.spec.get_or_insert_default();
    default_text(&mut spec.failure_policy, "Fail");
    if let Some(resources) = &mut spec.match_constraints {
        default_resources(resources);
    }
}

fn validate(policy: &ValidatingAdmissionPolicy) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = ValidatingAdmissionPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    failure_policy(&mut errors, &spec.failure_policy, &path.child("failurePolicy"));
    conditions(&mut errors, items(&spec.match_conditions), &path.child("matchConditions"));
    let constraints = path.child("matchConstraints");
    match &spec.match_constraints {
        None => errors.push(field::required(&constraints, "")),
        Some(given) => {
            resources(&mut errors, given, &constraints);
            if items(&given.resource_rules).is_empty() {
                errors.push(field::required(&constraints.child("resourceRules"), ""));
            }
        }
    }
    variables(&mut errors, items(&spec.variables), &path.child("variables"));
    if items(&spec.validations).is_empty() && items(&spec.audit_annotations).is_empty() {
        let message = "validations or auditAnnotations must contain at least one item";
        for name in ["validations", "auditAnnotations"] {
            errors.push(field::required(&path.child(name), message));
        }
    }
    if let Some(kind) = &spec.param_kind {
        param_kind(&mut errors, kind, &path.child("paramKind"));
    }
    for (index, one) in items(&spec.validations).iter().enumerate() {
        validation(&mut errors, one, &path.child("validations").index(index));
    }
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    audit_annotations(&mut errors, name, items(&spec.audit_annotations), &path.child("auditAnnotations"));
    errors
}

fn validation(errors: &mut ErrorList, validation: &Validation, path: &Path) {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    let broken = |text: &str| text.contains(['\n', '\r']);
    let expression = validation.expression.trim();
    if expression.is_empty() {
        errors.push(field::required(&path.child("expression"), "expression is not specified"));
    }
    let formula = text(&validation.message_expression);
    if !formula.is_empty() && formula.trim().is_empty() {
        let message = "must be non-empty if specified";
        errors.push(field::invalid(&path.child("messageExpression"), formula, message));
    }
    let (message_path, message) = (path.child("message"), text(&validation.message));
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(field::invalid(&message_path, message, "message must be non-empty if specified"));
    } else if broken(message.trim()) {
        errors.push(field::invalid(&message_path, message, "message must not contain line breaks"));
    }
    one_of_if_set(errors, &path.child("reason"), &validation.reason, REASONS);
}

/// What is wrong with the annotations that a policy gives audit events, but for what compiling them tells.
fn audit_annotations(errors: &mut ErrorList, policy: &str, annotations: &[AuditAnnotation], path: &Path) {
    const MAX: usize = 20;
    const LONGEST: usize = 5 * 1024;
    if annotations.len() > MAX {
        let message = format!("must not have more than {MAX} auditAnnotations");
        let given = serde_json::to_value(annotations).unwrap_or_default();
        errors.push(field::invalid(path, given, message));
    }
    let mut seen = HashSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let (key_path, value_path) =
            (path.index(index).child("key"), path.index(index).child("valueExpression"));
        if policy.is_empty() {
            let message = "requires metadata.name be non-empty";
            errors.push(field::invalid(&key_path, &*annotation.key, message));
        } else {
            let name = format!("{policy}/{}", annotation.key);
            push_invalid(errors, &key_path, &name, is_qualified_name(&name));
        }
        match annotation.value_expression.trim().len() {
            0 => errors.push(field::required(&value_path, "valueExpression is not specified")),
            1..=LONGEST => {}
            _ => errors
                .push(field::required(&value_path, format!("must not exceed {LONGEST} bytes in length"))),
        }
        if !seen.insert(&annotation.key) {
            errors.push(field::duplicate(&key_path, &*annotation.key));
        }
    }
}

fn cells(policy: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
    let empty = ValidatingAdmissionPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    vec![
        row::name(&policy.metadata),
        items(&spec.validations).len().into(),
        kind_cell(spec.param_kind.as_ref()),
        row::age(&policy.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(change: Value) -> Vec<String> {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                                                    "resources": ["pods"]}]},
            "validations": [{"expression": "true"}]}});
        policy["spec"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut policy = serde_json::from_value(policy).unwrap();
        default(&mut policy);
        validate(&policy).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies_are_checked() {
        for (change, expected) in [
            (json!({}), vec![]),
            (json!({"paramKind": {"apiVersion": "rules.example.com/v1", "kind": "ReplicaLimit"}}), vec![]),
            (
                json!({"paramKind": {"apiVersion": "a/b/c", "kind": ""}}),
                vec![
                    r#"spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
                    "spec.paramKind.kind: Required value",
                ],
            ),
            (
                json!({"validations": [{"expression": " ", "message": " ", "reason": "Because"}]}),
                vec![
                    "spec.validations[0].expression: Required value: expression is not specified",
                    r#"spec.validations[0].message: Invalid value: " ": message must be non-empty if specified"#,
                    r#"spec.validations[0].reason: Unsupported value: "Because": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge""#,
                ],
            ),
            (
                json!({"validations": [{"expression": "true\n&& true"}, {"expression": "true", "message": "a\nb"}]}),
                vec![
                    r#"spec.validations[1].message: Invalid value: "a\nb": message must not contain line breaks"#,
                ],
            ),
        ] {
            assert_eq!(texts(change), expected);
        }
    }
}
