//! HorizontalPodAutoscaler: replicas by metrics.
//! Upstream: pkg/registry/autoscaling/horizontalpodautoscaler.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::autoscaling::v2::HorizontalPodAutoscaler;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        hooks: Arc::new(
            Typed::<HorizontalPodAutoscaler>::new()
                .status(|| Some(json!({"currentMetrics": null, "desiredReplicas": 0}))),
        ),
        ..Descriptor::new(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            Scope::Namespaced,
        )
    }
}
