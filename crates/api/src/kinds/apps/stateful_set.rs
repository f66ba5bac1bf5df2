//! StatefulSet: pods with identities and storage of their own.
//! Upstream: pkg/registry/apps/statefulset.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, ScalePaths, Scope, Subresources, Typed};
use crate::names::NameRule;
use crate::types::apps::v1::StatefulSet;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["sts".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            scale: Some(ScalePaths::replicas()),
            ..Subresources::default()
        },
        generation: true,
        name_rule: NameRule::DnsLabel,
        hooks: Arc::new(Typed::<StatefulSet>::new().status(|| Some(json!({"replicas": 0})))),
        ..Descriptor::new("apps", "v1", "StatefulSet", "statefulsets", Scope::Namespaced)
    }
}
