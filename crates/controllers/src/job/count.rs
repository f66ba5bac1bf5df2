//! What the pods of a Job amount to: how many run, which have ended and were not counted yet, which indexes are done.
//!
//! Upstream: `pkg/controller/job/job_controller.go` (trackJobStatusAndRemoveFinalizers, manageJob), `indexed_job_utils.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::types::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use api::types::core::v1::Pod;
use jiff::Timestamp;

use super::policy::{self, Failure};
use super::verdict::Verdict;
use super::{FINALIZER, has_failed, indexes, is_indexed};
use crate::{object, pods};

pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// Upstream writes at most so many UIDs to a status at once.
const MOST_UNCOUNTED: usize = 500;

/// The state of a Job's pods.
pub(super) struct Tally {
    /// Pods that run or will.
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) ready: i32,
    /// Pods that are going and have not ended.
    pub(super) terminating: i32,
    /// Pods that have ended and carry our finalizer.
    ended: Vec<Arc<Pod>>,
    /// Pods that run although the Job counts them out, with our finalizer.
    tracked: Vec<Arc<Pod>>,
    /// UIDs that the status holds and whose pods are free of our finalizer: numbers from now on.
    to_number: UncountedTerminatedPods,
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) completed_indexes: BTreeSet<i32>,
    pub(super) failed_indexes: BTreeSet<i32>,
    /// A failed pod that fails the Job, by its failure policy.
    pub(super) fatal: Option<String>,
    /// Every pod, for back-off.
    pub(super) all: Vec<Arc<Pod>>,
    indexed: bool,
}

/// The index that a pod completes.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    object::annotation(pod, INDEX)?.parse().ok()
}

/// How often the pod's index had failed before it.
pub(super) fn index_failures(pod: &Pod) -> i32 {
    object::annotation(pod, INDEX_FAILURES).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn tracked(pod: &Pod) -> bool {
    object::has_finalizer(pod, FINALIZER)
}

/// What the counting led to.
pub(super) struct Settled {
    /// Pods whose finalizer may go once the status is written.
    pub(super) counted: Vec<Arc<Pod>>,
    /// No pod runs or waits to be counted.
    pub(super) nothing_runs: bool,
}

impl Tally {
    pub(super) fn take(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], status: &JobStatus) -> Tally {
        let indexed = is_indexed(spec);
        let completions = spec.completions.unwrap_or(0);
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let by_uid: BTreeMap<&str, &Arc<Pod>> = pods.iter().map(|pod| (object::uid(&**pod), pod)).collect();
        let free = |uid: &String| !by_uid.get(uid.as_str()).is_some_and(|pod| tracked(pod));
        let list = |uids: &Option<Vec<String>>| uids.clone().unwrap_or_default();
        let (succeeded_uids, failed_uids) = (list(&uncounted.succeeded), list(&uncounted.failed));
        let mut tally = Tally {
            active: Vec::new(),
            ready: 0,
            terminating: 0,
            ended: Vec::new(),
            tracked: Vec::new(),
            to_number: UncountedTerminatedPods {
                succeeded: Some(succeeded_uids.iter().filter(|uid| free(uid)).cloned().collect()),
                failed: Some(failed_uids.iter().filter(|uid| free(uid)).cloned().collect()),
            },
            succeeded: status.succeeded.unwrap_or(0) + succeeded_uids.len() as i32,
            failed: status.failed.unwrap_or(0) + failed_uids.len() as i32,
            completed_indexes: indexes::parse(
                status.completed_indexes.as_deref().unwrap_or_default(),
                completions,
            ),
            failed_indexes: indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions),
            fatal: None,
            all: pods.to_vec(),
            indexed,
        };
        for pod in pods {
            let failed = has_failed(spec, pod);
            if pods::phase(pod) == "Succeeded" || failed {
                if tracked(pod) {
                    tally.end(spec, pod, failed, &succeeded_uids, &failed_uids);
                }
            } else if tracked(pod) {
                tally.tracked.push(pod.clone());
            }
            if pods::is_active(pod) {
                tally.active.push(pod.clone());
                tally.ready += i32::from(pods::is_ready(pod));
            } else if object::deleting(&**pod) && !pods::is_terminal(pod) {
                tally.terminating += 1;
            }
        }
        if indexed {
            tally.succeeded = tally.completed_indexes.len() as i32;
        }
        // A Job that is going counts nothing any more: its pods only have to be let go.
        if object::deleting(job) {
            tally.ended.extend(tally.tracked.iter().filter(|pod| object::deleting(&***pod)).cloned());
        }
        tally
    }

    fn end(
        &mut self,
        spec: &JobSpec,
        pod: &Arc<Pod>,
        failed: bool,
        succeeded_uids: &[String],
        failed_uids: &[String],
    ) {
        let uid = object::uid(&**pod);
        self.ended.push(pod.clone());
        let known = |uids: &[String]| uids.iter().any(|known| known == uid);
        let index = index_of(pod).filter(|index| *index < spec.completions.unwrap_or(0));
        if !failed {
            match (self.indexed, index) {
                (true, Some(index)) => drop(self.completed_indexes.insert(index)),
                (true, None) => {}
                (false, _) => self.succeeded += i32::from(!known(succeeded_uids)),
            }
            return;
        }
        let judgement = policy::judge(spec, pod);
        if let Failure::FailsJob(message) = &judgement {
            self.fatal.get_or_insert_with(|| message.clone());
        }
        if let (Some(index), Some(limit)) = (index, spec.backoff_limit_per_index)
            && (judgement == Failure::FailsIndex
                || (judgement == Failure::Counts && index_failures(pod) >= limit))
        {
            self.failed_indexes.insert(index);
        }
        if judgement != Failure::Ignored && (!self.indexed || index.is_some()) {
            self.failed += i32::from(!known(failed_uids));
        }
    }

    /// How many pods should run.
    pub(super) fn wanted_active(&self, spec: &JobSpec) -> i32 {
        let parallelism = spec.parallelism.unwrap_or(1);
        let active = self.active.len() as i32;
        match spec.completions {
            // A work queue: once one pod has succeeded the others finish and no new ones come.
            None if self.succeeded > 0 => active.min(parallelism),
            None => parallelism,
            Some(completions) => {
                let done = self.succeeded + self.failed_indexes.len() as i32;
                (completions - done).clamp(0, parallelism)
            }
        }
    }

    /// Pods that work on an index that another works on, that is done, or that does not exist.
    fn misplaced(&self, completions: i32) -> Vec<Arc<Pod>> {
        let mut taken = BTreeSet::new();
        let mut sorted = self.active.clone();
        sorted.sort_by_key(|pod| (object::created(&**pod), object::name(&**pod).to_owned()));
        sorted.retain(|pod| match index_of(pod) {
            Some(index) if index < completions => {
                self.completed_indexes.contains(&index)
                    || self.failed_indexes.contains(&index)
                    || !taken.insert(index)
            }
            _ => true,
        });
        sorted
    }

    pub(super) fn has_surplus(&self) -> bool {
        self.indexed && !self.misplaced(i32::MAX).is_empty()
    }

    /// The pods that are too many: misplaced ones, then the least useful.
    pub(super) fn surplus(&self, spec: &JobSpec, wanted: i32, now: Timestamp) -> Vec<Arc<Pod>> {
        let mut doomed =
            if self.indexed { self.misplaced(spec.completions.unwrap_or(0)) } else { Vec::new() };
        let excess = self.active.len() as i32 - wanted - doomed.len() as i32;
        if excess > 0 {
            let rest: Vec<_> = self
                .active
                .iter()
                .filter(|pod| !doomed.iter().any(|other| Arc::ptr_eq(other, pod)))
                .cloned()
                .collect();
            doomed.extend(pods::to_delete(&rest, &rest, excess as usize, now));
        }
        doomed
    }

    /// The indexes that nobody works on and that are not done, lowest first.
    pub(super) fn open_indexes(&self, completions: i32) -> impl Iterator<Item = i32> + '_ {
        let busy: BTreeSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        (0..completions).filter(move |index| {
            !busy.contains(index)
                && !self.completed_indexes.contains(index)
                && !self.failed_indexes.contains(index)
        })
    }

    /// Brings the numbers of a status up to date. `end` is the verdict, if there is one; `doomed` pods are on their way out.
    pub(super) fn settle(
        &self,
        spec: &JobSpec,
        status: &mut JobStatus,
        end: Option<&Verdict>,
        doomed: i32,
    ) -> Settled {
        let failing = matches!(end, Some(Verdict::Failing { .. }));
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        let (mut succeeded, mut failed) =
            (uncounted.succeeded.clone().unwrap_or_default(), uncounted.failed.clone().unwrap_or_default());
        let numbered = |list: &mut Vec<String>, done: &Option<Vec<String>>| -> i32 {
            let done = done.as_deref().unwrap_or_default();
            list.retain(|uid| !done.contains(uid));
            done.len() as i32
        };
        let more_succeeded = numbered(&mut succeeded, &self.to_number.succeeded);
        let more_failed = numbered(&mut failed, &self.to_number.failed);
        status.failed = some(status.failed.unwrap_or(0) + more_failed);
        if self.indexed {
            status.succeeded = some(self.completed_indexes.len() as i32);
            status.completed_indexes = text(&self.completed_indexes);
        } else {
            status.succeeded = some(status.succeeded.unwrap_or(0) + more_succeeded);
        }
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(indexes::format(&self.failed_indexes));
        }
        let mut counted: Vec<Arc<Pod>> = Vec::new();
        // When a Job fails, what still runs has failed with it.
        let with_it = self.tracked.iter().filter(|_| failing);
        for pod in self.ended.iter().chain(with_it) {
            if succeeded.len() + failed.len() >= MOST_UNCOUNTED {
                break;
            }
            let uid = object::uid(&**pod).to_owned();
            counted.push(pod.clone());
            let in_range =
                !self.indexed || index_of(pod).is_some_and(|index| index < spec.completions.unwrap_or(0));
            if pods::phase(pod) == "Succeeded" {
                if !self.indexed && !succeeded.contains(&uid) {
                    succeeded.push(uid);
                }
            } else if in_range && !failed.contains(&uid) && policy::judge(spec, pod) != Failure::Ignored {
                failed.push(uid);
            }
        }
        status.active = some(self.active.len() as i32 - doomed);
        status.ready = Some(self.ready.min(self.active.len() as i32 - doomed));
        status.terminating = Some(self.terminating + doomed);
        let waits = !succeeded.is_empty() || !failed.is_empty() || !counted.is_empty();
        uncounted.succeeded = (!succeeded.is_empty()).then_some(succeeded);
        uncounted.failed = (!failed.is_empty()).then_some(failed);
        Settled { counted, nothing_runs: self.active.is_empty() && self.terminating == 0 && !waits }
    }
}

fn some(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

fn text(indexes: &BTreeSet<i32>) -> Option<String> {
    (!indexes.is_empty()).then(|| indexes::format(indexes))
}
