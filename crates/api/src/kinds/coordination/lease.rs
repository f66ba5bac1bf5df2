//! Lease: who holds something until when: leadership, the life of a node.
//! Upstream: pkg/registry/coordination/lease.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        create_on_update: true,
        ..Descriptor::new("coordination.k8s.io", "v1", "Lease", "leases", Scope::Namespaced)
    }
}
