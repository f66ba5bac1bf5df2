//! LimitRange: bounds and defaults for the resources of pods, containers and claims in a namespace.
//! Upstream: pkg/registry/core/limitrange.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["limits".into()],
        create_on_update: true,
        ..Descriptor::new("", "v1", "LimitRange", "limitranges", Scope::Namespaced)
    }
}
