//! ValidatingAdmissionPolicyBinding: where a ValidatingAdmissionPolicy applies, and what a failure does.
//! Upstream: pkg/registry/admissionregistration/validatingadmissionpolicybinding.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::matching::{
    binding_columns, default_parameters, default_resources, parameters, parameters_cell, policy_name,
    resources,
};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Descriptor, Scope, Typed};
use crate::kinds::check::one_of;

use crate::kinds::row;
use crate::types::admissionregistration::v1::ValidatingAdmissionPolicyBinding;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        columns: binding_columns(),
        hooks: Arc::new(
            Typed::<ValidatingAdmissionPolicyBinding>::new()
                .default_with(default)
                .validate(validate)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            Scope::Cluster,
        )
    }
}

fn default(binding: &mut ValidatingAdmissionPolicyBinding) {
    let spec = &mut binding.spec;
    default_parameters(&mut spec.param_ref);
    if let Some(resources) = &mut spec.match_resources {
        default_resources(resources);
    }
}

fn validate(binding: &ValidatingAdmissionPolicyBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &binding.spec;
    let path = Path::new("spec");
    policy_name(&mut errors, &spec.policy_name, &path.child("policyName"));
    if let Some(given) = &spec.param_ref {
        parameters(&mut errors, given, &path.child("paramRef"));
    }
    if let Some(given) = &spec.match_resources {
        resources(&mut errors, given, &path.child("matchResources"));
    }
    let actions = path.child("validationActions");
    if spec.validation_actions.is_empty() {
        errors.push(field::required(&actions, "at least one validation action is required"));
    }
    let mut seen = HashSet::new();
    for (index, action) in spec.validation_actions.iter().enumerate() {
        let path = actions.index(index);
        one_of(&mut errors, &path, action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action) {
            errors.push(field::duplicate(&path, action.as_str()));
        }
    }
    let has = |wanted: &str| spec.validation_actions.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let message = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                       API response and headers serves no purpose)";
        errors.push(field::invalid(&actions, spec.validation_actions.clone(), message));
    }
    errors
}

fn cells(binding: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
    let spec = &binding.spec;
    vec![
        row::name(&binding.metadata),
        spec.policy_name.clone().into(),
        parameters_cell(spec.param_ref.as_ref()),
        row::age(&binding.metadata, now),
    ]
}
