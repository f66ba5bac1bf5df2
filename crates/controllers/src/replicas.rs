//! Keeps as many pods as a ReplicaSet or a ReplicationController asks for: the plan that both share.
//!
//! Reads pods of the owner's namespace. Creates and deletes pods, adopts and releases them, writes the owner's status.
//! Not here: which template (the Deployment controller), where pods run (the scheduler).
//! Upstream: `pkg/controller/replicaset`.

use std::sync::Arc;

use api::selector::labels::Selector;
use api::types::core::v1::{Pod, PodTemplateSpec};
use client::{EventType, Resource};
use jiff::Timestamp;
use reconcile::{Action, Caches, EventSpec, Plan, Verb, View};

use crate::claim::{self, claim};
use crate::{object, pods};

/// Upstream's BurstReplicas: at most so many creations or deletions in one plan.
const BURST: usize = 500;

/// What the shared plan asks of its owner.
pub(crate) trait ReplicaOwner: Resource {
    /// How many pods.
    fn replicas(&self) -> i32;
    /// Which pods; `None` if the selector is no selector or selects everything by accident.
    fn selector(&self) -> Option<Selector>;
    /// What they look like.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How long a pod must be ready to be available.
    fn min_ready_seconds(&self) -> i32;
    /// The owner with its new status, or `None` if the status is already so.
    fn with_status(
        &self,
        counts: Counts,
        failure: Option<(&'static str, String)>,
        now: Timestamp,
    ) -> Option<Self>;
    /// All pods of the application, for spreading deletions over nodes.
    fn related(&self, caches: &Caches, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>>;
}

/// What a status counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) terminating: i32,
}

/// The plan for one owner.
pub(crate) fn plan<Owner: ReplicaOwner>(view: &View<'_>, owner: &Owner, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(selector) = owner.selector() else { return plan };
    let claim = claim::<Pod, Owner>(view, owner, &selector);
    for action in claim.actions {
        plan.act(action);
    }
    let (active, inactive): (Vec<_>, Vec<_>) =
        claim.claimed.into_iter().partition(|pod| pods::is_active(pod));
    let difference = active.len() as i64 - i64::from(owner.replicas());
    if !object::deleting(owner) {
        if difference < 0 {
            plan.slow_start(creations(owner, (-difference) as usize));
        } else if difference > 0 {
            let related = owner.related(view, &active);
            let count = (difference as usize).min(BURST);
            let chosen = pods::to_delete(&active, &related, count, now);
            plan.parallel(chosen.iter().map(|pod| deletion(owner, pod)).collect());
        }
    }
    let failure = failure(view, difference);
    let counts = count(owner, &active, &inactive, now);
    if let Some(updated) = owner.with_status(counts, failure, now) {
        plan.always(Action::update_status(&updated));
    }
    // A pod becomes available by waiting alone; nothing else will wake us then.
    let waiting = active.iter().filter_map(|pod| pods::available_at(pod, owner.min_ready_seconds()));
    if let Some(next) = waiting.filter(|at| *at > now).min() {
        plan.requeue_at(next);
    }
    plan
}

fn creations<Owner: ReplicaOwner>(owner: &Owner, missing: usize) -> Vec<Action> {
    let Some(template) = owner.template() else { return Vec::new() };
    let pod =
        pods::from_template(template, object::namespace(owner), object::name(owner), claim::reference(owner));
    let action = Action::create(&pod)
        .with_success(EventSpec::new(owner, EventType::Normal, "SuccessfulCreate", "Created pod: {name}"))
        .with_failure(EventSpec::new(owner, EventType::Warning, "FailedCreate", "Error creating: {error}"));
    vec![action; missing.min(BURST)]
}

fn deletion<Owner: ReplicaOwner>(owner: &Owner, pod: &Pod) -> Action {
    Action::delete(pod)
        .with_success(EventSpec::new(owner, EventType::Normal, "SuccessfulDelete", "Deleted pod: {name}"))
        .with_failure(EventSpec::new(owner, EventType::Warning, "FailedDelete", "Error deleting: {error}"))
}

/// The ReplicaFailure condition: the last run failed, and pods are still missing or too many.
fn failure(view: &View<'_>, difference: i64) -> Option<(&'static str, String)> {
    let failure = view.failure()?;
    match (&failure.action.verb, difference) {
        (Verb::Create, ..0) => Some(("FailedCreate", failure.message.clone())),
        (Verb::Delete(_), 1..) => Some(("FailedDelete", failure.message.clone())),
        _ => None,
    }
}

fn count<Owner: ReplicaOwner>(
    owner: &Owner,
    active: &[Arc<Pod>],
    inactive: &[Arc<Pod>],
    now: Timestamp,
) -> Counts {
    let template = owner.template().and_then(|template| template.metadata.as_ref());
    let wanted = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let number = |predicate: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| predicate(pod)).count() as i32;
    Counts {
        replicas: active.len() as i32,
        fully_labeled: number(&|pod| claim::is_subset(&wanted, object::labels(pod))),
        ready: number(&pods::is_ready),
        available: number(&|pod| pods::is_available(pod, owner.min_ready_seconds(), now)),
        terminating: inactive
            .iter()
            .filter(|pod| object::deleting(&***pod) && !pods::is_terminal(pod))
            .count() as i32,
    }
}
