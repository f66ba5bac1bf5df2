//! CSIDriver: what a CSI driver needs from the cluster.
//! Upstream: pkg/registry/storage/csidriver.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        generation: true,
        ..Descriptor::new("storage.k8s.io", "v1", "CSIDriver", "csidrivers", Scope::Cluster)
    }
}
