//! What a Job's status may say, and how it may change: a Job that has ended stays so, and its counts only grow.
//!
//! A rule holds only for an update that changes what the rule is about. Otherwise a status that broke it already, or
//! that a change of the spec made break it, could not be updated at all.
//! Upstream: `validateJobStatus` of pkg/apis/batch/validation, `getStatusValidationOptions` of
//! pkg/registry/batch/job/strategy.go.

use std::collections::BTreeSet;

use super::success_policy::{indexes, intervals};
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{json as value_of, not_negative_if_set};
use crate::kinds::optional::{items, text};
use crate::types::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};

fn holds(status: &JobStatus, kind: &str) -> bool {
    items(&status.conditions).iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn has_ended(status: &JobStatus) -> bool {
    holds(status, "Complete") || holds(status, "Failed")
}

/// What is wrong with an update of the status.
pub(super) fn validate_update(new: &Job, old: &Job) -> ErrorList {
    let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
    let spec = new.spec.as_ref().unwrap_or(&no_spec);
    let (new, old) = (new.status.as_ref().unwrap_or(&no_status), old.status.as_ref().unwrap_or(&no_status));
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    for (name, count) in [
        ("active", new.active),
        ("succeeded", new.succeeded),
        ("failed", new.failed),
        ("ready", new.ready),
        ("terminating", new.terminating),
    ] {
        not_negative_if_set(&mut errors, &path.child(name), count);
    }
    if let Some(pods) = &new.uncounted_terminated_pods {
        uncounted(&mut errors, &path.child("uncountedTerminatedPods"), pods);
    }
    verdict(&mut errors, &path, spec, new, old);
    end(&mut errors, &path, spec, new, old);
    index_sets(&mut errors, &path, spec, new, old);
    changes(&mut errors, &path, spec, new, old);
    errors
}

/// Every pod is counted once.
fn uncounted(errors: &mut ErrorList, path: &Path, pods: &UncountedTerminatedPods) {
    let mut seen = BTreeSet::new();
    for (name, uids) in [("succeeded", &pods.succeeded), ("failed", &pods.failed)] {
        for (index, uid) in items(uids).iter().enumerate() {
            let path = path.child(name).index(index);
            if uid.is_empty() {
                errors.push(field::invalid(&path, "", "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(field::duplicate(&path, uid.as_str()));
            }
        }
    }
}

/// The conditions by which a Job ends do not contradict each other, and each end is announced first.
fn verdict(errors: &mut ErrorList, path: &Path, spec: &JobSpec, new: &JobStatus, old: &JobStatus) {
    let changed = |kind: &str| holds(new, kind) != holds(old, kind);
    let is = |kind: &str| holds(new, kind);
    let (complete, failed) = (changed("Complete"), changed("Failed"));
    let (failing, met) = (changed("FailureTarget"), changed("SuccessCriteriaMet"));
    for (broken, message) in [
        (
            (complete || failed) && is("Complete") && is("Failed"),
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            (complete || failing) && is("Complete") && is("FailureTarget"),
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            (failed || failing) && is("Failed") && !is("FailureTarget"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            (complete || met) && is("Complete") && !is("SuccessCriteriaMet"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            is("SuccessCriteriaMet") && is("Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            is("SuccessCriteriaMet") && is("FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            spec.success_policy.is_some() && !is("SuccessCriteriaMet") && is("Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if broken {
            errors.push(field::invalid_whole(&path.child("conditions"), message));
        }
    }
}

/// A Job that has ended has begun, has no pods, and says when it was complete.
fn end(errors: &mut ErrorList, path: &Path, spec: &JobSpec, new: &JobStatus, old: &JobStatus) {
    let ended = has_ended(new);
    let just_ended = ended != has_ended(old);
    let complete = holds(new, "Complete");
    let completion_path = path.child("completionTime");
    let completion = (new.completion_time.as_ref(), new.completion_time != old.completion_time);
    if complete != holds(old, "Complete") || completion.1 {
        match (completion.0, complete) {
            (Some(time), false) => {
                let message = "cannot set completionTime when there is no Complete=True condition";
                errors.push(field::invalid(&completion_path, value_of(time), message));
            }
            (None, true) => {
                errors
                    .push(field::required(&completion_path, "completionTime is required for Complete jobs"));
            }
            _ => {}
        }
    }
    let start_changed = new.start_time != old.start_time;
    if let (Some(start), Some(end)) = (&new.start_time, completion.0)
        && (start_changed || completion.1)
        && end.0 < start.0
    {
        let message = "completionTime cannot be set before startTime";
        errors.push(field::invalid(&completion_path, value_of(end), message));
    }
    let active = new.active.unwrap_or(0);
    let active_changed = active != old.active.unwrap_or(0);
    if ended && (just_ended || active_changed) && active > 0 {
        errors.push(field::invalid(&path.child("active"), active, "active>0 is invalid for finished job"));
    }
    let never_runs = spec.suspend == Some(true) && spec.completions == Some(0);
    if ended && (just_ended || start_changed) && !never_runs && new.start_time.is_none() {
        errors.push(field::required(&path.child("startTime"), "startTime is required for finished job"));
    }
    let uncounted = new.uncounted_terminated_pods.as_ref();
    let some =
        uncounted.is_some_and(|pods| !items(&pods.failed).is_empty() || !items(&pods.succeeded).is_empty());
    let uncounted_changed = new.uncounted_terminated_pods != old.uncounted_terminated_pods;
    if ended && (just_ended || uncounted_changed) && some {
        let message = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(field::invalid(&path.child("uncountedTerminatedPods"), value_of(&uncounted), message));
    }
    let terminating = new.terminating.unwrap_or(0);
    if ended && (just_ended || new.terminating != old.terminating) && terminating > 0 {
        let message = "terminating>0 is invalid for finished job";
        errors.push(field::invalid(&path.child("terminating"), terminating, message));
    }
    if let Some(ready) = new.ready.filter(|ready| *ready > active)
        && (new.ready != old.ready || active_changed)
    {
        errors.push(field::invalid(&path.child("ready"), ready, "cannot set more ready pods than active"));
    }
}

/// The sets of indexes are well formed, and no index is in both.
fn index_sets(errors: &mut ErrorList, path: &Path, spec: &JobSpec, new: &JobStatus, old: &JobStatus) {
    let (completed_path, failed_path) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let completed = text(&new.completed_indexes);
    let completed_changed = completed != text(&old.completed_indexes);
    let failed_changed = new.failed_indexes != old.failed_indexes;
    let parsing = |what: &str, text: &str, completions: i32| {
        indexes(text, completions).err().map(|error| format!("error parsing {what}: {error}"))
    };
    if let Some(completions) = spec.completions {
        if completed_changed && let Some(message) = parsing("completedIndexes", completed, completions) {
            errors.push(field::invalid(&completed_path, completed, message));
        }
        if let Some(failed) = &new.failed_indexes
            && failed_changed
            && spec.backoff_limit_per_index.is_some()
            && let Some(message) = parsing("failedIndexes", failed, completions)
        {
            errors.push(field::invalid(&failed_path, failed.as_str(), message));
        }
    }
    if completed_changed && !completed.is_empty() && text(&spec.completion_mode) != "Indexed" {
        let message = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(field::invalid(&completed_path, completed, message));
    }
    let Some(failed) = &new.failed_indexes else { return };
    if failed_changed && spec.backoff_limit_per_index.is_none() {
        let message = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(field::invalid(&failed_path, failed.as_str(), message));
    }
    if let Some(completions) = spec.completions
        && (failed_changed || completed_changed)
        && let Some(index) = overlap(&intervals(completed, completions), &intervals(failed, completions))
    {
        let message = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(field::invalid(&failed_path, failed.as_str(), message));
    }
}

/// The first index that is in both of two rising lists of intervals.
fn overlap(one: &[(i64, i64)], other: &[(i64, i64)]) -> Option<i64> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((from, to)), Some((other_from, other_to))) = (one.peek(), other.peek()) {
        if from <= other_to && other_from <= to {
            return Some(*from.max(other_from));
        }
        if from <= other_from {
            one.next();
        } else {
            other.next();
        }
    }
    None
}

/// What is final stays, and what is counted is not forgotten.
fn changes(errors: &mut ErrorList, path: &Path, spec: &JobSpec, new: &JobStatus, old: &JobStatus) {
    let conditions = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if holds(old, kind) && !holds(new, kind) {
            let message = format!("cannot disable the terminal {kind}=True condition");
            errors.push(field::invalid_whole(&conditions, message));
        }
    }
    // An indexed job that is scaled down forgets the pods of the indexes it lost.
    let shrinks = text(&spec.completion_mode) == "Indexed" && spec.completions == spec.parallelism;
    for (name, new, old, may_shrink) in
        [("failed", new.failed, old.failed, false), ("succeeded", new.succeeded, old.succeeded, shrinks)]
    {
        let new = new.unwrap_or(0);
        if new < old.unwrap_or(0) && !may_shrink {
            let message = format!("cannot decrease the {name} counter");
            errors.push(field::invalid(&path.child(name), new, message));
        }
    }
    if let (Some(time), Some(before)) = (&new.completion_time, &old.completion_time)
        && time != before
    {
        let message = "completionTime cannot be mutated";
        errors.push(field::invalid(&path.child("completionTime"), value_of(time), message));
    }
    // A Job that is resumed begins anew.
    let resumed = holds(old, "Suspended") && !holds(new, "Suspended");
    if old.start_time.is_some() && old.start_time != new.start_time && spec.suspend != Some(true) && !resumed
    {
        let message = "startTime cannot be removed for unsuspended job";
        errors.push(field::required(&path.child("startTime"), message));
    }
    let met = |status: &JobStatus| holds(status, "SuccessCriteriaMet");
    if met(old) && !met(new) {
        let message = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(field::invalid_whole(&conditions, message));
    }
    if holds(old, "Complete") && !met(old) && met(new) {
        let message = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(field::invalid_whole(&conditions, message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(spec: Value, new: Value, old: Value) -> Vec<String> {
        let job = |status: Value| {
            let mut status = status;
            if let Some(kinds) = status.get("is").cloned() {
                let condition = |kind: &Value| json!({"type": kind, "status": "True"});
                status["conditions"] = kinds.as_array().unwrap().iter().map(condition).collect();
                status.as_object_mut().unwrap().remove("is");
            }
            let mut spec = spec.clone();
            spec["template"] = json!({});
            serde_json::from_value::<Job>(json!({"metadata": {}, "spec": spec, "status": status})).unwrap()
        };
        validate_update(&job(new), &job(old)).iter().map(ToString::to_string).collect()
    }

    const START: &str = "2026-01-01T00:00:00Z";
    const END: &str = "2026-01-01T00:01:00Z";

    #[test]
    fn a_job_ends_in_steps() {
        let met = json!({"is": ["SuccessCriteriaMet"], "startTime": START});
        let done =
            json!({"is": ["SuccessCriteriaMet", "Complete"], "startTime": START, "completionTime": END});
        assert!(texts(json!({}), met.clone(), json!({"startTime": START})).is_empty());
        assert!(texts(json!({}), done.clone(), met.clone()).is_empty());
        for (new, old, expected) in [
            (
                json!({"is": ["Complete"], "startTime": START}),
                json!({"startTime": START}),
                vec![
                    "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                    "status.completionTime: Required value: completionTime is required for Complete jobs",
                ],
            ),
            (
                json!({"is": ["Failed"], "active": 1}),
                json!({"active": 1}),
                vec![
                    "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                    "status.active: Invalid value: 1: active>0 is invalid for finished job",
                    "status.startTime: Required value: startTime is required for finished job",
                ],
            ),
            (
                json!({"startTime": START}),
                done.clone(),
                vec![
                    "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                    "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
                ],
            ),
            (
                json!({"is": ["SuccessCriteriaMet", "Complete"], "startTime": START, "completionTime": "2025-01-01T00:00:00Z"}),
                met,
                vec![
                    r#"status.completionTime: Invalid value: "2025-01-01T00:00:00Z": completionTime cannot be set before startTime"#,
                ],
            ),
        ] {
            assert_eq!(texts(json!({}), new, old), expected);
        }
    }

    #[test]
    fn counts_only_grow() {
        assert_eq!(
            texts(json!({}), json!({"failed": 1, "succeeded": 1}), json!({"failed": 2, "succeeded": 2})),
            [
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter"
            ]
        );
        let elastic = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        assert!(texts(elastic, json!({"succeeded": 1}), json!({"succeeded": 2})).is_empty());
        assert_eq!(
            texts(json!({}), json!({"ready": 2, "active": 1}), json!({})),
            ["status.ready: Invalid value: 2: cannot set more ready pods than active"]
        );
        // What is not touched is not judged.
        let odd = json!({"ready": 2, "active": 1});
        assert!(texts(json!({}), odd.clone(), odd).is_empty());
        assert_eq!(
            texts(
                json!({}),
                json!({"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}),
                json!({})
            ),
            [
                r#"status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty"#,
                r#"status.uncountedTerminatedPods.failed[0]: Duplicate value: "a""#
            ]
        );
    }

    #[test]
    fn indexes_are_of_the_job() {
        let indexed = json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1});
        for (spec, new, expected) in [
            (indexed.clone(), json!({"completedIndexes": "0-2", "failedIndexes": "4"}), vec![]),
            (
                indexed.clone(),
                json!({"completedIndexes": "0-2", "failedIndexes": "2-3"}),
                vec![
                    r#"status.failedIndexes: Invalid value: "2-3": failedIndexes and completedIndexes overlap at index: 2"#,
                ],
            ),
            (
                indexed,
                json!({"completedIndexes": "7"}),
                vec![
                    r#"status.completedIndexes: Invalid value: "7": error parsing completedIndexes: too large index: "7""#,
                ],
            ),
            (
                json!({}),
                json!({"completedIndexes": "1", "failedIndexes": "1"}),
                vec![
                    r#"status.completedIndexes: Invalid value: "1": cannot set non-empty completedIndexes when non-indexed completion mode"#,
                    r#"status.failedIndexes: Invalid value: "1": cannot set non-null failedIndexes when backoffLimitPerIndex is null"#,
                ],
            ),
        ] {
            assert_eq!(texts(spec, new, json!({})), expected);
        }
    }

    #[test]
    fn the_start_is_kept() {
        assert_eq!(
            texts(json!({}), json!({}), json!({"startTime": START})),
            ["status.startTime: Required value: startTime cannot be removed for unsuspended job"]
        );
        assert!(texts(json!({"suspend": true}), json!({}), json!({"startTime": START})).is_empty());
    }
}
