//! PriorityLevelConfiguration: how much of the server a kind of requests may use.
//! Upstream: pkg/registry/flowcontrol/prioritylevelconfiguration.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::flowcontrol::v1::PriorityLevelConfiguration;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<PriorityLevelConfiguration>::new().status(|| Some(json!({})))),
        ..Descriptor::new(
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            Scope::Cluster,
        )
    }
}
