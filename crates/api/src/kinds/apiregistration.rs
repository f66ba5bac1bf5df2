//! The group `apiregistration.k8s.io`.

use crate::kind::Descriptor;

mod api_service;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![api_service::descriptor()]
}
