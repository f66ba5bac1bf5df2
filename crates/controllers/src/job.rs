//! Runs the pods of each Job until enough of them have succeeded, or too many have failed.
//!
//! Reads Jobs and pods. Creates, adopts, releases and deletes pods; takes the finalizer `batch.kubernetes.io/job-tracking`
//! off pods once they are counted; writes the status of Jobs.
//! Not here: deleting finished Jobs ([`crate::ttl_after_finished`]).
//! Upstream: `pkg/controller/job`. No pod is counted twice or forgotten: its UID is written to the status before its finalizer
//! goes, and becomes a number after.

mod count;
mod indexes;
mod policy;
mod spawn;
mod verdict;

use std::sync::Arc;

use api::meta::Time;
use api::selector::labels::Selector;
use api::types::batch::v1::{Job, JobCondition, JobStatus};
use api::types::core::v1::Pod;
use client::{EventType, Patch};
use jiff::Timestamp;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};
use serde_json::json;

use self::count::Tally;
use self::verdict::Verdict;
use crate::claim::{self, claim};
use crate::{object, pods};

pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const MANAGED_BY: &str = "kubernetes.io/job-controller";
/// Pods with our finalizer, by the key of their Job.
const TRACKED: &str = "tracked-by-job";

/// The controller.
pub struct Jobs;

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Job>();
        watches.index::<Pod>(TRACKED, |pod| {
            let owner = object::controller(pod).filter(|owner| owner.kind == "Job");
            let tracked = owner.filter(|_| object::has_finalizer(pod, FINALIZER));
            tracked
                .map(|owner| client::cache_key(Some(object::namespace(pod)), &owner.name))
                .into_iter()
                .collect()
        });
        claim::watch::<Pod, Job>(watches, selector);
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let job = view.get_key::<Job>(key);
        // Pods of a Job that is gone, or was another of this name, are nobody's to count.
        let uid = job.as_ref().map(|job| object::uid(&**job).to_owned());
        let orphans = view.by_index::<Pod>(TRACKED, key.as_str());
        let orphans =
            orphans.iter().filter(|pod| object::controller(&***pod).map(|owner| &owner.uid) != uid.as_ref());
        plan.parallel(orphans.filter_map(|pod| untrack(pod)).collect());
        let Some(job) = job else { return plan };
        let Some(spec) = &job.spec else { return plan };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGED_BY) {
            return plan;
        }
        let Some(selector) = selector(&job) else { return plan };
        let claim = claim::<Pod, Job>(view, &*job, &selector);
        for action in claim.actions {
            plan.act(action);
        }
        if is_finished(&job) {
            // Whatever was not counted by then never will be.
            plan.parallel(claim.claimed.iter().filter_map(|pod| untrack(pod)).collect());
            return plan;
        }
        Run { job: &job, pods: claim.claimed, now, plan }.decide()
    }
}

fn selector(job: &Job) -> Option<Selector> {
    let selector = job.spec.as_ref()?.selector.as_ref()?;
    Selector::from_label_selector(Some(selector)).ok().filter(|selector| !selector.is_everything())
}

/// One condition of a Job, if it is true.
pub(crate) fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether a Job has come to its end, and when.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let end = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    end.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether a Job has come to its end.
pub(crate) fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| {
        condition(status, "Complete").is_some() || condition(status, "Failed").is_some()
    })
}

/// Takes our finalizer off a pod, if it has it. By position, and only if it is still there: other parts of the pod may
/// change at the same time.
fn untrack(pod: &Pod) -> Option<Action> {
    let at = pod.metadata.finalizers.as_ref()?.iter().position(|finalizer| finalizer == FINALIZER)?;
    let path = format!("/metadata/finalizers/{at}");
    Some(Action::patch(
        pod,
        Patch::Json(json!([
            {"op": "test", "path": path, "value": FINALIZER},
            {"op": "remove", "path": path},
        ])),
    ))
}

/// Sets a condition: adds it, or changes the one there is if it says something else.
fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let now = Time(object::seconds(now));
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|old| old.type_ == kind) {
        Some(old) if old.status == value => {}
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// One run of one Job.
struct Run<'a> {
    job: &'a Job,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    plan: Plan,
}

impl Run<'_> {
    fn decide(mut self) -> Plan {
        let Some(spec) = &self.job.spec else { return self.plan };
        let mut status = self.job.status.clone().unwrap_or_default();
        let suspended = spec.suspend.unwrap_or(false);
        let old_start = status.start_time.clone();
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(Time(object::seconds(self.now)));
        }
        let tally = Tally::take(self.job, spec, &self.pods, &status);
        let verdict = verdict::reach(spec, &status, &tally, self.now);
        let mut doomed: Vec<Arc<Pod>> = Vec::new();
        let mut event = None;
        match &verdict {
            Verdict::Goes { until } => {
                if let Some(until) = until {
                    self.plan.requeue_at(*until);
                }
                self.suspend_or_resume(&mut status, suspended, old_start.is_some(), &mut event);
                if suspended {
                    doomed = tally.active.clone();
                } else if !object::deleting(self.job) {
                    doomed = self.manage(&tally);
                }
            }
            Verdict::Failing { .. } | Verdict::Succeeding { .. } => doomed = tally.active.clone(),
        }
        self.plan.parallel(doomed.iter().map(|pod| deletion(self.job, pod)).collect());
        let ending = !matches!(verdict, Verdict::Goes { .. });
        let settled = tally.settle(spec, &mut status, ending.then_some(&verdict), doomed.len() as i32);
        if ending {
            event = verdict.enact(&mut status, settled.nothing_runs && doomed.is_empty(), self.now);
        }
        if status != self.job.status.clone().unwrap_or_default() {
            let mut updated = self.job.clone();
            updated.status = Some(status);
            let mut action = Action::update_status(&updated);
            if let Some((kind, reason, message)) = event {
                action = action.with_success(EventSpec::new(self.job, kind, &reason, message));
            }
            self.plan.act(action);
        }
        // Only now that their UIDs are written.
        self.plan.parallel(settled.counted.iter().filter_map(|pod| untrack(pod)).collect());
        self.plan
    }

    fn suspend_or_resume(
        &self,
        status: &mut JobStatus,
        suspended: bool,
        had_started: bool,
        event: &mut Option<(EventType, String, String)>,
    ) {
        let was = condition(status, "Suspended").is_some();
        if suspended && !was {
            set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", self.now);
            *event = Some((EventType::Normal, "Suspended".to_owned(), "Job suspended".to_owned()));
        } else if !suspended && was {
            set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", self.now);
            // The deadline counts from here on.
            status.start_time = Some(Time(object::seconds(self.now)));
            *event = Some((EventType::Normal, "Resumed".to_owned(), "Job resumed".to_owned()));
        }
        if suspended && !was && had_started {
            status.start_time = None;
        }
    }

    /// Creates the pods that are missing; returns those that are too many.
    fn manage(&mut self, tally: &Tally) -> Vec<Arc<Pod>> {
        let Some(spec) = &self.job.spec else { return Vec::new() };
        let active = tally.active.len() as i32;
        let wanted = tally.wanted_active(spec);
        if active > wanted || tally.has_surplus() {
            return tally.surplus(spec, wanted, self.now);
        }
        let mut missing = wanted - active;
        if spawn::replaces_only_failed(spec) {
            missing -= tally.terminating;
        }
        if missing <= 0 {
            return Vec::new();
        }
        let (actions, later) = spawn::pods(self.job, spec, tally, missing as usize, self.now);
        if let Some(later) = later {
            self.plan.requeue_at(later);
        }
        self.plan.slow_start(actions);
        Vec::new()
    }
}

fn deletion(job: &Job, pod: &Pod) -> Action {
    Action::delete(pod)
        .with_success(EventSpec::new(job, EventType::Normal, "SuccessfulDelete", "Deleted pod: {name}"))
        .with_failure(EventSpec::new(job, EventType::Warning, "FailedDelete", "Error deleting: {error}"))
}

/// Whether each index is completed by itself.
fn is_indexed(spec: &api::types::batch::v1::JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether a pod counts as failed. A pod that is being deleted has failed at once, unless it is only replaced (or judged)
/// when it has really ended.
fn has_failed(spec: &api::types::batch::v1::JobSpec, pod: &Pod) -> bool {
    if pods::phase(pod) == "Failed" {
        return true;
    }
    if spawn::replaces_only_failed(spec) || spec.pod_failure_policy.is_some() {
        return false;
    }
    object::deleting(pod) && pods::phase(pod) != "Succeeded"
}

#[cfg(test)]
mod tests;
