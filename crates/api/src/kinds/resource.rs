//! The group `resource.k8s.io`.

use crate::kind::Descriptor;

mod allocation;
mod device_class;
mod device_taint_rule;
mod devices;
mod names;
mod requests;
mod resource_claim;
mod resource_claim_template;
mod resource_slice;
mod taints;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        resource_claim::descriptor(),
        resource_claim_template::descriptor(),
        resource_slice::descriptor(),
        device_class::descriptor(),
        device_taint_rule::descriptor(),
    ]
}
