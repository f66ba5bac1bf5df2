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
