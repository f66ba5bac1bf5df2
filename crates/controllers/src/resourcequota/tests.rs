//! What a count says, when it is written, and what it waits for.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn quota(version: &str, spec: Value, status: Value) -> ResourceQuota {
    serde_json::from_value(json!({
        "metadata": {"name": "q", "namespace": "a", "resourceVersion": version},
        "spec": spec,
        "status": status,
    }))
    .unwrap()
}

fn pod(name: &str, spec: Value, phase: &str, deleted: Option<i64>) -> Pod {
    let mut whole = spec;
    whole["containers"][0]["name"] = "c".into();
    let mut metadata = json!({"name": name, "namespace": "a"});
    if let Some(at_second) = deleted {
        metadata["deletionTimestamp"] = json!(at(at_second * 1000));
        metadata["deletionGracePeriodSeconds"] = 30.into();
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": whole, "status": {"phase": phase}})).unwrap()
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

fn used(plan: &Plan) -> Option<Value> {
    let written: ResourceQuota = plan.actions().next()?.object()?;
    Some(serde_json::to_value(written.status?.used?).unwrap())
}

#[test]
fn counts() {
    let hard = json!({"pods": "10", "requests.cpu": "2"});
    for (what, scopes, pods, expected) in [
        ("nothing", json!(null), vec![], json!({"pods": "0", "requests.cpu": "0"})),
        (
            "what runs, not what has ended",
            json!(null),
            vec![pod("a", asks("250m"), "Running", None), pod("b", asks("1"), "Succeeded", None)],
            json!({"pods": "1", "requests.cpu": "250m"}),
        ),
        (
            "what is going counts for its grace period",
            json!(null),
            vec![pod("a", asks("1"), "Running", Some(80)), pod("b", asks("1"), "Running", Some(60))],
            json!({"pods": "1", "requests.cpu": "1"}),
        ),
        (
            "only what is in the scopes",
            json!(["Terminating"]),
            vec![
                pod(
                    "a",
                    json!({"activeDeadlineSeconds": 5, "containers": asks("1")["containers"]}),
                    "Running",
                    None,
                ),
                pod("b", asks("1"), "Running", None),
            ],
            json!({"pods": "1", "requests.cpu": "1"}),
        ),
    ] {
        let fresh = quota("1", json!({"hard": hard, "scopes": scopes}), json!({}));
        let fixture = Fixture::new(ResourceQuotas::default()).with(vec![fresh]).with(pods);
        assert_eq!(used(&fixture.plan("a", "q", at(100_000))), Some(expected), "{what}");
    }
}

#[test]
fn services_and_claims_are_counted_by_what_they_are() {
    let hard = json!({
        "services": "5", "services.nodeports": "5", "services.loadbalancers": "1",
        "persistentvolumeclaims": "3", "requests.storage": "10Gi",
        "gold.storageclass.storage.k8s.io/requests.storage": "5Gi",
    });
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "a"},
        "spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]},
    }))
    .unwrap();
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": "a"},
        "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
    }))
    .unwrap();
    let fixture = Fixture::new(ResourceQuotas::default())
        .with(vec![quota("1", json!({"hard": hard}), json!({}))])
        .with(vec![service])
        .with(vec![claim]);
    assert_eq!(
        used(&fixture.plan("a", "q", at(0))),
        Some(json!({
            "services": "1", "services.nodeports": "2", "services.loadbalancers": "0",
            "persistentvolumeclaims": "1", "requests.storage": "1Gi",
            "gold.storageclass.storage.k8s.io/requests.storage": "1Gi",
        }))
    );
}

#[test]
fn a_quota_shrinks_at_once_if_it_was_left_alone_and_after_a_while_if_not() {
    let (hard, three) = (json!({"pods": "3"}), json!({"pods": "3"}));
    let known = || quota("7", json!({"hard": hard}), json!({"hard": hard, "used": three}));
    let fixture = Fixture::new(ResourceQuotas::default()).with(vec![known()]).with(vec![pod(
        "a",
        asks("1"),
        "Running",
        None,
    )]);
    let plan = fixture.plan("a", "q", at(5_000));
    assert_eq!(
        (plan.actions().count(), plan.requeue_at),
        (0, Some(at(6_000))),
        "charges may be on their way"
    );
    assert_eq!(used(&fixture.plan("a", "q", at(6_000))), Some(json!({"pods": "1"})));
    let fixture = fixture.with::<ResourceQuota>(vec![]).with::<Pod>(vec![]);
    assert!(fixture.plan("a", "q", at(7_000)).actions().next().is_none(), "the quota is gone");
}

#[test]
fn a_changed_bound_is_taken_over_at_once_but_nothing_is_given_back() {
    let known =
        quota("7", json!({"hard": {"pods": "5"}}), json!({"hard": {"pods": "3"}, "used": {"pods": "3"}}));
    let fixture = Fixture::new(ResourceQuotas::default()).with(vec![known]);
    let plan = fixture.plan("a", "q", at(5_000));
    assert_eq!(used(&plan), Some(json!({"pods": "3"})));
    assert_eq!(plan.requeue_at, Some(at(6_000)));
}

#[test]
fn a_count_that_is_right_is_not_written() {
    let hard = json!({"pods": "3", "requests.cpu": "2"});
    let known = quota(
        "7",
        json!({"hard": hard}),
        json!({"hard": hard, "used": {"pods": "1", "requests.cpu": "1000m"}}),
    );
    let fixture = Fixture::new(ResourceQuotas::default()).with(vec![known]).with(vec![pod(
        "a",
        asks("1"),
        "Running",
        None,
    )]);
    fixture.plan("a", "q", at(0));
    let plan = fixture.plan("a", "q", at(9_000));
    assert_eq!((plan.actions().count(), plan.requeue_at), (0, None), "an idle cluster is silent");
}

#[test]
fn a_resource_is_looked_up_before_it_is_counted() {
    let fresh = quota("1", json!({"hard": {"count/widgets.example.com": "2"}}), json!({}));
    let fixture = Fixture::new(ResourceQuotas::default()).with(vec![fresh]);
    let plan = fixture.plan("a", "q", at(0));
    assert_eq!(plan.questions, ["/apis/example.com"]);
    let version = json!({"groupVersion": "example.com/v1", "version": "v1"});
    let group = json!({"preferredVersion": version, "versions": [version]});
    let fixture = fixture.with_answer("/apis/example.com", Ok(group));
    assert_eq!(fixture.plan("a", "q", at(0)).questions, ["/apis/example.com/v1"]);
    let list = json!({"groupVersion": "example.com/v1",
        "resources": [{"name": "widgets", "verbs": ["list", "watch"]}]});
    let fixture = fixture.with_answer("/apis/example.com/v1", Ok(list));
    assert!(fixture.plan("a", "q", at(0)).retry, "its objects are being listed");
}

#[test]
fn a_resource_is_looked_up_again_when_its_definition_has_changed() {
    let widgets = api::GroupResource::new("example.com", "widgets");
    let group = |version: &str| {
        let version = json!({"groupVersion": format!("example.com/{version}"), "version": version});
        Ok(json!({"preferredVersion": version, "versions": [version]}))
    };
    let list = |version: &str| {
        Ok(json!({"groupVersion": format!("example.com/{version}"),
            "resources": [{"name": "widgets", "verbs": ["list", "watch"]}]}))
    };
    let down = || Err(api::Status::service_unavailable("down"));
    let none = || Ok(json!({"versions": []}));
    let fresh = quota("1", json!({"hard": {"count/widgets.example.com": "2"}}), json!({}));
    let mut fixture = Fixture::new(ResourceQuotas::default())
        .with(vec![fresh])
        .with_answer("/apis/example.com/v1", list("v1"))
        .with_answer("/apis/example.com/v2", list("v2"))
        .with_answer("/apis/example.com/v3", list("v3"));
    // When, whether its definition changed before, what discovery tells, what is watched then, when it is looked for again.
    for (now, changed, answer, watched, again) in [
        (100, false, none(), None, None),
        // Discovery is behind with a definition that is new, and with one that has another version.
        (101, true, none(), None, Some(106)),
        (103, false, none(), None, Some(106)),
        (106, false, group("v1"), Some("v1"), None),
        (200, true, group("v1"), Some("v1"), Some(205)),
        (203, false, group("v2"), Some("v1"), Some(205)),
        (205, false, group("v2"), Some("v2"), None),
        // The change was another.
        (300, true, group("v2"), Some("v2"), Some(305)),
        (305, false, group("v2"), Some("v2"), None),
        (400, false, group("v3"), Some("v2"), None),
        // A group that does not answer.
        (500, true, down(), Some("v2"), Some(530)),
        (530, false, group("v2"), Some("v2"), Some(535)),
        (535, false, down(), Some("v2"), Some(565)),
        (565, false, group("v3"), Some("v3"), None),
    ] {
        if changed {
            fixture.controller().sources.changed(&widgets);
        }
        fixture = fixture.with_answer("/apis/example.com", answer);
        let plan = fixture.plan("a", "q", at(now * 1_000));
        assert_eq!(fixture.controller().sources.version(&widgets).as_deref(), watched, "at {now}");
        let later = plan.requeue_at.filter(|later| *later > at(now * 1_000 + 1_000));
        assert_eq!(later, again.map(|again| at(again * 1_000)), "at {now}");
    }
}

#[test]
fn deletions_wake_the_quotas_of_their_namespace_and_creations_do_not() {
    let fixture = Fixture::new(ResourceQuotas::default()).with(vec![quota(
        "1",
        json!({"hard": {"pods": "3"}}),
        json!({}),
    )]);
    assert_eq!(fixture.woken(), ["a/q"]);
    let fixture = fixture.with(vec![pod("a", asks("1"), "Running", None)]);
    assert_eq!(fixture.woken(), Vec::<String>::new());
    let fixture = fixture.with(vec![pod("a", asks("1"), "Succeeded", None)]);
    assert_eq!(fixture.woken(), ["a/q"]);
    let fixture = fixture.with::<Pod>(vec![]);
    assert_eq!(fixture.woken(), ["a/q"]);
}

#[test]
fn a_group_that_is_down_keeps_no_other_resource_from_being_counted() {
    let hard = json!({"pods": "9", "count/widgets.example.com": "2"});
    let known = || {
        let used = json!({"pods": "3", "count/widgets.example.com": "1"});
        quota("1", json!({"hard": hard}), json!({"hard": hard, "used": used}))
    };
    let down = || Err(api::Status::service_unavailable("down"));
    let fixture =
        Fixture::new(ResourceQuotas::default()).with(vec![known()]).with_answer("/apis/example.com", down());
    fixture.plan("a", "q", at(0));
    let plan = fixture.plan("a", "q", at(1_000));
    assert_eq!(used(&plan), Some(json!({"pods": "0", "count/widgets.example.com": "1"})));
    assert_eq!((plan.retry, plan.requeue_at), (false, Some(at(31_000))));
}

#[test]
fn what_was_seen_to_go_is_given_back_while_the_quota_is_written() {
    let hard = json!({"pods": "9"});
    let known = |version: &str, used: &str| {
        quota(version, json!({"hard": hard}), json!({"hard": hard, "used": {"pods": used}}))
    };
    let pod = |name: &str, phase: &str, version: &str| {
        let mut pod = pod(name, asks("1"), phase, None);
        pod.metadata.resource_version = Some(version.to_owned());
        pod
    };
    let three = vec![pod("a", "Running", "1"), pod("b", "Running", "2"), pod("c", "Running", "3")];
    // Four are charged: one is on its way.
    let fixture = Fixture::new(ResourceQuotas::default()).with(vec![known("10", "4")]).with(three);
    assert_eq!(fixture.plan("a", "q", at(0)).actions().count(), 0, "charges may be on their way");
    let fixture = fixture.with(vec![pod("b", "Succeeded", "11"), pod("c", "Running", "3")]);
    let plan = fixture.plan("a", "q", at(100));
    assert_eq!((used(&plan), plan.requeue_at), (Some(json!({"pods": "2"})), Some(at(1_000))));
    // The write was refused, because another pod was charged meanwhile.
    let failure = reconcile::Failure {
        action: std::sync::Arc::new(plan.actions().next().unwrap().clone()),
        status: None,
        message: String::new(),
    };
    let fixture = fixture.with_failure(failure).with(vec![known("12", "5")]);
    assert_eq!(used(&fixture.plan("a", "q", at(200))), Some(json!({"pods": "3"})), "it is not forgotten");
}

#[test]
fn what_was_given_back_is_not_given_back_again() {
    let releases = Releases::default();
    let key = Key::new("a", "q");
    let one: Usage = [("pods".to_owned(), Quantity::new(1, api::quantity::Format::DecimalSi))].into();
    releases.since(&key, "1", 100, true, at(0));
    releases.add(&key, 100, None, &one);
    assert!(releases.take(&key).is_empty(), "the count has seen it");
    releases.add(&key, 101, None, &one);
    assert_eq!(releases.take(&key), one);
    releases.add(&key, 102, None, &one);
    releases.since(&key, "2", 102, true, at(1));
    assert_eq!(releases.take(&key), one, "the first is taken off, the second is left");
    releases.counted(&key, 103, at(5), true);
    assert!(releases.take(&key).is_empty());
    releases.add(&key, 103, None, &one);
    assert!(releases.take(&key).is_empty(), "told of late");
    releases.add(&key, 104, Some(at(4)), &one);
    assert!(releases.take(&key).is_empty(), "its grace period was over when the count was made");
    releases.add(&key, 105, Some(at(6)), &one);
    assert_eq!(releases.take(&key), one);
}
