//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy applies.
//! Upstream: pkg/registry/admissionregistration/mutatingadmissionpolicybinding.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::matching::{
    binding_columns, default_parameters, default_resources, parameters, parameters_cell, policy_name,
    resources,
};
use crate::field::{ErrorList, Path};
use crate::kind::{Descriptor, Scope, Typed};
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::types::admissionregistration::v1::{
    MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingSpec,
};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        columns: binding_columns(),
        hooks: Arc::new(
            Typed::<MutatingAdmissionPolicyBinding>::new()
                .default_with(default)
                .validate(validate)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            Scope::Cluster,
        )
    }
}

fn default(binding: &mut MutatingAdmissionPolicyBinding) {
    let Some(spec) = &mut binding.spec else { return };
    default_parameters(&mut spec.param_ref);
    if let Some(resources) = &mut spec.match_resources {
        default_resources(resources);
    }
}

fn validate(binding: &MutatingAdmissionPolicyBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = MutatingAdmissionPolicyBindingSpec::default();
    let spec = binding.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    policy_name(&mut errors, text(&spec.policy_name), &path.child("policyName"));
    if let Some(given) = &spec.param_ref {
        parameters(&mut errors, given, &path.child("paramRef"));
    }
    if let Some(given) = &spec.match_resources {
        resources(&mut errors, given, &path.child("matchResources"));
    }
    errors
}

fn cells(binding: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
    let empty = MutatingAdmissionPolicyBindingSpec::default();
    let spec = binding.spec.as_ref().unwrap_or(&empty);
    vec![
        row::name(&binding.metadata),
        text(&spec.policy_name).into(),
        parameters_cell(spec.param_ref.as_ref()),
        row::age(&binding.metadata, now),
    ]
}
