//! ReplicationController: keeps a number of pods running; the ancestor of ReplicaSet.
//! Upstream: pkg/registry/core/replicationcontroller.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, ScalePaths, Scope, SelectableField, Subresources, Typed};
use crate::types::core::v1::ReplicationController;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["rc".into()],
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
        hooks: Arc::new(Typed::<ReplicationController>::new().status(|| Some(json!({"replicas": 0})))),
        ..Descriptor::new("", "v1", "ReplicationController", "replicationcontrollers", Scope::Namespaced)
    }
}
