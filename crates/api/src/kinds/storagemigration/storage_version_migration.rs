//! StorageVersionMigration: the wish to write all objects of a resource again.
//! Upstream: pkg/registry/storagemigration/storageversionmigration.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::storagemigration::v1::StorageVersionMigration;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<StorageVersionMigration>::new().status(|| Some(json!({})))),
        ..Descriptor::new(
            "storagemigration.k8s.io",
            "v1",
            "StorageVersionMigration",
            "storageversionmigrations",
            Scope::Cluster,
        )
    }
}
