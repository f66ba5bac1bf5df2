//! Tables of the StatefulSet controller.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn set(replicas: i32, image: &str, extra: Value) -> StatefulSet {
    let mut spec = json!({
        "replicas": replicas,
        "serviceName": "web",
        "selector": {"matchLabels": {"app": "s"}},
        "template": {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "a", "uid": "s", "generation": 1}, "spec": spec,
    }))
    .unwrap()
}

fn revision(image: &str) -> ControllerRevision {
    let plan = Fixture::new(StatefulSets).with(vec![set(1, image, json!({}))]).plan("a", "s", at(0));
    plan.actions().next().unwrap().object().unwrap()
}

fn pod(ordinal: i32, image: &str, ready: bool) -> Pod {
    let mut pod = ordinal::pod(&set(9, image, json!({})), &revision(image), ordinal);
    pod.metadata.uid = pod.metadata.name.clone();
    pod.status = serde_json::from_value(json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": at(1)}],
    }))
    .unwrap();
    pod
}

fn lines(set: StatefulSet, pods: Vec<Pod>) -> Vec<String> {
    let fixture = Fixture::new(StatefulSets).with(vec![set]).with(pods);
    let lines = fixture.lines("a", "s", at(1000));
    lines.into_iter().filter(|line| line.contains(" pods ") || line.contains("claims")).collect()
}

#[test]
fn pods_come_and_go_in_order() {
    let parallel = json!({"podManagementPolicy": "Parallel"});
    for (what, replicas, extra, pods, expected) in [
        ("the first", 2, json!({}), vec![], &["create pods a/s-0"][..]),
        ("the next waits", 2, json!({}), vec![pod(0, "v1", false)], &[]),
        ("the next", 2, json!({}), vec![pod(0, "v1", true)], &["create pods a/s-1"]),
        ("a hole", 2, json!({}), vec![pod(1, "v1", true)], &["create pods a/s-0"]),
        (
            "the last goes first",
            0,
            json!({}),
            vec![pod(0, "v1", true), pod(1, "v1", true)],
            &["delete pods a/s-1"],
        ),
        ("at once", 2, parallel.clone(), vec![], &["create pods a/s-0", "create pods a/s-1"]),
        (
            "at once, down",
            0,
            parallel,
            vec![pod(0, "v1", true), pod(1, "v1", true)],
            &["delete pods a/s-1", "delete pods a/s-0"],
        ),
        ("from another start", 1, json!({"ordinals": {"start": 5}}), vec![], &["create pods a/s-5"]),
    ] {
        assert_eq!(lines(set(replicas, "v1", extra), pods), expected, "{what}");
    }
}

#[test]
fn updates_go_from_above_one_at_a_time_down_to_the_partition() {
    let all = |images: [&str; 3], ready: [bool; 3]| -> Vec<Pod> {
        (0..3).map(|ordinal| pod(ordinal as i32, images[ordinal], ready[ordinal])).collect()
    };
    let partition = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
    for (what, extra, pods, expected) in [
        ("the last", json!({}), all(["v1", "v1", "v1"], [true; 3]), &["delete pods a/s-2"][..]),
        ("the next", json!({}), all(["v1", "v1", "v2"], [true; 3]), &["delete pods a/s-1"]),
        ("not before the last is ready", json!({}), all(["v1", "v1", "v2"], [true, true, false]), &[]),
        ("not below the partition", partition, all(["v1", "v1", "v2"], [true; 3]), &[]),
        ("on delete", json!({"updateStrategy": {"type": "OnDelete"}}), all(["v1"; 3], [true; 3]), &[]),
    ] {
        assert_eq!(lines(set(3, "v2", extra), pods), expected, "{what}");
    }
}

#[test]
fn each_pod_has_its_own_claim() {
    let claims = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let fixture = Fixture::new(StatefulSets).with(vec![set(1, "v1", claims)]);
    let plan = fixture.plan("a", "s", at(0));
    let lines: Vec<_> = plan.actions().map(ToString::to_string).collect();
    assert_eq!(lines[1..3], ["create persistentvolumeclaims a/data-s-0", "create pods a/s-0"]);
    let pod: Pod = plan.actions().nth(2).unwrap().object().unwrap();
    let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
    assert_eq!(volume.persistent_volume_claim.unwrap().claim_name, "data-s-0");
    assert_eq!(pod.spec.unwrap().subdomain.as_deref(), Some("web"));
    let event = plan.actions().nth(2).unwrap().on_success.clone().unwrap();
    assert_eq!(event.message, "create Pod s-0 in StatefulSet s successful");
}
