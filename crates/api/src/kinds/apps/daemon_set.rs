//! DaemonSet: a pod on every node that matches.
//! Upstream: pkg/registry/apps/daemonset.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::apps::v1::DaemonSet;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
short_names: vec!["ds".into()],
categories: vec!["all".into()],
subresources: Subresources { status: true, ..Subresources::default() },
generation: true,
hooks: Arc::new(Typed::<DaemonSet>::new().status(|| Some(json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0})))),
..Descriptor::new("apps", "v1", "DaemonSet", "daemonsets", Scope::Namespaced)
}
}
