//! CSINode: the CSI drivers on a node.
//! Upstream: pkg/registry/storage/csinode.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor::new("storage.k8s.io", "v1", "CSINode", "csinodes", Scope::Cluster)
}
