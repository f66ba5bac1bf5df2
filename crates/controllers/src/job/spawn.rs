//! The pods that a Job creates, and how long it waits after failures.
//!
//! Upstream: `pkg/controller/job/job_controller.go` (manageJob), `backoff_utils.go`, `indexed_job_utils.go`.

use std::sync::Arc;

use api::types::batch::v1::{Job, JobSpec};
use api::types::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use client::EventType;
use jiff::Timestamp;
use reconcile::{Action, EventSpec};

use super::count::{INDEX, INDEX_FAILURES, Tally, index_failures, index_of};
use super::{FINALIZER, has_failed, is_indexed};
use crate::{claim, object, pods};

/// Upstream's MaxPodCreateDeletePerSync.
const BURST: usize = 500;
/// Upstream's DefaultJobPodFailureBackOff and MaxJobPodFailureBackOff.
const BACKOFF_SECONDS: i64 = 10;
const BACKOFF_LONGEST_SECONDS: i64 = 600;
const ENV: &str = "JOB_COMPLETION_INDEX";

/// Whether a pod is only replaced when it has ended for good.
pub(super) fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// The creations of up to `missing` pods, and when to look again if some must wait.
pub(super) fn pods(
    job: &Job,
    spec: &JobSpec,
    tally: &Tally,
    missing: usize,
    now: Timestamp,
) -> (Vec<Action>, Option<Timestamp>) {
    let missing = missing.min(BURST);
    if spec.backoff_limit_per_index.is_none() {
        let ready_at = backoff(spec, &tally.all);
        if let Some(at) = ready_at.filter(|at| *at > now) {
            return (Vec::new(), Some(at));
        }
    }
    if !is_indexed(spec) {
        let action = creation(job, pod(job, spec, None, 0));
        return (vec![action; missing], None);
    }
    let mut later: Option<Timestamp> = None;
    let mut actions = Vec::new();
    for index in tally.open_indexes(spec.completions.unwrap_or(0)) {
        if actions.len() == missing {
            break;
        }
        let of_index: Vec<_> = tally.all.iter().filter(|pod| index_of(pod) == Some(index)).cloned().collect();
        if replaces_only_failed(spec)
            && of_index.iter().any(|pod| object::deleting(&**pod) && !pods::is_terminal(pod))
        {
            continue;
        }
        let mut failures = 0;
        if spec.backoff_limit_per_index.is_some() {
            if let Some(at) = backoff(spec, &of_index).filter(|at| *at > now) {
                later = Some(later.map_or(at, |earlier| earlier.min(at)));
                continue;
            }
            let failed = of_index.iter().filter(|pod| has_failed(spec, pod));
            failures = failed.map(|pod| index_failures(pod) + 1).max().unwrap_or(0);
        }
        actions.push(creation(job, pod(job, spec, Some(index), failures)));
    }
    (actions, later)
}

/// When the next pod may be created after failures: 10 s after the last, doubling with each since the last success.
fn backoff(spec: &JobSpec, pods: &[Arc<Pod>]) -> Option<Timestamp> {
    let mut ended: Vec<(Timestamp, bool)> = pods
        .iter()
        .filter_map(|pod| {
            let failed = has_failed(spec, pod);
            (failed || pods::phase(pod) == "Succeeded").then(|| (finished_at(pod), failed))
        })
        .collect();
    ended.sort_unstable();
    let failures = ended.iter().rev().take_while(|(_, failed)| *failed).count() as u32;
    let (last, _) = ended.last().filter(|_| failures > 0)?;
    let seconds = BACKOFF_SECONDS.saturating_mul(1 << (failures - 1).min(10)).min(BACKOFF_LONGEST_SECONDS);
    Some(object::after(*last, seconds))
}

/// When the last container ended; failing that, when the pod was marked for deletion, became not ready, or was created.
fn finished_at(pod: &Pod) -> Timestamp {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let ends = containers.iter().filter_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|time| time.0)
    });
    ends.max()
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| Some(pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0))
        .unwrap_or_else(|| object::created(pod))
}

fn creation(job: &Job, pod: Pod) -> Action {
    Action::create(&pod)
        .with_success(EventSpec::new(job, EventType::Normal, "SuccessfulCreate", "Created pod: {name}"))
        .with_failure(EventSpec::new(job, EventType::Warning, "FailedCreate", "Error creating: {error}"))
}

fn pod(job: &Job, spec: &JobSpec, index: Option<i32>, failures: i32) -> Pod {
    let name = object::name(job);
    let mut pod = pods::from_template(&spec.template, object::namespace(job), name, claim::reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let Some(index) = index else { return pod };
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            with_index(container);
        }
    }
    pod
}

/// Tells a container its index, unless it sets the variable itself.
fn with_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == ENV) {
        return;
    }
    env.push(EnvVar {
        name: ENV.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    });
}
