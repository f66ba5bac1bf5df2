//! PodDisruptionBudget: how many pods may be missing at once by choice.
//! Upstream: pkg/registry/policy/poddisruptionbudget.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::policy::v1::PodDisruptionBudget;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["pdb".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<PodDisruptionBudget>::new().status(|| {
            Some(
                json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
            )
        })),
        ..Descriptor::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", Scope::Namespaced)
    }
}
