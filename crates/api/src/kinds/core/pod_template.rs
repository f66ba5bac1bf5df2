//! PodTemplate: a template for pods, stored by itself.
//! Upstream: pkg/registry/core/podtemplate.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        generation: true,
        ..Descriptor::new("", "v1", "PodTemplate", "podtemplates", Scope::Namespaced)
    }
}
