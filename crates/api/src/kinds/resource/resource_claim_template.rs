//! ResourceClaimTemplate: makes a ResourceClaim for each pod.
//! Upstream: pkg/registry/resource/resourceclaimtemplate.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor::new(
        "resource.k8s.io",
        "v1",
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        Scope::Namespaced,
    )
}
