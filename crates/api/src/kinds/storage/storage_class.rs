//! StorageClass: how volumes are made.
//! Upstream: pkg/registry/storage/storageclass.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["sc".into()],
        ..Descriptor::new("storage.k8s.io", "v1", "StorageClass", "storageclasses", Scope::Cluster)
    }
}
