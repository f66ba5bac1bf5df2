//! ResourceClaim: a request for devices.
//! Upstream: pkg/registry/resource/resourceclaim.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::resource::v1::ResourceClaim;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<ResourceClaim>::new().status(|| Some(json!({})))),
        ..Descriptor::new("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", Scope::Namespaced)
    }
}
