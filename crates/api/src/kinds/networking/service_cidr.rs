//! ServiceCIDR: a range from which Services get their addresses.
//! Upstream: pkg/registry/networking/servicecidr.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::networking::v1::ServiceCIDR;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<ServiceCIDR>::new().status(|| Some(json!({})))),
        ..Descriptor::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", Scope::Cluster)
    }
}
