//! Deployment: declarative updates of ReplicaSets.
//! Upstream: pkg/registry/apps/deployment.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, ScalePaths, Scope, Subresources, Typed};
use crate::types::apps::v1::Deployment;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["deploy".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            scale: Some(ScalePaths::replicas()),
            ..Subresources::default()
        },
        generation: true,
        hooks: Arc::new(Typed::<Deployment>::new().status(|| Some(json!({})))),
        ..Descriptor::new("apps", "v1", "Deployment", "deployments", Scope::Namespaced)
    }
}
