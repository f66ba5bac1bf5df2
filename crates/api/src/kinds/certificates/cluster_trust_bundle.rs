//! ClusterTrustBundle: roots of trust for a signer.
//! Upstream: pkg/registry/certificates/clustertrustbundle.

use crate::kind::{Descriptor, Scope, SelectableField};
use crate::names::NameRule;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        selectable_fields: vec![SelectableField::new("spec.signerName", "/spec/signerName")],
        name_rule: NameRule::Unchecked,
        ..Descriptor::new(
            "certificates.k8s.io",
            "v1",
            "ClusterTrustBundle",
            "clustertrustbundles",
            Scope::Cluster,
        )
    }
}
