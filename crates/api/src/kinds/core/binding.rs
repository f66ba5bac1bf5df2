//! Binding: the request to place a pod on a node. Never stored; `pods/binding` is the usual way.
//! Upstream: pkg/registry/core/binding.

use crate::kind::{Descriptor, Scope, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor { verbs: Verbs::CREATE, ..Descriptor::new("", "v1", "Binding", "bindings", Scope::Namespaced) }
}
