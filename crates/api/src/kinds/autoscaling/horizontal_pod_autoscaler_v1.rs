//! HorizontalPodAutoscaler in the old form, which knows only CPU. Stored as `autoscaling/v2`.
//! Upstream: pkg/registry/autoscaling/horizontalpodautoscaler.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::autoscaling::v1::HorizontalPodAutoscaler;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(
            Typed::<HorizontalPodAutoscaler>::new()
                .status(|| Some(json!({"currentReplicas": 0, "desiredReplicas": 0}))),
        ),
        ..Descriptor::new(
            "autoscaling",
            "v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            Scope::Namespaced,
        )
    }
}
