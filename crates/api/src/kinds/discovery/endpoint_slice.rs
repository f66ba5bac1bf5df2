//! EndpointSlice: a part of the endpoints of a Service.
//! Upstream: pkg/registry/discovery/endpointslice.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        generation: true,
        ..Descriptor::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", Scope::Namespaced)
    }
}
