//! CSIStorageCapacity: how much a CSI driver can still provide.
//! Upstream: pkg/registry/storage/csistoragecapacity.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor::new("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", Scope::Namespaced)
}
