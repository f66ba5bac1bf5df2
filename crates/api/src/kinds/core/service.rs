//! Service: one address and name for a set of pods.
//! Upstream: pkg/registry/core/service.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::names::NameRule;
use crate::types::core::v1::Service;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new("proxy", "", "v1", "ServiceProxyOptions", Verbs::PROXY)],
            ..Subresources::default()
        },
        selectable_fields: vec![
            SelectableField::new("spec.clusterIP", "/spec/clusterIP"),
            SelectableField::new("spec.type", "/spec/type"),
        ],
        name_rule: NameRule::Dns1035Label,
        hooks: Arc::new(Typed::<Service>::new().status(|| Some(json!({"loadBalancer": {}})))),
        ..Descriptor::new("", "v1", "Service", "services", Scope::Namespaced)
    }
}
