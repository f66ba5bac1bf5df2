//! SchedulingGates: a pod with gates waits until they are lifted.
//!
//! Upstream: pkg/scheduler/framework/plugins/schedulinggates.

use api::types::core::v1::Pod;

use crate::cluster::PodInfo;
use crate::framework::{Event, Hint, Plugin, Rejection};

/// The plugin.
pub struct SchedulingGates;

fn gates(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.iter().flat_map(|spec| spec.scheduling_gates.iter().flatten());
    gates.map(|gate| gate.name.as_str()).collect()
}

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn pre_enqueue(&self, pod: &Pod) -> Result<(), Rejection> {
        let gates = gates(pod);
        if gates.is_empty() {
            return Ok(());
        }
        let reason = format!("waiting for scheduling gates: [{}]", gates.join(" "));
        Err(Rejection::unresolvable(self.name(), reason))
    }

    fn hint(&self, _: &PodInfo, event: &Event<'_>) -> Hint {
        match event {
            Event::PodUpdated(_, new) if gates(&new.pod).is_empty() => Hint::Queue,
            _ => Hint::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::pod_with;

    #[test]
    fn gates_hold_a_pod_back_until_they_are_lifted() {
        let gated = pod_with(json!({"schedulingGates": [{"name": "a"}, {"name": "b"}]}));
        let free = pod_with(json!({}));
        let refused = SchedulingGates.pre_enqueue(&gated.pod).unwrap_err();
        assert_eq!(refused.reasons, ["waiting for scheduling gates: [a b]"]);
        assert!(SchedulingGates.pre_enqueue(&free.pod).is_ok());
        assert_eq!(SchedulingGates.hint(&gated, &Event::PodUpdated(&gated, &free)), Hint::Queue);
        assert_eq!(SchedulingGates.hint(&gated, &Event::PodUpdated(&gated, &gated)), Hint::Skip);
    }
}
