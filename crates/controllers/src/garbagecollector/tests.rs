//! Tables of the collector: a graph of objects, a UID, and what is to be done.

use std::sync::Arc;

use client::{Change, Endpoint, PartialMetadata};
use jiff::Timestamp;
use reconcile::{Answers, Fixture};
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::graph::{Graph, Kind};
use super::{DISCOVERY, GarbageCollector, ask_again, catch_up};

fn endpoint(plural: &'static str) -> Endpoint {
    Endpoint::new("", "v1", plural)
}

fn object(uid: &str, owners: Value, extra: Value) -> Arc<PartialMetadata> {
    let mut metadata = json!({
        "name": uid, "namespace": "a", "uid": uid, "resourceVersion": "1", "ownerReferences": owners,
    });
    for (key, value) in extra.as_object().unwrap() {
        metadata[key] = value.clone();
    }
    Arc::new(serde_json::from_value(json!({"kind": "Pod", "metadata": metadata})).unwrap())
}

fn owner(uid: &str, block: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid, "blockOwnerDeletion": block})
}

fn graph() -> Graph {
    let mut graph = Graph::default();
    graph.learn(&Kind { endpoint: endpoint("pods"), kind: "Pod".to_owned(), namespaced: true });
    graph
}

fn add(graph: &mut Graph, object: Arc<PartialMetadata>) -> Vec<String> {
    graph.apply(&endpoint("pods"), &Change::Added(object))
}

fn lines(decision: &Decision) -> Vec<String> {
    decision.plan.actions().map(ToString::to_string).collect()
}

fn missing(path: &str) -> Answers {
    let mut answers = Answers::default();
    answers.insert(path, Err(api::Status::not_found(&api::GroupResource::new("", "pods"), "x")));
    answers
}

const DELETED: &str = "2026-01-01T00:00:00Z";

#[test]
fn an_object_whose_owner_is_there_stays() {
    let mut graph = graph();
    add(&mut graph, object("owner", json!([]), json!({})));
    assert_eq!(
        add(&mut graph, object("child", json!([owner("owner", true)]), json!({}))),
        Vec::<String>::new()
    );
    let decision = decide(&graph, "child", &Answers::default());
    assert!(lines(&decision).is_empty() && decision.plan.questions.is_empty());
}

#[test]
fn an_owner_that_was_not_seen_is_asked_for_before_anything_is_deleted() {
    let mut graph = graph();
    assert_eq!(add(&mut graph, object("child", json!([owner("owner", true)]), json!({}))), ["child"]);
    let path = "/api/v1/namespaces/a/pods/owner";
    assert_eq!(decide(&graph, "child", &Answers::default()).plan.questions, [path]);
    assert_eq!(lines(&decide(&graph, "child", &missing(path))), ["delete pods a/child"]);
    let mut other = Answers::default();
    other.insert(path, Ok(json!({"metadata": {"uid": "another"}})));
    assert_eq!(lines(&decide(&graph, "child", &other)), ["delete pods a/child"]);
    let mut same = Answers::default();
    same.insert(path, Ok(json!({"metadata": {"uid": "owner"}})));
    assert!(lines(&decide(&graph, "child", &same)).is_empty());
    for why in [
        api::Status::forbidden(&api::GroupResource::new("", "pods"), "owner", "no"),
        api::Status::service_unavailable("down"),
        api::Status::page_not_found(),
    ] {
        let mut untold = Answers::default();
        untold.insert(path, Err(why));
        let decision = decide(&graph, "child", &untold);
        assert!(lines(&decision).is_empty(), "not knowing is no reason to delete");
        assert!(decision.plan.retry, "nor to forget it");
    }
}

#[test]
fn a_broken_group_and_a_kind_that_cannot_be_listed_do_not_stop_the_rest() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let pods = json!({"groupVersion": "v1", "resources": [
        {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["delete", "list", "watch"]},
    ]});
    let group = json!({"groups": [{"preferredVersion": {"groupVersion": "down.io/v1"}}]});
    let fixture = Fixture::new(GarbageCollector::default())
        .with_answer("/api/v1", Ok(pods))
        .with_answer("/apis", Ok(group))
        .with_answer("/apis/down.io/v1", Err(api::Status::service_unavailable("down")));
    let plan = fixture.plan("", DISCOVERY, at(100));
    assert_eq!((plan.retry, plan.requeue_at), (false, Some(at(130))), "the group is tried again");
    let collector = fixture.controller();
    assert_eq!(collector.monitors.lock().len(), 1, "pods are watched");
    add(&mut collector.graph.lock(), object("child", json!([owner("owner", true)]), json!({})));
    // The server never lists the pods: for a while the list may come yet.
    for now in [100, 105, 129] {
        let plan = fixture.plan("", "child", at(now));
        assert!(
            plan.questions.is_empty()
                && plan.requeue_at.is_some_and(|later| later > at(now) && later <= at(130))
        );
    }
    assert_eq!(fixture.plan("", "child", at(130)).questions, ["/api/v1/namespaces/a/pods/owner"]);
}

#[test]
fn an_owner_that_the_server_knows_and_no_cache_has_shown_is_asked_for_again() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let path = "/api/v1/namespaces/a/pods/owner";
    let pods = json!({"groupVersion": "v1", "resources": [
        {"name": "pods", "kind": "Pod", "namespaced": true, "verbs": ["delete", "list", "watch"]},
    ]});
    let fixture = Fixture::new(GarbageCollector::default())
        .with_answer("/api/v1", Ok(pods))
        .with_answer("/apis", Ok(json!({"groups": []})))
        .with_answer(path, Ok(json!({"metadata": {"uid": "owner"}})));
    fixture.plan("", DISCOVERY, at(100));
    let graph = fixture.controller().graph.clone();
    add(&mut graph.lock(), object("child", json!([owner("owner", true)]), json!({})));
    // It may go before the list of its kind comes, and nothing would tell of it.
    // A kind that cannot be listed is asked for ever more seldom.
    for (now, pause) in [(130, 15), (300, 100), (2_100, 1000), (90_000, 1000)] {
        let later = fixture.plan("", "child", at(now)).requeue_at;
        assert_eq!(later, Some(at(now + pause)), "at {now}");
    }
    for now in [90, 100, 109, 111] {
        assert_eq!(ask_again(at(100), at(now)), at(now + 5));
    }
    add(&mut graph.lock(), object("owner", json!([]), json!({})));
    assert_eq!(fixture.plan("", "child", at(90_000)).requeue_at, None, "its cache tells from now on");
}

#[test]
fn a_definition_that_the_server_does_not_serve_yet_is_asked_for_again() {
    let at = |millis| Timestamp::from_millisecond(millis).unwrap();
    let definition = |name: &str, more: Value| {
        let mut metadata = json!({"name": name, "uid": name, "creationTimestamp": "1970-01-01T00:01:40Z"});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({"kind": "CustomResourceDefinition", "metadata": metadata});
        Arc::new(serde_json::from_value::<PartialMetadata>(object).unwrap())
    };
    let mut answers = Answers::default();
    answers.insert("/api/v1", Ok(json!({"groupVersion": "v1", "resources": []})));
    answers.insert("/apis", Ok(json!({"groups": [{"preferredVersion": {"groupVersion": "z.io/v1"}}]})));
    let cranes =
        json!({"name": "cranes", "kind": "Crane", "namespaced": true, "verbs": ["list", "watch", "delete"]});
    answers.insert("/apis/z.io/v1", Ok(json!({"groupVersion": "z.io/v1", "resources": [cranes]})));
    let found = crate::discovery::preferred(&answers).unwrap();

    let served = definition("cranes.z.io", json!({}));
    let late = definition("hooks.z.io", json!({}));
    let going = definition("ropes.z.io", json!({"deletionTimestamp": DELETED}));
    assert_eq!(catch_up(&[served.clone(), going], &found, at(100_000)), None);
    for (now, later) in [(100_000, 100_100), (102_000, 103_100), (1_000_000, 1_030_000)] {
        assert_eq!(catch_up(&[served.clone(), late.clone()], &found, at(now)), Some(at(later)));
    }
}

#[test]
fn a_kind_is_watched_in_its_next_version_also_while_another_group_is_broken() {
    let version = |group_version: &str| {
        let verbs = json!(["delete", "list", "watch"]);
        json!({"groupVersion": group_version, "resources": [
            {"name": "cranes", "kind": "Crane", "namespaced": true, "verbs": verbs},
        ]})
    };
    let groups = |preferred: &str| {
        json!({"groups": [
            {"preferredVersion": {"groupVersion": preferred}},
            {"preferredVersion": {"groupVersion": "down.io/v1"}},
        ]})
    };
    let mut fixture = Fixture::new(GarbageCollector::default())
        .with_answer("/api/v1", Ok(json!({"groupVersion": "v1", "resources": []})))
        .with_answer("/apis/down.io/v1", Err(api::Status::service_unavailable("down")))
        .with_answer("/apis/z.io/v1", Ok(version("z.io/v1")))
        .with_answer("/apis/z.io/v2", Ok(version("z.io/v2")));
    for (preferred, watched) in [("z.io/v1", "v1"), ("z.io/v2", "v2")] {
        fixture = fixture.with_answer("/apis", Ok(groups(preferred)));
        fixture.plan("", DISCOVERY, Timestamp::UNIX_EPOCH);
        let versions: Vec<_> =
            fixture.controller().monitors.lock().keys().map(|endpoint| endpoint.version.clone()).collect();
        assert_eq!(versions, [watched]);
    }
}

#[test]
fn who_is_owned_by_a_kind_that_nobody_serves_is_decided_when_somebody_does() {
    let mut graph = graph();
    let crane = json!({"apiVersion": "z.io/v1", "kind": "Crane", "name": "crane", "uid": "crane"});
    for uid in ["child", "gone"] {
        let child = object(uid, json!([crane]), json!({}));
        assert_eq!(add(&mut graph, child), [uid]);
        let decision = decide(&graph, uid, &Answers::default());
        assert!(lines(&decision).is_empty() && decision.plan.questions.is_empty());
        decision.puzzling.iter().for_each(|owner| graph.puzzle(owner, uid));
    }
    graph.remove("gone");
    let cranes = Endpoint::new("z.io", "v1", "cranes");
    let kind = Kind { endpoint: cranes, kind: "Crane".to_owned(), namespaced: true };
    assert_eq!(graph.learn(&kind), ["child"]);
    assert_eq!(
        decide(&graph, "child", &Answers::default()).plan.questions,
        ["/apis/z.io/v1/namespaces/a/cranes/crane"]
    );
}

#[test]
fn what_a_kind_that_goes_has_owned_is_looked_at() {
    let mut graph = graph();
    let cranes = endpoint("cranes");
    graph.learn(&Kind { endpoint: cranes.clone(), kind: "Crane".to_owned(), namespaced: true });
    graph.apply(&cranes, &Change::Added(object("crane", json!([]), json!({}))));
    assert!(add(&mut graph, object("child", json!([owner("crane", true)]), json!({}))).is_empty());
    assert_eq!(graph.forget_kind(&cranes), ["child"]);
}

#[test]
fn a_deleted_owner_wakes_its_dependents_and_the_next_generation_follows() {
    let mut graph = graph();
    let parent = object("owner", json!([]), json!({}));
    add(&mut graph, parent.clone());
    add(&mut graph, object("child", json!([owner("owner", true)]), json!({})));
    let woken = graph.apply(&endpoint("pods"), &Change::Deleted(parent));
    assert_eq!(woken, ["child"]);
    let answers = missing("/api/v1/namespaces/a/pods/owner");
    assert_eq!(lines(&decide(&graph, "child", &answers)), ["delete pods a/child"]);
}

#[test]
fn one_owner_of_two_is_enough() {
    let mut graph = graph();
    add(&mut graph, object("one", json!([]), json!({})));
    add(&mut graph, object("child", json!([owner("one", true), owner("two", true)]), json!({})));
    let decision = decide(&graph, "child", &missing("/api/v1/namespaces/a/pods/two"));
    assert_eq!(lines(&decision), ["patch pods a/child"]);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch["metadata"]["ownerReferences"], json!([owner("one", true)]));
    assert_eq!(patch["metadata"]["resourceVersion"], "1");
}

#[test]
fn foreground_deletion_waits_for_what_blocks() {
    let mut graph = graph();
    let waiting = json!({"deletionTimestamp": DELETED, "finalizers": ["foregroundDeletion", "mine"]});
    add(&mut graph, object("owner", json!([]), json!({})));
    let child = object("child", json!([owner("owner", true)]), json!({}));
    add(&mut graph, child.clone());
    add(&mut graph, object("free", json!([owner("owner", false)]), json!({})));
    let old = object("owner", json!([]), json!({}));
    let new = object("owner", json!([]), waiting);
    let woken = graph.apply(&endpoint("pods"), &Change::Updated { old, new });
    assert_eq!(woken, ["child", "free", "owner"]);
    // The owner waits, and its dependents go.
    let decision = decide(&graph, "owner", &Answers::default());
    assert!(lines(&decision).is_empty());
    assert_eq!(decision.wake, ["child"]);
    assert_eq!(lines(&decide(&graph, "child", &Answers::default())), ["delete pods a/child"]);
    // The last that blocks is gone: the finalizer goes, others stay.
    assert_eq!(graph.apply(&endpoint("pods"), &Change::Deleted(child)), ["owner"]);
    let path = "/api/v1/namespaces/a/pods/owner";
    assert_eq!(decide(&graph, "owner", &Answers::default()).plan.questions, [path]);
    let mut answers = Answers::default();
    let live = json!({"metadata": {"uid": "owner", "resourceVersion": "7", "finalizers": ["foregroundDeletion", "mine"]}});
    answers.insert(path, Ok(live));
    let decision = decide(&graph, "owner", &answers);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch, json!({"metadata": {"uid": "owner", "resourceVersion": "7", "finalizers": ["mine"]}}));
}

#[test]
fn orphaning_frees_the_dependents_first() {
    let mut graph = graph();
    let orphaning = json!({"deletionTimestamp": DELETED, "finalizers": ["orphan"]});
    add(&mut graph, object("owner", json!([]), orphaning));
    add(&mut graph, object("child", json!([owner("owner", true)]), json!({})));
    let decision = decide(&graph, "owner", &Answers::default());
    assert_eq!(lines(&decision), ["patch pods a/child"]);
    assert!(decision.plan.retry);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch["metadata"]["ownerReferences"], Value::Null);
    let freed = object("child", json!([]), json!({}));
    let old = object("child", json!([owner("owner", true)]), json!({}));
    graph.apply(&endpoint("pods"), &Change::Updated { old, new: freed });
    let decision = decide(&graph, "owner", &Answers::default());
    assert_eq!(decision.plan.questions, ["/api/v1/namespaces/a/pods/owner"]);
}

#[test]
fn the_graph_forgets_what_is_gone() {
    let mut graph = graph();
    let child = object("child", json!([owner("owner", true)]), json!({}));
    add(&mut graph, child.clone());
    assert_eq!(graph.nodes.len(), 2, "the owner is a virtual node");
    graph.apply(&endpoint("pods"), &Change::Deleted(child));
    assert!(graph.nodes.is_empty());
}

#[test]
fn who_closes_a_circle_blocks_nobody() {
    let mut graph = graph();
    let going = json!({"deletionTimestamp": DELETED, "finalizers": ["foregroundDeletion"]});
    add(&mut graph, object("a", json!([owner("c", true)]), going.clone()));
    add(&mut graph, object("b", json!([owner("a", true)]), going));
    add(&mut graph, object("c", json!([owner("b", true)]), json!({})));
    let decision = decide(&graph, "c", &Answers::default());
    assert_eq!(lines(&decision), ["patch pods a/c"]);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch["metadata"]["ownerReferences"], json!([owner("b", false)]));
    add(&mut graph, object("c", json!([owner("b", false)]), json!({})));
    assert_eq!(lines(&decide(&graph, "c", &Answers::default())), ["delete pods a/c"]);
}
