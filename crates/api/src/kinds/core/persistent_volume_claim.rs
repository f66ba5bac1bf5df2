//! PersistentVolumeClaim: a user's request for storage.
//! Upstream: pkg/registry/core/persistentvolumeclaim.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::core::v1::PersistentVolumeClaim;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["pvc".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(Typed::<PersistentVolumeClaim>::new().status(|| Some(json!({"phase": "Pending"})))),
        ..Descriptor::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced)
    }
}
