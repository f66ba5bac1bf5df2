//! The group `admissionregistration.k8s.io`.

use crate::kind::Descriptor;

pub(super) mod matching;
mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        mutating_webhook_configuration::descriptor(),
        validating_webhook_configuration::descriptor(),
        validating_admission_policy::descriptor(),
        validating_admission_policy_binding::descriptor(),
        mutating_admission_policy::descriptor(),
        mutating_admission_policy_binding::descriptor(),
    ]
}
