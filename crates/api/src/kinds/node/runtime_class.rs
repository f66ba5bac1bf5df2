//! RuntimeClass: names a way of running containers.
//! Upstream: pkg/registry/node/runtimeclass.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", Scope::Cluster)
}
