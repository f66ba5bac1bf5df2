//! Pod: containers that run together on a node.
//! Upstream: pkg/registry/core/pod.

use std::sync::Arc;

use crate::kind::{Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::types::core::v1::Pod;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            other: vec![
                Subresource::new("attach", "", "v1", "PodAttachOptions", Verbs::CONNECT),
                Subresource::new("binding", "", "v1", "Binding", Verbs::CREATE),
                Subresource::new("ephemeralcontainers", "", "v1", "Pod", Verbs::SUBRESOURCE),
                Subresource::new("eviction", "policy", "v1", "Eviction", Verbs::CREATE),
                Subresource::new("exec", "", "v1", "PodExecOptions", Verbs::CONNECT),
                Subresource::new("log", "", "v1", "Pod", Verbs::GET),
                Subresource::new("portforward", "", "v1", "PodPortForwardOptions", Verbs::CONNECT),
                Subresource::new("proxy", "", "v1", "PodProxyOptions", Verbs::PROXY),
                Subresource::new("resize", "", "v1", "Pod", Verbs::SUBRESOURCE),
            ],
            ..Subresources::default()
        },
        selectable_fields: vec![
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
            SelectableField::new("spec.restartPolicy", "/spec/restartPolicy"),
            SelectableField::new("spec.schedulerName", "/spec/schedulerName"),
            SelectableField::new("spec.serviceAccountName", "/spec/serviceAccountName"),
            SelectableField {
                absent: "false",
                ..SelectableField::new("spec.hostNetwork", "/spec/hostNetwork")
            },
            SelectableField::new("status.phase", "/status/phase"),
            SelectableField::new("status.podIP", "/status/podIP"),
            SelectableField::new("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        generation: true,
        hooks: Arc::new(Typed::<Pod>::new().status(|| None)),
        ..Descriptor::new("", "v1", "Pod", "pods", Scope::Namespaced)
    }
}
