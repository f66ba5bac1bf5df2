//! MutatingAdmissionPolicy: CEL expressions that change requests.
//! Not here: compiling the expressions.
//! Upstream: pkg/registry/admissionregistration/mutatingadmissionpolicy.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::matching::{conditions, default_resources, failure_policy, kind_cell, resources, variables};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{one_of, required};
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::types::admissionregistration::v1::{MutatingAdmissionPolicy, MutatingAdmissionPolicySpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new(
                "Mutations",
                "integer",
                "Mutations indicates the number of mutations rules defined in this configuration",
            ),
            Column::new(
                "ParamKind",
                "string",
                "ParamKind specifies the kind of resources used to parameterize this policy",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<MutatingAdmissionPolicy>::new().default_with(default).validate(validate).cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            Scope::Cluster,
        )
    }
}

fn default(policy: &mut MutatingAdmissionPolicy) {
    let spec = policy.spec.get_or_insert_default();
    default_text(&mut spec.failure_policy, "Fail");
    if let Some(resources) = &mut spec.match_constraints {
        default_resources(resources);
    }
}

fn validate(policy: &MutatingAdmissionPolicy) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = MutatingAdmissionPolicySpec::default();
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
    let mutations = path.child("mutations");
    if items(&spec.mutations).is_empty() {
        errors.push(field::required(&mutations, "mutations must contain at least one item"));
    }
    for (index, mutation) in items(&spec.mutations).iter().enumerate() {
        let path = mutations.index(index);
        one_of(
            &mut errors,
            &path.child("patchType"),
            &mutation.patch_type,
            &["ApplyConfiguration", "JSONPatch"],
        );
        let (name, expression) = match &*mutation.patch_type {
            "ApplyConfiguration" => (
                "applyConfiguration",
                mutation.apply_configuration.as_ref().map(|given| text(&given.expression)),
            ),
            "JSONPatch" => ("jsonPatch", mutation.json_patch.as_ref().map(|given| text(&given.expression))),
            _ => continue,
        };
        let path = path.child(name);
        match expression {
            None => errors.push(field::required(&path, "")),
            Some(expression) => required(&mut errors, &path.child("expression"), expression.trim()),
        }
    }
    one_of(
        &mut errors,
        &path.child("reinvocationPolicy"),
        text(&spec.reinvocation_policy),
        &["IfNeeded", "Never"],
    );
    errors
}

fn cells(policy: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
    let empty = MutatingAdmissionPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    vec![
        row::name(&policy.metadata),
        items(&spec.mutations).len().into(),
        kind_cell(spec.param_kind.as_ref()),
        row::age(&policy.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::descriptor;

    #[test]
    fn defaults_and_checks() {
        let hooks = descriptor().hooks;
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                                                     "resources": ["pods"]}]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}});
        hooks.default(&mut policy);
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        assert_eq!(policy["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
        assert_eq!(hooks.validate(&policy), []);
        policy["spec"]["mutations"][0]["patchType"] = json!("ApplyConfiguration");
        let errors = hooks.validate(&policy);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].to_string(), "spec.mutations[0].applyConfiguration: Required value");
    }
}
