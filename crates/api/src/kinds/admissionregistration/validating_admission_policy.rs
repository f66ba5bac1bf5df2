//! ValidatingAdmissionPolicy: CEL expressions that judge requests.
//! Not here: compiling the expressions.
//! Upstream: pkg/registry/admissionregistration/validatingadmissionpolicy.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::matching::{conditions, default_resources, failure_policy, kind_cell, resources};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::required;
use crate::kinds::optional::{default_text, items};
use crate::kinds::row;
use crate::types::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec};

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
    if items(&spec.validations).is_empty() && items(&spec.audit_annotations).is_empty() {
        let message = "validations or auditAnnotations must contain at least one item";
        for name in ["validations", "auditAnnotations"] {
            errors.push(field::required(&path.child(name), message));
        }
    }
    for (index, validation) in items(&spec.validations).iter().enumerate() {
        let path = path.child("validations").index(index).child("expression");
        required(&mut errors, &path, validation.expression.trim());
    }
    errors
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
