//! Namespace: the scope of names, quotas and permissions.
//! Upstream: pkg/registry/core/namespace.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::names::NameRule;
use crate::types::core::v1::Namespace;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ns".into()],
        verbs: Verbs::ALL.without(Verbs::DELETE_COLLECTION),
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new("finalize", "", "v1", "Namespace", Verbs::UPDATE)],
            ..Subresources::default()
        },
        selectable_fields: vec![SelectableField::new("status.phase", "/status/phase")],
        name_rule: NameRule::DnsLabel,
        hooks: Arc::new(Typed::<Namespace>::new().status(|| Some(json!({"phase": "Active"})))),
        ..Descriptor::new("", "v1", "Namespace", "namespaces", Scope::Cluster)
    }
}
