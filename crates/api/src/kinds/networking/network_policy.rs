//! NetworkPolicy: what traffic pods may have.
//! Upstream: pkg/registry/networking/networkpolicy.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["netpol".into()],
        generation: true,
        ..Descriptor::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", Scope::Namespaced)
    }
}
