//! What becomes of a CronJob at a time, with which Jobs there are.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2024-05-01T11:00:02Z";
/// Minutes since the epoch at 11:00.
const NAME: &str = "c-28576020";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(spec: Value, status: Value) -> CronJob {
    let mut whole = json!({
        "schedule": "0 * * * *",
        "concurrencyPolicy": "Allow",
        "jobTemplate": {"metadata": {"labels": {"l": "v"}}, "spec": {"template": {}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": "a", "uid": "c", "creationTimestamp": "2024-05-01T10:30:00Z"},
        "spec": whole,
        "status": status,
    }))
    .unwrap()
}

fn job(name: &str, scheduled: Option<&str>, condition: Option<&str>, started: &str) -> Job {
    let conditions = condition.map(|kind| json!([{"type": kind, "status": "True"}])).unwrap_or_default();
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "a", "uid": name,
            "annotations": scheduled.map(|time| json!({SCHEDULED: time})).unwrap_or_default(),
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "c", "controller": true,
            }],
        },
        "status": {"conditions": conditions, "startTime": started, "completionTime": started},
    }))
    .unwrap()
}

fn active(names: &[&str]) -> Value {
    let active: Vec<Value> = names.iter().map(|name| json!({"name": name, "uid": name})).collect();
    json!({"active": active, "lastScheduleTime": "2024-05-01T10:00:00Z"})
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|event| event.reason.as_str()).collect()
}

#[test]
fn plans() {
    let running = || vec![job("old", Some("2024-05-01T10:00:00Z"), None, "2024-05-01T10:00:00Z")];
    let create = "create jobs a/c-28576020";
    let update = "update cronjobs/status a/c";
    for (what, spec, status, jobs, lines, said) in [
        ("due", json!({}), json!({}), vec![], vec![create], vec![]),
        ("suspended", json!({"suspend": true}), json!({}), vec![], vec![], vec![]),
        (
            "used already",
            json!({}),
            json!({"lastScheduleTime": "2024-05-01T11:00:00Z"}),
            vec![],
            vec![],
            vec![],
        ),
        ("beside another", json!({}), active(&["old"]), running(), vec![create], vec![]),
        (
            "not beside another",
            json!({"concurrencyPolicy": "Forbid"}),
            active(&["old"]),
            running(),
            vec![],
            vec!["JobAlreadyActive"],
        ),
        (
            "in place of another",
            json!({"concurrencyPolicy": "Replace"}),
            active(&["old"]),
            running(),
            vec!["delete jobs a/old", create, update],
            vec![],
        ),
        (
            "too late",
            json!({"startingDeadlineSeconds": 1, "schedule": "0 11 * * *"}),
            json!({}),
            vec![],
            vec![],
            vec![],
        ),
        ("no schedule", json!({"schedule": "x"}), json!({}), vec![], vec![], vec!["UnparseableSchedule"]),
        ("no zone", json!({"timeZone": "No/Where"}), json!({}), vec![], vec![], vec!["UnknownTimeZone"]),
        (
            "a zone of its own",
            json!({"timeZone": "Asia/Kathmandu", "schedule": "45 16 * * *"}),
            json!({}),
            vec![],
            vec![create],
            vec![],
        ),
        (
            "one that is done makes room",
            json!({"concurrencyPolicy": "Forbid"}),
            active(&["old"]),
            vec![job("old", Some("2024-05-01T10:00:00Z"), Some("Complete"), "2024-05-01T10:00:00Z")],
            vec![create, update],
            vec!["SawCompletedJob"],
        ),
        (
            "a stranger",
            json!({}),
            json!({"lastScheduleTime": "2024-05-01T11:00:00Z"}),
            vec![job("s", None, None, "2024-05-01T10:00:00Z")],
            vec![],
            vec!["UnexpectedJob"],
        ),
    ] {
        let fixture = Fixture::new(CronJobs::new(TimeZone::UTC)).with(vec![cron(spec, status)]).with(jobs);
        let plan = fixture.plan("a", "c", at(NOW));
        let made: Vec<_> = plan.actions().map(ToString::to_string).collect();
        assert_eq!((made, reasons(&plan)), (lines.iter().map(ToString::to_string).collect(), said), "{what}");
    }
}

#[test]
fn the_job_carries_its_time_and_the_template() {
    let spec = json!({"timeZone": "Europe/Berlin"});
    let fixture = Fixture::new(CronJobs::new(TimeZone::UTC)).with(vec![cron(spec, json!({}))]);
    let plan = fixture.plan("a", "c", at(NOW));
    assert_eq!(plan.requeue_at, Some(at("2024-05-01T12:00:00Z")));
    let action = plan.actions().next().unwrap();
    let made: Job = action.object().unwrap();
    assert_eq!(object::annotation(&made, SCHEDULED), Some("2024-05-01T13:00:00+02:00"));
    assert_eq!(object::labels(&made)["l"], "v");
    assert_eq!(object::controller(&made).unwrap().kind, "CronJob");
    assert_eq!(action.on_success.as_ref().unwrap().message, format!("Created job {NAME}"));
    assert_eq!(scheduled(&cron(json!({}), json!({})), &made), Some(at("2024-05-01T11:00:00Z")));
}

#[test]
fn a_new_job_becomes_active_and_its_time_the_last() {
    let made = job(NAME, Some("2024-05-01T11:00:00Z"), None, "2024-05-01T11:00:02Z");
    let fixture =
        Fixture::new(CronJobs::new(TimeZone::UTC)).with(vec![cron(json!({}), json!({}))]).with(vec![made]);
    let plan = fixture.plan("a", "c", at(NOW));
    assert_eq!(reasons(&plan), Vec::<&str>::new());
    let status = plan.actions().next().unwrap().object::<CronJob>().unwrap().status.unwrap();
    assert_eq!(status.active.unwrap()[0].name.as_deref(), Some(NAME));
    assert_eq!(status.last_schedule_time.unwrap().0, at("2024-05-01T11:00:00Z"));
}

#[test]
fn a_missing_job_is_asked_for_before_it_is_forgotten() {
    let used = json!({"active": [{"name": "old", "uid": "old"}], "lastScheduleTime": "2024-05-01T11:00:00Z"});
    let fixture = Fixture::new(CronJobs::new(TimeZone::UTC)).with(vec![cron(json!({}), used)]);
    let path = "/apis/batch/v1/namespaces/a/jobs/old";
    let plan = fixture.plan("a", "c", at(NOW));
    assert_eq!((plan.questions.as_slice(), plan.actions().count()), (&[path.to_owned()][..], 0));
    let gone = api::Status::not_found(&api::GroupResource::new("batch", "jobs"), "old");
    let plan = fixture.with_answer(path, Err(gone)).plan("a", "c", at(NOW));
    assert_eq!(reasons(&plan), ["MissingJob"]);
    assert_eq!(plan.actions().map(ToString::to_string).collect::<Vec<_>>(), ["update cronjobs/status a/c"]);
}

#[test]
fn nothing_is_started_past_its_deadline() {
    let spec = json!({"startingDeadlineSeconds": 1});
    let late = at("2024-05-01T11:00:01.5Z");
    let fixture = Fixture::new(CronJobs::new(TimeZone::UTC)).with(vec![cron(spec, json!({}))]);
    let plan = fixture.plan("a", "c", late);
    assert_eq!(plan.actions().count(), 0);
    assert_eq!(plan.requeue_at, Some(at("2024-05-01T12:00:00Z")));
}

#[test]
fn the_oldest_of_too_many_go() {
    let spec = json!({"suspend": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
    let jobs = vec![
        job("a", None, Some("Complete"), "2024-05-01T08:00:00Z"),
        job("b", None, Some("Complete"), "2024-05-01T09:00:00Z"),
        job("f", None, Some("Failed"), "2024-05-01T09:00:00Z"),
        job("r", None, None, "2024-05-01T07:00:00Z"),
    ];
    let fixture = Fixture::new(CronJobs::new(TimeZone::UTC)).with(vec![cron(spec, json!({}))]).with(jobs);
    let lines = fixture.lines("a", "c", at(NOW));
    assert_eq!(lines, ["delete jobs a/a", "delete jobs a/f", "update cronjobs/status a/c"]);
}
