//! The group `admissionregistration.k8s.io`.

use crate::field::{self, Path};
use crate::kind::Descriptor;

pub(super) mod matching;
mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;

/// What names end with that only files may give (`staticManifestsDir`).
pub const RESERVED_SUFFIX: &str = ".static.k8s.io";

/// What is wrong with the name of an object of this group that is made over the API.
/// Upstream: pkg/apis/admissionregistration/validation/static_suffix.go.
pub(crate) fn reserved_name(name: &str, path: &Path) -> Option<field::Error> {
    name.ends_with(RESERVED_SUFFIX).then(|| {
        let detail = format!(
            "names ending with {RESERVED_SUFFIX:?} are reserved for static manifest-based configurations and cannot be \
             managed via the API"
        );
        field::invalid(path, name, detail)
    })
}

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
