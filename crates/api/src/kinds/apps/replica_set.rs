//! ReplicaSet: keeps a number of pods running.
//! Upstream: pkg/registry/apps/replicaset.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, ScalePaths, Scope, SelectableField, Subresources, Typed};
use crate::types::apps::v1::ReplicaSet;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["rs".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            scale: Some(ScalePaths::replicas()),
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField {
            absent: "0",
            ..SelectableField::new("status.replicas", "/status/replicas")
        }],
        generation: true,
        hooks: Arc::new(Typed::<ReplicaSet>::new().status(|| Some(json!({"replicas": 0})))),
        ..Descriptor::new("apps", "v1", "ReplicaSet", "replicasets", Scope::Namespaced)
    }
}
