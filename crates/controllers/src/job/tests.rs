//! Tables of the Job controller: pods in, actions and status out.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut full = json!({
        "parallelism": 1, "completions": 1, "backoffLimit": 6,
        "selector": {"matchLabels": {"job": "j"}},
        "template": {"metadata": {"labels": {"job": "j"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}},
    });
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "j", "namespace": "a", "uid": "j", "resourceVersion": "1"},
        "spec": full,
        "status": status,
    }))
    .unwrap()
}

fn pod(name: &str, phase: &str, extra: Value) -> Pod {
    let mut metadata = json!({
        "name": name, "namespace": "a", "uid": name, "labels": {"job": "j"},
        "finalizers": [FINALIZER],
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}],
    });
    for (key, value) in extra.as_object().unwrap() {
        metadata[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": metadata,
        "spec": {"containers": []},
        "status": {"phase": phase, "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": at(100)}},
        }]},
    }))
    .unwrap()
}

fn index(index: i32) -> Value {
    json!({"annotations": {"batch.kubernetes.io/job-completion-index": index.to_string()}})
}

fn run(job: Job, pods: Vec<Pod>, now: i64) -> (Vec<String>, Option<JobStatus>, Plan) {
    let plan = Fixture::new(Jobs).with(vec![job]).with(pods).plan("a", "j", at(now));
    let lines = plan.actions().map(ToString::to_string).collect();
    let written = plan.actions().find(|action| action.endpoint.plural == "jobs");
    let status = written.and_then(|action| action.object::<Job>()).and_then(|job| job.status);
    (lines, status, plan)
}

fn started() -> Value {
    json!({"startTime": at(50), "active": 1, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {}})
}

fn types(status: &JobStatus) -> Vec<&str> {
    status.conditions.iter().flatten().map(|condition| condition.type_.as_str()).collect()
}

#[test]
fn a_new_job_creates_its_pods() {
    let (lines, status, _) = run(job(json!({"parallelism": 3, "completions": 2}), json!({})), vec![], 60);
    assert_eq!(lines, ["create pods a/j-", "create pods a/j-", "update jobs/status a/j"]);
    assert_eq!(status.unwrap().start_time, Some(Time(at(60))));
}

#[test]
fn a_pod_that_succeeded_is_written_then_untracked_then_counted() {
    let done = pod("p", "Succeeded", json!({}));
    let (lines, status, _) = run(job(json!({}), started()), vec![done.clone()], 110);
    assert_eq!(lines, ["update jobs/status a/j", "patch pods a/p"]);
    let status = status.unwrap();
    assert_eq!(status.uncounted_terminated_pods.clone().unwrap().succeeded, Some(vec!["p".to_owned()]));
    assert_eq!(
        (status.succeeded, types(&status)),
        (None, vec!["SuccessCriteriaMet"]),
        "not counted, so not over"
    );
    // The finalizer is gone.
    let mut free = done;
    free.metadata.finalizers = None;
    let (lines, status, _) =
        run(job(json!({}), serde_json::to_value(status).unwrap()), vec![free.clone()], 111);
    assert_eq!(lines, ["update jobs/status a/j"]);
    let status = status.unwrap();
    assert_eq!((status.succeeded, types(&status)), (Some(1), vec!["SuccessCriteriaMet", "Complete"]));
    assert_eq!(status.completion_time, Some(Time(at(111))));
    let (lines, ..) = run(job(json!({}), serde_json::to_value(status).unwrap()), vec![free], 112);
    assert!(lines.is_empty(), "a finished Job is left alone: {lines:?}");
}

#[test]
fn a_failure_waits_before_the_next_pod() {
    let (lines, _, plan) = run(job(json!({}), started()), vec![pod("p", "Failed", json!({}))], 105);
    assert_eq!(lines, ["update jobs/status a/j", "patch pods a/p"]);
    assert_eq!(plan.requeue_at, Some(at(110)));
    let counted = json!({"startTime": at(50), "failed": 1, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {}});
    let free = pod("p", "Failed", json!({"finalizers": null}));
    let (lines, ..) = run(job(json!({}), counted), vec![free], 110);
    assert_eq!(lines, ["create pods a/j-"]);
}

#[test]
fn jobs_fail_for_a_reason() {
    let exceeded = |spec: Value, pods: Vec<Pod>, now| -> (String, Vec<String>) {
        let (lines, status, _) = run(job(spec, started()), pods, now);
        let status = status.unwrap();
        let condition = condition(&status, "FailureTarget").unwrap();
        (condition.reason.clone().unwrap(), lines)
    };
    let failed = || pod("p", "Failed", json!({}));
    let running = || pod("q", "Running", json!({}));
    assert_eq!(exceeded(json!({"backoffLimit": 0}), vec![failed()], 105).0, "BackoffLimitExceeded");
    let (reason, lines) = exceeded(json!({"activeDeadlineSeconds": 10}), vec![running()], 60);
    assert_eq!(reason, "DeadlineExceeded");
    assert_eq!(lines, ["delete pods a/q", "update jobs/status a/j", "patch pods a/q"]);
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}},
    ]}});
    assert_eq!(exceeded(policy, vec![failed()], 105).0, "PodFailurePolicy");
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew() {
    let (lines, status, _) =
        run(job(json!({"suspend": true}), started()), vec![pod("p", "Running", json!({}))], 60);
    assert_eq!(lines, ["delete pods a/p", "update jobs/status a/j"]);
    let status = status.unwrap();
    assert_eq!((types(&status), status.start_time.clone()), (vec!["Suspended"], None));
    let (lines, status, _) = run(job(json!({}), serde_json::to_value(status).unwrap()), vec![], 70);
    assert_eq!(lines, ["create pods a/j-", "update jobs/status a/j"]);
    assert_eq!(status.unwrap().start_time, Some(Time(at(70))));
}

#[test]
fn indexed_jobs_complete_each_index_once() {
    let spec = || json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2});
    let pods = vec![pod("p0", "Succeeded", index(0)), pod("p1", "Running", index(1))];
    let (lines, status, plan) = run(job(spec(), started()), pods, 60);
    assert_eq!(lines, ["create pods a/j-2-", "update jobs/status a/j", "patch pods a/p0"]);
    assert_eq!(status.unwrap().completed_indexes.as_deref(), Some("0"));
    let created: Pod = plan.actions().next().unwrap().object().unwrap();
    assert_eq!(created.spec.unwrap().hostname.as_deref(), Some("j-2"));
    let twice = vec![pod("a", "Running", index(1)), pod("b", "Running", index(1))];
    let (lines, ..) = run(job(spec(), started()), twice, 60);
    assert_eq!(lines, ["delete pods a/b", "update jobs/status a/j"]);
}

#[test]
fn an_index_fails_after_its_own_limit() {
    let spec = json!({
        "completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 0, "backoffLimit": 100,
    });
    let pods = vec![pod("p0", "Failed", index(0)), pod("p1", "Running", index(1))];
    let (lines, status, _) = run(job(spec, started()), pods, 200);
    assert_eq!(lines, ["update jobs/status a/j", "patch pods a/p0"], "index 0 gets no other pod");
    assert_eq!(status.unwrap().failed_indexes.as_deref(), Some("0"));
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let plan = Fixture::new(Jobs).with(vec![pod("p", "Running", json!({}))]).plan("a", "j", at(0));
    assert_eq!(plan.actions().map(ToString::to_string).collect::<Vec<_>>(), ["patch pods a/p"]);
}
