//! DeviceTaintRule: taints devices that match.
//! Upstream: pkg/registry/resource/devicetaintrule.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::resource::v1::DeviceTaintRule;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<DeviceTaintRule>::new().status(|| Some(json!({})))),
        ..Descriptor::new("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules", Scope::Cluster)
    }
}
