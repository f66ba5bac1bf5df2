//! Endpoints: the addresses behind a Service, in the old form that EndpointSlices replace.
//! Upstream: pkg/registry/core/endpoints.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ep".into()],
        ..Descriptor::new("", "v1", "Endpoints", "endpoints", Scope::Namespaced)
    }
}
