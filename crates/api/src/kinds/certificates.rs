//! The group `certificates.k8s.io`.

use crate::kind::Descriptor;

mod certificate_signing_request;
mod cluster_trust_bundle;
mod pod_certificate_request;

pub(super) use certificate_signing_request::signer_name;
pub(super) use pod_certificate_request::lifetime_bounds;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        certificate_signing_request::descriptor(),
        cluster_trust_bundle::descriptor(),
        pod_certificate_request::descriptor(),
    ]
}
