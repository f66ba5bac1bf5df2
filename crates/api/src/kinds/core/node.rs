//! Node: a machine that runs pods.
//! Upstream: pkg/registry/core/node.

use crate::kind::{Descriptor, Scope, SelectableField, Subresource, Subresources, Verbs};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["no".into()],
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new("proxy", "", "v1", "NodeProxyOptions", Verbs::PROXY)],
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField::new("spec.unschedulable", "/spec/unschedulable")],
        ..Descriptor::new("", "v1", "Node", "nodes", Scope::Cluster)
    }
}
