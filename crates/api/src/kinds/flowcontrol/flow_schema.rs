//! FlowSchema: which requests belong to which priority level.
//! Upstream: pkg/registry/flowcontrol/flowschema.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::flowcontrol::v1::FlowSchema;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<FlowSchema>::new().status(|| Some(json!({})))),
        ..Descriptor::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", Scope::Cluster)
    }
}
