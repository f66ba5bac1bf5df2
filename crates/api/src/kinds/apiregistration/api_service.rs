//! APIService: a group and version served here or by another server.
//! Upstream: pkg/registry/apiregistration/apiservice.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::apiregistration::v1::APIService;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<APIService>::new().status(|| Some(json!({})))),
        ..Descriptor::new("apiregistration.k8s.io", "v1", "APIService", "apiservices", Scope::Cluster)
    }
}
