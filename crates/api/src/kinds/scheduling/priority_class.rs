//! PriorityClass: names a priority of pods.
//! Upstream: pkg/registry/scheduling/priorityclass.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["pc".into()],
        generation: true,
        ..Descriptor::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", Scope::Cluster)
    }
}
