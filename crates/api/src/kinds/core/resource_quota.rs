//! ResourceQuota: what a namespace may use in all.
//! Upstream: pkg/registry/core/resourcequota.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::core::v1::ResourceQuota;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["quota".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        create_on_update: true,
        hooks: Arc::new(Typed::<ResourceQuota>::new().status(|| Some(json!({})))),
        ..Descriptor::new("", "v1", "ResourceQuota", "resourcequotas", Scope::Namespaced)
    }
}
