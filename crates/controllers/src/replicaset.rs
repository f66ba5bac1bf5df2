//! Keeps as many pods as each ReplicaSet asks for.
//!
//! Reads ReplicaSets and pods. Creates, adopts, releases and deletes pods; writes ReplicaSet status.
//! Not here: the plan itself ([`crate::replicas`], shared with ReplicationControllers).
//! Upstream: `pkg/controller/replicaset`.

use std::sync::Arc;

use api::meta::Time;
use api::selector::labels::Selector;
use api::types::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use api::types::core::v1::{Pod, PodTemplateSpec};
use jiff::Timestamp;
use reconcile::{Caches, Controller, Key, Plan, View, Watches};

use crate::replicas::{self, Counts, ReplicaOwner};
use crate::{claim, object};

/// The controller.
pub struct ReplicaSets;

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<ReplicaSet>();
        // The siblings of a ReplicaSet: those of the same Deployment.
        watches.index::<ReplicaSet>(reconcile::CONTROLLER_UID, |set| {
            object::controller(set).map(|owner| owner.uid.clone()).into_iter().collect()
        });
        claim::watch::<Pod, ReplicaSet>(watches, ReplicaOwner::selector);
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        match view.get_key::<ReplicaSet>(key) {
            Some(set) => replicas::plan(view, &*set, now),
            None => Plan::nothing(),
        }
    }
}

impl ReplicaOwner for ReplicaSet {
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn selector(&self) -> Option<Selector> {
        Selector::from_label_selector(Some(&self.spec.selector)).ok()
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn with_status(
        &self,
        counts: Counts,
        failure: Option<(&'static str, String)>,
        now: Timestamp,
    ) -> Option<Self> {
        let old = self.status.clone().unwrap_or_default();
        let mut conditions = old.conditions.clone().unwrap_or_default();
        let has =
            conditions.iter().position(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
        match (failure, has) {
            (Some((reason, message)), None) => conditions.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(object::seconds(now))),
            }),
            (None, Some(at)) => drop(conditions.remove(at)),
            _ => {}
        }
        let status = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: zero_is_absent(counts.fully_labeled),
            ready_replicas: zero_is_absent(counts.ready),
            available_replicas: zero_is_absent(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: Some(object::generation(self)),
            conditions: if conditions.is_empty() { None } else { Some(conditions) },
        };
        if same(&old, &status) {
            return None;
        }
        Some(ReplicaSet { metadata: self.metadata.clone(), spec: self.spec.clone(), status: Some(status) })
    }

    fn related(&self, caches: &Caches, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = object::controller(self) else { return pods.to_vec() };
        let siblings = caches.controlled_by::<ReplicaSet>(&owner.uid);
        siblings.iter().flat_map(|set| caches.controlled_by::<Pod>(object::uid(&**set))).collect()
    }
}

fn zero_is_absent(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// Whether two statuses say the same: an absent number is zero.
fn same(a: &ReplicaSetStatus, b: &ReplicaSetStatus) -> bool {
    let numbers = |status: &ReplicaSetStatus| {
        [
            Some(status.replicas),
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.terminating_replicas,
        ]
        .map(|number| number.unwrap_or(0))
    };
    numbers(a) == numbers(b)
        && a.observed_generation == b.observed_generation
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use client::EventType;
    use reconcile::{Action, Failure, Fixture};
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn set(replicas: i32, extra: Value) -> ReplicaSet {
        let mut metadata = json!({"name": "r", "namespace": "a", "uid": "r", "generation": 2});
        for (key, value) in extra.as_object().unwrap() {
            metadata[key] = value.clone();
        }
        serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}},
                "minReadySeconds": 10,
            },
        }))
        .unwrap()
    }

    fn pod(name: &str, owned: bool, label: &str, status: Value) -> Pod {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "a", "uid": name, "labels": {"app": label},
                "ownerReferences": if owned { owner } else { json!(null) },
            },
            "spec": {"nodeName": "n", "containers": []},
            "status": status,
        }))
        .unwrap()
    }

    fn ready(since: i64) -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(since)}]})
    }

    #[test]
    fn plans() {
        let status = "update replicasets/status a/r";
        let running = || json!({"phase": "Running"});
        for (what, replicas, pods, expected) in [
            ("too few", 2, vec![pod("a", true, "x", running())], vec!["create pods a/r-", status]),
            ("as many", 1, vec![pod("a", true, "x", running())], vec![status]),
            (
                "ended ones do not count",
                1,
                vec![pod("a", true, "x", json!({"phase": "Failed"}))],
                vec!["create pods a/r-", status],
            ),
            (
                "an orphan is adopted",
                1,
                vec![pod("a", false, "x", running())],
                vec!["patch pods a/a", status],
            ),
            (
                "one that is not selected is released",
                1,
                vec![pod("a", true, "y", running())],
                vec!["patch pods a/a", "create pods a/r-", status],
            ),
            ("another's orphan", 0, vec![pod("a", false, "y", running())], vec![status]),
            (
                "too many: the one that is not ready goes",
                1,
                vec![pod("a", true, "x", ready(0)), pod("b", true, "x", running())],
                vec!["delete pods a/b", status],
            ),
        ] {
            let fixture = Fixture::new(ReplicaSets).with(vec![set(replicas, json!({}))]).with(pods);
            assert_eq!(fixture.lines("a", "r", at(1000)), expected, "{what}");
        }
    }

    #[test]
    fn one_that_is_going_creates_nothing() {
        let going = set(3, json!({"deletionTimestamp": at(1), "finalizers": ["foregroundDeletion"]}));
        let fixture = Fixture::new(ReplicaSets).with(vec![going]);
        assert_eq!(fixture.lines("a", "r", at(1000)), ["update replicasets/status a/r"]);
    }

    #[test]
    fn a_ready_pod_becomes_available_in_time() {
        let fixture = Fixture::new(ReplicaSets).with(vec![set(1, json!({}))]).with(vec![pod(
            "a",
            true,
            "x",
            ready(995),
        )]);
        let plan = fixture.plan("a", "r", at(1000));
        assert_eq!(plan.requeue_at, Some(at(1005)));
        let status =
            |plan: &Plan| plan.actions().last().unwrap().object::<ReplicaSet>().unwrap().status.unwrap();
        assert_eq!((status(&plan).ready_replicas, status(&plan).available_replicas), (Some(1), None));
        let plan = fixture.plan("a", "r", at(1005));
        assert_eq!((status(&plan).available_replicas, plan.requeue_at), (Some(1), None));
    }

    #[test]
    fn a_refused_creation_is_said_in_the_status() {
        let empty = Fixture::new(ReplicaSets).with(vec![set(1, json!({}))]);
        let refused: Action = empty.plan("a", "r", at(0)).actions().next().unwrap().clone();
        let event = refused.on_failure.clone().unwrap();
        assert_eq!((event.kind, event.reason.as_str()), (EventType::Warning, "FailedCreate"));
        assert_eq!(event.message, "Error creating: {error}");
        let failure =
            Failure { action: Arc::new(refused), status: None, message: "exceeded quota".to_owned() };
        let plan = empty.with_failure(failure).plan("a", "r", at(0));
        let written: ReplicaSet = plan.actions().last().unwrap().object().unwrap();
        let condition = &written.status.unwrap().conditions.unwrap()[0];
        assert_eq!(condition.type_.as_deref(), Some("ReplicaFailure"));
        assert_eq!(condition.message.as_deref(), Some("exceeded quota"));
    }
}
