//! Whether a Job goes on, has succeeded or has failed, and why. Pure.
//!
//! A Job ends in two steps: first it is said that it will (`SuccessCriteriaMet`, `FailureTarget`) and its pods are deleted;
//! when the last has ended and is counted it is over (`Complete`, `Failed`).
//! Upstream: `pkg/controller/job/job_controller.go` (syncJob).

use api::meta::Time;
use api::types::batch::v1::{JobSpec, JobStatus};
use client::EventType;
use jiff::Timestamp;

use super::count::Tally;
use super::{condition, policy, set_condition};
use crate::{object, pods};

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It goes on, at the latest until the deadline.
    Goes {
        /// The deadline.
        until: Option<Timestamp>,
    },
    Succeeding {
        reason: String,
        message: String,
    },
    Failing {
        reason: String,
        message: String,
    },
}

pub(super) fn reach(spec: &JobSpec, status: &JobStatus, tally: &Tally, now: Timestamp) -> Verdict {
    let said = |kind: &str| {
        condition(status, kind)
            .map(|said| (said.reason.clone().unwrap_or_default(), said.message.clone().unwrap_or_default()))
    };
    if let Some((reason, message)) = said("FailureTarget") {
        return Verdict::Failing { reason, message };
    }
    if let Some((reason, message)) = said("SuccessCriteriaMet") {
        return Verdict::Succeeding { reason, message };
    }
    let failing = |reason: &str, message: &str| Verdict::Failing {
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    if let Some(message) = &tally.fatal {
        return failing("PodFailurePolicy", message);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarted = restarts_on_failure(spec, tally);
    if tally.failed > limit
        || restarted.is_some_and(|count| if limit == 0 { count > 0 } else { count >= limit })
    {
        return failing("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let suspended = spec.suspend.unwrap_or(false);
    let start = status.start_time.as_ref().map(|time| time.0);
    let until = match (spec.active_deadline_seconds, start) {
        (Some(seconds), Some(start)) if !suspended => Some(object::after(start, seconds)),
        _ => None,
    };
    if until.is_some_and(|until| until <= now) {
        return failing("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if spec.backoff_limit_per_index.is_some()
        && spec.max_failed_indexes.is_some_and(|most| tally.failed_indexes.len() as i32 > most)
    {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return failing("MaxFailedIndexesExceeded", message);
    }
    if let Some(message) = policy::is_enough(spec, &tally.completed_indexes) {
        return Verdict::Succeeding { reason: "SuccessPolicy".to_owned(), message };
    }
    let idle = tally.active.is_empty();
    let enough = match spec.completions {
        None => tally.succeeded > 0 && idle && tally.terminating == 0,
        Some(completions) => tally.succeeded >= completions && idle,
    };
    if enough {
        let message = "Reached expected number of succeeded pods".to_owned();
        return Verdict::Succeeding { reason: "CompletionsReached".to_owned(), message };
    }
    let failed_indexes = tally.failed_indexes.len() as i32;
    if failed_indexes > 0
        && spec.completions.is_some_and(|completions| tally.succeeded + failed_indexes >= completions)
    {
        return failing("FailedIndexes", "Job has failed indexes");
    }
    Verdict::Goes { until }
}

/// Restarts within the pods, for Jobs whose containers are restarted in place.
fn restarts_on_failure(spec: &JobSpec, tally: &Tally) -> Option<i32> {
    let template = spec.template.spec.as_ref()?;
    if template.restart_policy.as_deref() != Some("OnFailure") {
        return None;
    }
    let pods = tally.active.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    Some(
        pods.filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| {
                status
                    .init_container_statuses
                    .iter()
                    .flatten()
                    .chain(status.container_statuses.iter().flatten())
            })
            .map(|container| container.restart_count)
            .sum(),
    )
}

impl Verdict {
    /// Says in the status what was decided; `over` when no pod is left to wait for. Returns the event of the end.
    pub(super) fn enact(
        &self,
        status: &mut JobStatus,
        over: bool,
        now: Timestamp,
    ) -> Option<(EventType, String, String)> {
        match self {
            Verdict::Goes { .. } => None,
            Verdict::Succeeding { reason, message } => {
                set_condition(status, "SuccessCriteriaMet", "True", reason, message, now);
                if !over {
                    return None;
                }
                set_condition(status, "Complete", "True", reason, message, now);
                status.completion_time = Some(Time(object::seconds(now)));
                Some((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()))
            }
            Verdict::Failing { reason, message } => {
                set_condition(status, "FailureTarget", "True", reason, message, now);
                if !over {
                    return None;
                }
                set_condition(status, "Failed", "True", reason, message, now);
                Some((EventType::Warning, reason.clone(), message.clone()))
            }
        }
    }
}
