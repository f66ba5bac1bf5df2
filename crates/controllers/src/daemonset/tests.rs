//! Tables of the DaemonSet controller.

use reconcile::Fixture;
use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn set(image: &str, extra: Value) -> DaemonSet {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "a", "uid": "d", "generation": 1}, "spec": spec,
    }))
    .unwrap()
}

fn node(name: &str, labels: Value, taints: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
        .unwrap()
}

fn plain(name: &str) -> Node {
    node(name, json!({}), json!([]))
}

/// The revision of a template, as the controller would store it.
fn revision(image: &str) -> ControllerRevision {
    let plan = Fixture::new(DaemonSets).with(vec![set(image, json!({}))]).plan("a", "d", at(0));
    plan.actions().next().unwrap().object().unwrap()
}

fn pod(node: &str, image: &str, ready: bool) -> Pod {
    let hash = history::hash(&revision(image)).to_owned();
    let mut pod = place::pod(&set(image, json!({})), node, &hash);
    pod.metadata.name = Some(format!("d-{node}-{image}"));
    pod.metadata.uid = pod.metadata.name.clone();
    pod.status = serde_json::from_value(json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": at(1)}],
    }))
    .unwrap();
    pod
}

fn lines(set: DaemonSet, nodes: Vec<Node>, pods: Vec<Pod>) -> Vec<String> {
    let fixture = Fixture::new(DaemonSets).with(vec![set]).with(nodes).with(pods);
    let lines = fixture.lines("a", "d", at(1000));
    lines.into_iter().filter(|line| line.contains(" pods ")).collect()
}

#[test]
fn one_pod_on_each_node_that_should_have_one() {
    let tainted = |effect: &str| node("n", json!({}), json!([{"key": "x", "effect": effect}]));
    let selecting = json!({"template": {
        "metadata": {"labels": {"app": "d"}},
        "spec": {"containers": [{"name": "c", "image": "v1"}], "nodeSelector": {"disk": "ssd"}},
    }});
    for (what, extra, nodes, pods, expected) in [
        ("a node without", json!({}), vec![plain("n")], vec![], &["create pods a/d-"][..]),
        ("a node with", json!({}), vec![plain("n")], vec![pod("n", "v1", true)], &[]),
        (
            "two nodes",
            json!({}),
            vec![plain("m"), plain("n")],
            vec![pod("n", "v1", true)],
            &["create pods a/d-"],
        ),
        ("a taint that keeps away", json!({}), vec![tainted("NoSchedule")], vec![], &[]),
        ("but does not drive out", json!({}), vec![tainted("NoSchedule")], vec![pod("n", "v1", true)], &[]),
        (
            "one that does",
            json!({}),
            vec![tainted("NoExecute")],
            vec![pod("n", "v1", true)],
            &["delete pods a/d-n-v1"],
        ),
        (
            "not ready is tolerated",
            json!({}),
            vec![node(
                "n",
                json!({}),
                json!([
                    {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
                ]),
            )],
            vec![],
            &["create pods a/d-"],
        ),
        ("a selector", selecting.clone(), vec![plain("n")], vec![], &[]),
        (
            "a selector that matches",
            selecting,
            vec![node("n", json!({"disk": "ssd"}), json!([]))],
            vec![],
            &["create pods a/d-"],
        ),
    ] {
        assert_eq!(lines(set("v1", extra), nodes, pods), expected, "{what}");
    }
}

#[test]
fn a_rolling_update_keeps_to_its_bounds() {
    let nodes = || vec![plain("l"), plain("m"), plain("n")];
    let old = |node: &str, ready| pod(node, "v1", ready);
    let all = |l, m, n| vec![old("l", l), old("m", m), old("n", n)];
    assert_eq!(lines(set("v2", json!({})), nodes(), all(true, true, true)), ["delete pods a/d-l-v1"]);
    // The one that does not serve goes, and uses up what may be unavailable.
    assert_eq!(lines(set("v2", json!({})), nodes(), all(true, false, true)), ["delete pods a/d-m-v1"]);
    let surge = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}});
    let surging = lines(set("v2", surge.clone()), nodes(), all(true, true, true));
    assert_eq!(surging, ["create pods a/d-", "create pods a/d-"]);
    let mut both = all(true, true, true);
    both.push(pod("l", "v2", true));
    let lines_both = lines(set("v2", surge), nodes(), both);
    assert_eq!(lines_both, ["delete pods a/d-l-v1"], "the new one serves, so the old one goes");
    let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
    assert!(lines(set("v2", on_delete), nodes(), all(true, true, true)).is_empty());
}

#[test]
fn the_status_counts_nodes() {
    let fixture = Fixture::new(DaemonSets)
        .with(vec![set("v1", json!({}))])
        .with(vec![
            plain("m"),
            plain("n"),
            node("x", json!({}), json!([{"key": "x", "effect": "NoSchedule"}])),
        ])
        .with(vec![pod("n", "v1", true), pod("x", "v1", true)]);
    let plan = fixture.plan("a", "d", at(1000));
    let written: DaemonSet = plan.actions().last().unwrap().object().unwrap();
    let status = written.status.unwrap();
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
        (2, 1, 1)
    );
    assert_eq!(
        (status.number_ready, status.number_available, status.number_unavailable),
        (1, Some(1), Some(1))
    );
    assert_eq!(status.updated_number_scheduled, Some(1));
}
