//! VolumeAttachment: the wish to attach a volume to a node.
//! Upstream: pkg/registry/storage/volumeattachment.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::storage::v1::VolumeAttachment;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<VolumeAttachment>::new().status(|| Some(json!({"attached": false})))),
        ..Descriptor::new("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", Scope::Cluster)
    }
}
