//! IngressClass: which controller serves an Ingress.
//! Upstream: pkg/registry/networking/ingressclass.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        generation: true,
        ..Descriptor::new("networking.k8s.io", "v1", "IngressClass", "ingressclasses", Scope::Cluster)
    }
}
