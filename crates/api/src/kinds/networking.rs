//! The group `networking.k8s.io`.

use crate::kind::Descriptor;

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        network_policy::descriptor(),
        ingress::descriptor(),
        ingress_class::descriptor(),
        ip_address::descriptor(),
        service_cidr::descriptor(),
    ]
}
