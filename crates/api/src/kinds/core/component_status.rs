//! ComponentStatus: the health of a part of the control plane, made up when asked for. Deprecated upstream.
//! Upstream: pkg/registry/core/componentstatus.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["cs".into()],
        verbs: Verbs::GET.and(Verbs::LIST),
        ..Descriptor::new("", "v1", "ComponentStatus", "componentstatuses", Scope::Cluster)
    }
}
