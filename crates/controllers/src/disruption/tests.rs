//! What a budget's status says for what pods there are and who controls them.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "x"}});
    serde_json::from_value(json!({
        "metadata": {"name": "b", "namespace": "a", "generation": 3},
        "spec": spec,
        "status": status,
    }))
    .unwrap()
}

fn pod(name: &str, owner: Value, ready: bool) -> Pod {
    let mut owner = owner;
    if owner.is_object() {
        owner["controller"] = true.into();
        owner = json!([owner]);
    }
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "x"}, "ownerReferences": owner},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap()
}

fn set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s"})
}

fn stateful(replicas: i32) -> api::types::apps::v1::StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "a", "uid": "s"},
        "spec": {"replicas": replicas, "selector": {}, "serviceName": "s", "template": {}},
    }))
    .unwrap()
}

fn status(plan: &Plan) -> PodDisruptionBudgetStatus {
    plan.actions().last().unwrap().object::<PodDisruptionBudget>().unwrap().status.unwrap()
}

#[test]
fn numbers_follow_the_pods_and_their_controllers() {
    let pods = || vec![pod("a", set(), true), pod("b", set(), true), pod("c", set(), false)];
    for (what, spec, scale, expected) in [
        ("a number of available", json!({"minAvailable": 1}), 5, [3, 1, 2, 1]),
        ("more than there are", json!({"minAvailable": 9}), 5, [3, 9, 2, 0]),
        ("a share of what is wanted", json!({"minAvailable": "30%"}), 5, [5, 2, 2, 0]),
        ("a number of unavailable", json!({"maxUnavailable": 2}), 3, [3, 1, 2, 1]),
        ("all may be unavailable", json!({"maxUnavailable": "100%"}), 3, [3, 0, 2, 2]),
    ] {
        let fixture = Fixture::new(Disruption)
            .with(vec![budget(spec, json!({}))])
            .with(pods())
            .with(vec![stateful(scale)]);
        let status = status(&fixture.plan("a", "b", at(0)));
        let numbers = [
            status.expected_pods,
            status.desired_healthy,
            status.current_healthy,
            status.disruptions_allowed,
        ];
        assert_eq!(numbers, expected.map(Some), "{what}");
        let condition = &status.conditions.unwrap()[0];
        let reason = if expected[3] > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!((condition.reason.as_str(), condition.observed_generation), (reason, Some(3)), "{what}");
    }
}

#[test]
fn without_pods_nothing_is_allowed() {
    let fixture = Fixture::new(Disruption).with(vec![budget(json!({"minAvailable": 0}), json!({}))]);
    let plan = fixture.plan("a", "b", at(0));
    assert_eq!(status(&plan).disruptions_allowed, Some(0));
    assert_eq!(plan.events[0].message, "No matching pods found");
}

#[test]
fn an_allowed_eviction_holds_its_place_until_it_is_seen_or_forgotten() {
    for (what, now, current, events, again) in
        [("not seen yet", 150, 1, 0, Some(at(221))), ("forgotten", 300, 2, 1, None)]
    {
        let known = json!({"disruptedPods": {"a": at(100), "gone": at(100)}});
        let fixture = Fixture::new(Disruption)
            .with(vec![budget(json!({"minAvailable": 1}), known)])
            .with(vec![pod("a", set(), true), pod("b", set(), true)]);
        let plan = fixture.plan("a", "b", at(now));
        let status = status(&plan);
        assert_eq!((status.current_healthy, plan.requeue_at), (Some(current), again), "{what}");
        assert_eq!(plan.events.len(), events, "{what}");
        let left = status.disrupted_pods.unwrap_or_default();
        assert_eq!(left.contains_key("a"), events == 0, "{what}");
        assert!(!left.contains_key("gone"), "{what}");
    }
}

#[test]
fn the_same_status_is_not_written_again() {
    let fixture = Fixture::new(Disruption)
        .with(vec![budget(json!({"minAvailable": 1}), json!({}))])
        .with(vec![pod("a", set(), true)]);
    let written: PodDisruptionBudget =
        fixture.plan("a", "b", at(0)).actions().next().unwrap().object().unwrap();
    let fixture = fixture.with(vec![written]);
    assert_eq!(fixture.plan("a", "b", at(9)).actions().count(), 0);
}

#[test]
fn what_cannot_be_scaled_allows_nothing_and_says_so() {
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j"});
    let fixture = Fixture::new(Disruption)
        .with(vec![budget(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 1}))])
        .with(vec![pod("a", job, true)]);
    assert_eq!(fixture.plan("a", "b", at(0)).questions, ["/apis/batch/v1"]);
    let jobs =
        json!({"resources": [{"name": "jobs", "kind": "Job"}, {"name": "jobs/status", "kind": "Job"}]});
    let fixture = fixture.with_answer("/apis/batch/v1", Ok(jobs));
    let plan = fixture.plan("a", "b", at(0));
    let status = status(&plan);
    assert_eq!(status.disruptions_allowed, Some(0));
    let condition = &status.conditions.unwrap()[0];
    assert_eq!(condition.reason, "SyncFailed");
    assert_eq!(condition.message, "jobs.batch does not implement the scale subresource");
    assert_eq!(
        plan.events[0].message,
        "Failed to calculate the number of expected pods: jobs.batch does not implement the scale subresource"
    );
}

#[test]
fn any_controller_with_a_scale_counts() {
    let crane = json!({"apiVersion": "example.com/v1", "kind": "Crane", "name": "c", "uid": "c"});
    let fixture = Fixture::new(Disruption)
        .with(vec![budget(json!({"maxUnavailable": 1}), json!({}))])
        .with(vec![pod("a", crane, true), pod("b", Value::Null, true)]);
    let served = json!({"resources": [
        {"name": "cranes", "kind": "Crane"}, {"name": "cranes/scale", "kind": "Scale"},
    ]});
    let fixture = fixture.with_answer("/apis/example.com/v1", Ok(served));
    let path = "/apis/example.com/v1/namespaces/a/cranes/c/scale";
    assert_eq!(fixture.plan("a", "b", at(0)).questions, [path]);
    let fixture = fixture.with_answer(path, Ok(json!({"metadata": {"uid": "c"}, "spec": {"replicas": 4}})));
    let plan = fixture.plan("a", "b", at(0));
    assert_eq!((status(&plan).expected_pods, status(&plan).desired_healthy), (Some(4), Some(3)));
    assert_eq!(plan.events[0].reason, "UnmanagedPods");
    assert!(plan.events[0].message.contains(
        "(selector: &LabelSelector{MatchLabels:map[string]string{app: x,},MatchExpressions:[]LabelSelectorRequirement{},})"
    ));
}

#[test]
fn pods_wake_the_budgets_that_select_them() {
    let fixture = Fixture::new(Disruption).with(vec![budget(json!({"minAvailable": 1}), json!({}))]);
    fixture.woken();
    let mut other = pod("o", Value::Null, true);
    other.metadata.labels = None;
    let fixture = fixture.with(vec![other]);
    assert_eq!(fixture.woken(), Vec::<String>::new());
    let fixture = fixture.with(vec![pod("a", Value::Null, true)]);
    assert_eq!(fixture.woken(), ["a/b"]);
}
