//! The status of a StatefulSet, and the end of an update.
//!
//! Upstream: `pkg/controller/statefulset/stateful_set_control.go` (updateStatus, completeRollingUpdate).

use api::types::apps::v1::{StatefulSet, StatefulSetStatus};
use reconcile::{Action, Plan};

use super::{Run, is_rolling, min_ready, replicas, revision_of};
use crate::{object, pods};

pub(super) fn write(run: &Run<'_>, plan: &mut Plan) {
    let old = run.set.status.clone().unwrap_or_default();
    let count = |predicate: &dyn Fn(&api::types::core::v1::Pod) -> bool| {
        run.pods.iter().filter(|pod| predicate(pod)).count() as i32
    };
    let at = |revision: &str| count(&|pod| !object::deleting(pod) && revision_of(pod) == Some(revision));
    let mut status = StatefulSetStatus {
        observed_generation: Some(object::generation(run.set)),
        replicas: run.pods.len() as i32,
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(count(&|pod| run.is_available(pod))),
        current_replicas: Some(at(run.current)),
        updated_replicas: Some(at(run.update)),
        current_revision: Some(run.current.to_owned()),
        update_revision: Some(run.update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions.clone(),
    };
    let wanted = replicas(run.set);
    let done = is_rolling(run.set)
        && status.updated_replicas == Some(status.replicas)
        && status.ready_replicas == Some(status.replicas)
        && status.replicas == wanted;
    if done {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    let waiting = run.pods.iter().filter_map(|pod| pods::available_at(pod, min_ready(run.set)));
    if let Some(next) = waiting.filter(|at| *at > run.now).min() {
        plan.requeue_at(next);
    }
    if !same(&old, &status) {
        let updated = StatefulSet {
            metadata: run.set.metadata.clone(),
            spec: run.set.spec.clone(),
            status: Some(status),
        };
        plan.always(Action::update_status(&updated));
    }
}

fn same(a: &StatefulSetStatus, b: &StatefulSetStatus) -> bool {
    let numbers = |status: &StatefulSetStatus| {
        [
            Some(status.replicas),
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas,
            status.collision_count,
        ]
        .map(|number| number.unwrap_or(0))
    };
    numbers(a) == numbers(b)
        && a.observed_generation == b.observed_generation
        && (&a.current_revision, &a.update_revision) == (&b.current_revision, &b.update_revision)
}
