//! Keeps as many pods as each ReplicationController asks for.
//!
//! Reads ReplicationControllers and pods. Creates, adopts, releases and deletes pods; writes ReplicationController status.
//! Not here: the plan itself ([`crate::replicas`], shared with ReplicaSets).
//! Upstream: `pkg/controller/replication`.

use std::sync::Arc;

use api::meta::Time;
use api::selector::labels::Selector;
use api::types::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use jiff::Timestamp;
use reconcile::{Caches, Controller, Key, Plan, View, Watches};

use crate::replicas::{self, Counts, ReplicaOwner};
use crate::{claim, object};

/// The controller.
pub struct ReplicationControllers;

impl Controller for ReplicationControllers {
    const NAME: &'static str = "replication-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<ReplicationController>();
        claim::watch::<Pod, ReplicationController>(watches, ReplicaOwner::selector);
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        match view.get_key::<ReplicationController>(key) {
            Some(controller) => replicas::plan(view, &*controller, now),
            None => Plan::nothing(),
        }
    }
}

impl ReplicaOwner for ReplicationController {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn selector(&self) -> Option<Selector> {
        let labels = self.spec.as_ref()?.selector.as_ref()?;
        (!labels.is_empty()).then(|| Selector::from_map(labels))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn with_status(
        &self,
        counts: Counts,
        failure: Option<(&'static str, String)>,
        now: Timestamp,
    ) -> Option<Self> {
        let old = self.status.clone().unwrap_or_default();
        let mut conditions = old.conditions.clone().unwrap_or_default();
        let has = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
        match (failure, has) {
            (Some((reason, message)), None) => conditions.push(ReplicationControllerCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(object::seconds(now))),
            }),
            (None, Some(at)) => {
                conditions.remove(at);
            }
            _ => {}
        }
        let some = |number: i32| (number != 0).then_some(number);
        let status = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: Some(object::generation(self)),
            conditions: (!conditions.is_empty()).then_some(conditions),
        };
        let numbers = |status: &ReplicationControllerStatus| {
            [status.fully_labeled_replicas, status.ready_replicas, status.available_replicas]
                .map(|number| number.unwrap_or(0))
        };
        let same = old.replicas == status.replicas
            && numbers(&old) == numbers(&status)
            && old.observed_generation == status.observed_generation
            && old.conditions.as_deref().unwrap_or_default()
                == status.conditions.as_deref().unwrap_or_default();
        (!same).then(|| ReplicationController {
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
            status: Some(status),
        })
    }

    fn related(&self, _: &Caches, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        pods.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::json;

    use super::*;

    #[test]
    fn plans() {
        let controller = |replicas: i32| -> ReplicationController {
            serde_json::from_value(json!({
                "metadata": {"name": "r", "namespace": "a", "uid": "r", "generation": 1},
                "spec": {"replicas": replicas, "selector": {"app": "x"}, "template": {"spec": {"containers": []}}},
                "status": {"replicas": 1, "fullyLabeledReplicas": 1, "observedGeneration": 1},
            }))
            .unwrap()
        };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "p", "labels": {"app": "x"}, "ownerReferences": [
                {"apiVersion": "v1", "kind": "ReplicationController", "name": "r", "uid": "r", "controller": true},
            ]},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        for (replicas, expected) in [(1, &[][..]), (2, &["create pods a/r-"]), (0, &["delete pods a/p"])] {
            let fixture =
                Fixture::new(ReplicationControllers).with(vec![controller(replicas)]).with(vec![pod.clone()]);
            assert_eq!(fixture.lines("a", "r", Timestamp::UNIX_EPOCH), expected, "{replicas}");
        }
    }
}
