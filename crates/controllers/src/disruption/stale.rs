//! Takes back the condition `DisruptionTarget` of pods that were not disrupted within two minutes after all.
//!
//! Reads pods. Writes their status.
//! Not here: setting the condition (whoever disrupts: eviction, taints, preemption, the kubelet).
//! Upstream: `syncStalePodDisruption` of `pkg/controller/disruption`.

use api::meta::Time;
use api::types::core::v1::Pod;
use client::Patch;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};
use serde_json::json;

use crate::{object, pods};

const STALE_AFTER_SECONDS: i64 = 2 * 60;

/// The controller; its keys are pods.
pub struct StaleDisruptions;

impl Controller for StaleDisruptions {
    const NAME: &'static str = "stale-pod-disruption";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.map::<Pod>(|_, change, wake| {
            if !change.is_deleted() && target_since(change.object()).is_some() {
                wake(Key::of(&**change.object()));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.get_key::<Pod>(key) else { return plan };
        let Some(since) = target_since(&pod) else { return plan };
        let due = object::after(since, STALE_AFTER_SECONDS);
        if now < due {
            plan.requeue_at(due);
            return plan;
        }
        plan.act(Action::patch_status(
            &*pod,
            Patch::Strategic(json!({
                "metadata": {"uid": object::uid(&*pod), "resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": [{
                    "type": "DisruptionTarget",
                    "status": "False",
                    "reason": null,
                    "message": null,
                    "lastTransitionTime": Time(object::seconds(now)),
                }]},
            })),
        ));
        plan
    }
}

/// Since when a pod that goes on is said to be about to be disrupted. What the kubelet says stays: it may take its time.
fn target_since(pod: &Pod) -> Option<Timestamp> {
    if object::deleting(pod) || pods::is_terminal(pod) {
        return None;
    }
    let condition = pods::condition(pod, "DisruptionTarget")?;
    if condition.status != "True" || condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;

    use super::*;

    #[test]
    fn plans() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (what, status, reason, phase, now, acts, again) in [
            ("due", "True", "EvictionByEvictionAPI", "Running", 220, 1, None),
            ("not yet", "True", "EvictionByEvictionAPI", "Running", 150, 0, Some(at(220))),
            ("taken back", "False", "", "Running", 500, 0, None),
            ("the kubelet's", "True", "TerminationByKubelet", "Running", 500, 0, None),
            ("ended", "True", "EvictionByEvictionAPI", "Failed", 500, 0, None),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "a", "uid": "u"},
                "status": {"phase": phase, "conditions": [{
                    "type": "DisruptionTarget", "status": status, "reason": reason, "lastTransitionTime": at(100),
                }]},
            }))
            .unwrap();
            let plan = Fixture::new(StaleDisruptions).with(vec![pod]).plan("a", "p", at(now));
            assert_eq!((plan.actions().count(), plan.requeue_at), (acts, again), "{what}");
        }
    }
}
