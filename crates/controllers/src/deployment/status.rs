//! The status of a Deployment: counts, whether it is available, and whether its rollout makes progress.
//!
//! Upstream: `pkg/controller/deployment/progress.go`, `sync.go` (calculateStatus).

use std::sync::Arc;

use api::meta::Time;
use api::types::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use jiff::Timestamp;
use reconcile::View;

use super::scale::{self, available_of, replicas_of};
use super::{is_paused, object};

/// The deadline that means: none.
const NO_DEADLINE: i32 = i32::MAX;

/// A new status and what follows from it.
pub(super) struct Verdict {
    /// The Deployment with its new status, if it changes.
    pub(super) updated: Option<Deployment>,
    /// When the progress deadline passes.
    pub(super) look_again: Option<Timestamp>,
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_.as_deref() == Some(kind))
}

/// Sets a condition unless it already says the same; a condition that keeps its status keeps its transition time.
fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let now = Time(object::seconds(now));
    let mut new = DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(value.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    };
    let conditions = status.conditions.get_or_insert_default();
    if let Some(at) = conditions.iter().position(|condition| condition.type_.as_deref() == Some(kind)) {
        let old = &conditions[at];
        if old.status.as_deref() == Some(value) && old.reason.as_deref() == Some(reason) {
            return;
        }
        if old.status.as_deref() == Some(value) {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
        conditions.remove(at);
    }
    conditions.push(new);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    }
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)
}

fn number(of: Option<i32>) -> i32 {
    of.unwrap_or(0)
}

fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = scale::wanted(deployment);
    number(status.updated_replicas) == wanted
        && number(status.replicas) == wanted
        && number(status.available_replicas) == wanted
        && status.observed_generation.unwrap_or(0) >= object::generation(deployment)
}

/// Whether the rollout is done, by the status that is stored.
pub(super) fn is_complete(deployment: &Deployment) -> bool {
    deployment.status.as_ref().is_some_and(|status| complete(deployment, status))
}

fn counts(deployment: &Deployment, sets: &[Arc<ReplicaSet>], new: Option<&ReplicaSet>) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| sets.iter().map(|set| of(set)).sum::<i32>();
    let available = sum(&available_of);
    DeploymentStatus {
        observed_generation: Some(object::generation(deployment)),
        replicas: Some(sum(&|set| status(set).replicas)),
        updated_replicas: Some(new.map_or(0, |set| status(set).replicas)),
        ready_replicas: Some(sum(&|set| number(status(set).ready_replicas))),
        available_replicas: Some(available),
        unavailable_replicas: Some((sum(&replicas_of) - available).max(0)),
        terminating_replicas: Some(sum(&|set| number(status(set).terminating_replicas))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

/// The status after one plan.
pub(super) fn compute(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    rollout: bool,
    now: Timestamp,
) -> Verdict {
    let mut status = counts(deployment, sets, new);
    let minimum = scale::wanted(deployment) - scale::max_unavailable(deployment);
    let (value, reason, message) = if number(status.available_replicas) >= minimum {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, "Available", value, reason, message, now);
    pause(deployment, &mut status, now);
    if rollout {
        progress(deployment, &mut status, new, now);
        failures(&mut status, sets, new, now);
    }
    finish(deployment, status, now)
}

/// The status right after a new ReplicaSet was asked for.
pub(super) fn created(
    view: &View<'_>,
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: &ReplicaSet,
    now: Timestamp,
) -> Option<Deployment> {
    deadline(deployment)?;
    let mut status = counts(deployment, sets, None);
    if let Some(failure) = view.failure().filter(|failure| failure.action.endpoint.plural == "replicasets") {
        let message =
            format!("Failed to create new replica set {:?}: {}", object::name(new), failure.message);
        set(&mut status, "Progressing", "False", "ReplicaSetCreateError", &message, now);
    } else {
        let message = format!("Created new replica set {:?}", object::name(new));
        set(&mut status, "Progressing", "True", "NewReplicaSetCreated", &message, now);
    }
    finish(deployment, status, now).updated
}

/// A pause is remembered as a condition, so that the time it takes does not count towards the deadline.
fn pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = condition(status, "Progressing").and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return;
    }
    let was_paused = reason.as_deref() == Some("DeploymentPaused");
    if is_paused(deployment) && !was_paused {
        set(status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
    } else if !is_paused(deployment) && was_paused {
        set(status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
    }
}

fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    if deadline(deployment).is_none() {
        remove(status, "Progressing");
        return;
    }
    let old = deployment.status.clone().unwrap_or_default();
    let current = condition(status, "Progressing").cloned();
    let settled = current.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if settled && status.replicas == status.updated_replicas {
        return;
    }
    let subject = match new {
        Some(new) => format!("ReplicaSet {:?}", object::name(new)),
        None => format!("Deployment {:?}", object::name(deployment)),
    };
    if complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(status, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
    } else if progresses(&old, status) {
        let message = format!("{subject} is progressing.");
        // Progress is progress again: the condition is renewed even if it says the same, for its update time is what the
        // deadline counts from.
        if current.is_some_and(|current| current.status.as_deref() == Some("True")) {
            let kept = condition(status, "Progressing").and_then(|c| c.last_transition_time.clone());
            remove(status, "Progressing");
            set(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
            if let Some(last) = status.conditions.as_mut().and_then(|all| all.last_mut()) {
                last.last_transition_time = kept;
            }
        } else {
            set(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        }
    } else if timed_out(deployment, status, now) {
        let message = format!("{subject} has timed out progressing.");
        set(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
    } else if current.is_none()
        && let Some(new) = new
    {
        let message = format!("Found new replica set {:?}", object::name(new));
        set(status, "Progressing", "True", "FoundNewReplicaSet", &message, now);
    }
}

fn progresses(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(condition) = condition(status, "Progressing") else { return false };
    match condition.reason.as_deref() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => expires(deployment, condition).is_some_and(|at| at < now),
    }
}

fn expires(deployment: &Deployment, condition: &DeploymentCondition) -> Option<Timestamp> {
    let from = condition.last_update_time.as_ref()?.0;
    Some(object::after(from, i64::from(deadline(deployment)?)))
}

/// The pods that a ReplicaSet could not create are the Deployment's concern too: the new one's first.
fn failures(
    status: &mut DeploymentStatus,
    sets: &[Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_.as_deref() == Some("ReplicaFailure")).cloned()
    };
    let found = new.and_then(failure).or_else(|| sets.iter().find_map(|set| failure(set)));
    match found {
        Some(found) => {
            let (reason, message) = (found.reason.unwrap_or_default(), found.message.unwrap_or_default());
            set(status, "ReplicaFailure", found.status.as_deref().unwrap_or("True"), &reason, &message, now);
        }
        None => remove(status, "ReplicaFailure"),
    }
}

fn finish(deployment: &Deployment, status: DeploymentStatus, now: Timestamp) -> Verdict {
    let look_again = condition(&status, "Progressing")
        .filter(|condition| {
            !complete(deployment, &status)
                && !is_paused(deployment)
                && !matches!(
                    condition.reason.as_deref(),
                    Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")
                )
        })
        .and_then(|condition| expires(deployment, condition))
        // A second more, so that the deadline has passed for certain.
        .map(|at| object::after(at, 1).max(now));
    let old = deployment.status.clone().unwrap_or_default();
    if same(&old, &status) {
        return Verdict { updated: None, look_again };
    }
    let updated = Deployment {
        metadata: deployment.metadata.clone(),
        spec: deployment.spec.clone(),
        status: Some(status),
    };
    Verdict { updated: Some(updated), look_again }
}

fn same(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let numbers = |status: &DeploymentStatus| {
        [
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.unavailable_replicas,
            status.terminating_replicas,
        ]
        .map(number)
    };
    numbers(a) == numbers(b)
        && a.observed_generation == b.observed_generation
        && a.collision_count == b.collision_count
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}
