//! Pod conditions that controllers set.

use api::meta::Time;
use api::types::core::v1::Pod;
use client::Patch;
use jiff::Timestamp;
use reconcile::Action;
use serde_json::{Value, json};

use crate::object;

/// Marks a pod as about to be disrupted, and says by whom. `phase` also ends it, for pods whose kubelet is gone.
pub(crate) fn disruption_target(
    pod: &Pod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
    now: Timestamp,
) -> Action {
    let mut status = json!({
        "conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": Time(object::seconds(now)),
        }],
    });
    if let Some(phase) = phase {
        status["phase"] = Value::from(phase);
    }
    let mut action = Action::patch_status(
        pod,
        Patch::Strategic(json!({"metadata": {"uid": object::uid(pod)}, "status": status})),
    );
    // The pod may be gone by now, which is as good.
    action.on_failure = None;
    action
}
