//! PersistentVolume: a piece of storage in the cluster.
//! Upstream: pkg/registry/core/persistentvolume.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::core::v1::PersistentVolume;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["pv".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<PersistentVolume>::new().status(|| Some(json!({"phase": "Pending"})))),
        ..Descriptor::new("", "v1", "PersistentVolume", "persistentvolumes", Scope::Cluster)
    }
}
