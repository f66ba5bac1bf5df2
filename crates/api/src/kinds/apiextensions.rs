//! The group `apiextensions.k8s.io`.

use crate::kind::Descriptor;

pub mod custom_resource_definition;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![custom_resource_definition::descriptor()]
}
