//! Tables of the collector: a graph of objects, a UID, and what is to be done.

use std::sync::Arc;

use client::{Change, Endpoint, PartialMetadata};
use reconcile::Answers;
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::discovery::Kind;
use super::graph::Graph;

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
    let decision = decide(&mut graph, "child", &Answers::default());
    assert!(lines(&decision).is_empty() && decision.plan.questions.is_empty());
}

#[test]
fn an_owner_that_was_not_seen_is_asked_for_before_anything_is_deleted() {
    let mut graph = graph();
    assert_eq!(add(&mut graph, object("child", json!([owner("owner", true)]), json!({}))), ["child"]);
    let path = "/api/v1/namespaces/a/pods/owner";
    assert_eq!(decide(&mut graph, "child", &Answers::default()).plan.questions, [path]);
    assert_eq!(lines(&decide(&mut graph, "child", &missing(path))), ["delete pods a/child"]);
    let mut other = Answers::default();
    other.insert(path, Ok(json!({"metadata": {"uid": "another"}})));
    assert_eq!(lines(&decide(&mut graph, "child", &other)), ["delete pods a/child"]);
    let mut same = Answers::default();
    same.insert(path, Ok(json!({"metadata": {"uid": "owner"}})));
    assert!(lines(&decide(&mut graph, "child", &same)).is_empty());
    let mut forbidden = Answers::default();
    forbidden.insert(path, Err(api::Status::forbidden(&api::GroupResource::new("", "pods"), "owner", "no")));
    assert!(lines(&decide(&mut graph, "child", &forbidden)).is_empty(), "not knowing is no reason to delete");
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
    assert_eq!(lines(&decide(&mut graph, "child", &answers)), ["delete pods a/child"]);
}

#[test]
fn one_owner_of_two_is_enough() {
    let mut graph = graph();
    add(&mut graph, object("one", json!([]), json!({})));
    add(&mut graph, object("child", json!([owner("one", true), owner("two", true)]), json!({})));
    let decision = decide(&mut graph, "child", &missing("/api/v1/namespaces/a/pods/two"));
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
    let decision = decide(&mut graph, "owner", &Answers::default());
    assert!(lines(&decision).is_empty());
    assert_eq!(decision.wake, ["child"]);
    assert_eq!(lines(&decide(&mut graph, "child", &Answers::default())), ["delete pods a/child"]);
    // The last that blocks is gone: the finalizer goes, others stay.
    assert_eq!(graph.apply(&endpoint("pods"), &Change::Deleted(child)), ["owner"]);
    let path = "/api/v1/namespaces/a/pods/owner";
    assert_eq!(decide(&mut graph, "owner", &Answers::default()).plan.questions, [path]);
    let mut answers = Answers::default();
    let live = json!({"metadata": {"uid": "owner", "resourceVersion": "7", "finalizers": ["foregroundDeletion", "mine"]}});
    answers.insert(path, Ok(live));
    let decision = decide(&mut graph, "owner", &answers);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch, json!({"metadata": {"uid": "owner", "resourceVersion": "7", "finalizers": ["mine"]}}));
}

#[test]
fn orphaning_frees_the_dependents_first() {
    let mut graph = graph();
    let orphaning = json!({"deletionTimestamp": DELETED, "finalizers": ["orphan"]});
    add(&mut graph, object("owner", json!([]), orphaning));
    add(&mut graph, object("child", json!([owner("owner", true)]), json!({})));
    let decision = decide(&mut graph, "owner", &Answers::default());
    assert_eq!(lines(&decision), ["patch pods a/child"]);
    assert!(decision.plan.retry);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch["metadata"]["ownerReferences"], Value::Null);
    let freed = object("child", json!([]), json!({}));
    let old = object("child", json!([owner("owner", true)]), json!({}));
    graph.apply(&endpoint("pods"), &Change::Updated { old, new: freed });
    let decision = decide(&mut graph, "owner", &Answers::default());
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
    let decision = decide(&mut graph, "c", &Answers::default());
    assert_eq!(lines(&decision), ["patch pods a/c"]);
    let patch = decision.plan.actions().next().unwrap().patch_body().unwrap().clone();
    assert_eq!(patch["metadata"]["ownerReferences"], json!([owner("b", false)]));
    add(&mut graph, object("c", json!([owner("b", false)]), json!({})));
    assert_eq!(lines(&decide(&mut graph, "c", &Answers::default())), ["delete pods a/c"]);
}
