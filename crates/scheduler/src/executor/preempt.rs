//! Takes the pods away that have to go for a more important one.
//!
//! Writes the condition `DisruptionTarget` and deletes pods. Not here: choosing them (`plugins/default_preemption`).
//!
//! Upstream: pkg/scheduler/framework/preemption (`prepareCandidate`).

use api::types::core::v1::Pod;
use client::{Client, DeleteOptions, EventRecorder, EventType, Patch};
use serde_json::json;

use crate::cluster::PodInfo;

/// Who goes for whom.
pub(super) struct Preemption {
    pub(super) victim: PodInfo,
    pub(super) preemptor: PodInfo,
    pub(super) node: String,
    /// As statuses write it.
    pub(super) now: String,
}

pub(super) async fn preempt(client: &Client, recorder: &EventRecorder, preemption: Preemption) {
    let Preemption { victim, preemptor, node, now } = preemption;
    let (namespace, name) =
        (victim.pod.metadata.namespace.as_deref(), victim.pod.metadata.name.as_deref().unwrap_or_default());
    let scheduler = preemptor.spec().scheduler_name.as_deref().unwrap_or("default-scheduler");
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": now,
    });
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}}));
    let outcome = match client.patch_status::<Pod>(namespace, name, &patch).await {
        Ok(_) => client.delete::<Pod>(namespace, name, &DeleteOptions::uid(victim.uid())).await.map(drop),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => {
            let message = format!("Preempted by pod {} on node {node}", preemptor.uid());
            recorder.event(&*victim.pod, EventType::Normal, "Preempted", message);
        }
        Err(error) if error.is_not_found() || error.is_conflict() => {}
        // The preemptor is tried again, and chooses again.
        Err(error) => tracing::warn!(pod = %victim.key(), %error, "cannot preempt the pod"),
    }
}
