//! test/e2e/apimachinery/namespace.go: what is deleted with a namespace, and in which order.

use serde_json::{Value, json};

use super::{World, propagation};

const NAMESPACE: &str = "/api/v1/namespaces/doomed";

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test-pod"},
        "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10"}]},
    })
}

/// Conformance: [sig-api-machinery] Namespaces [Serial] should ensure that all pods are removed when a namespace is deleted [Conformance]
#[test]
fn should_ensure_that_all_pods_are_removed_when_a_namespace_is_deleted() {
    let world = World::hollow(1);
    world.namespace("doomed");
    let path = format!("{NAMESPACE}/pods");
    world.create(&path, &pod());
    let one = format!("{path}/test-pod");
    world.until(&one, |answer| answer.body["status"]["phase"] == "Running");
    world.delete(NAMESPACE, propagation("Background"));
    world.until_gone(NAMESPACE);
    world.namespace("doomed");
    assert_eq!(world.get(&one).code, 404);
}

/// Conformance: [sig-api-machinery] Namespaces [Serial] should ensure that all services are removed when a namespace is deleted [Conformance]
#[test]
fn should_ensure_that_all_services_are_removed_when_a_namespace_is_deleted() {
    let world = World::hollow(1);
    world.namespace("doomed");
    let path = format!("{NAMESPACE}/services");
    let body = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "test-service"},
        "spec": {"selector": {"foo": "bar", "baz": "blah"}, "ports": [{"port": 80, "targetPort": 80}]},
    });
    world.create(&path, &body);
    world.delete(NAMESPACE, propagation("Background"));
    world.until_gone(NAMESPACE);
    world.namespace("doomed");
    assert_eq!(world.get(&format!("{path}/test-service")).code, 404);
}

/// Conformance: [sig-api-machinery] OrderedNamespaceDeletion namespace deletion should delete pod first [Conformance]
#[test]
fn namespace_deletion_should_delete_pod_first() {
    let world = World::hollow(1);
    world.namespace("doomed");
    let mut body = pod();
    body["metadata"]["finalizers"] = json!(["e2e.example.com/finalizer"]);
    world.create(&format!("{NAMESPACE}/pods"), &body);
    let one = format!("{NAMESPACE}/pods/test-pod");
    world.until(&one, |answer| answer.body["status"]["phase"] == "Running");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "test-configmap"}});
    world.create(&format!("{NAMESPACE}/configmaps"), &map);

    world.delete(NAMESPACE, propagation("Background"));
    world.until(&one, |answer| !answer.body["metadata"]["deletionTimestamp"].is_null());
    // The controller has been round at least once, and says what is left.
    let left = world.until(NAMESPACE, |answer| {
        let conditions = answer.body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    });
    assert_eq!(left["status"]["phase"], "Terminating");
    let conditions = left["status"]["conditions"].as_array().unwrap();
    let failure =
        conditions.iter().find(|c| c["type"] == "NamespaceDeletionContentFailure").expect("it is told");
    assert_eq!(failure["status"], "False", "waiting is no failure: {failure}");
    let map = world.read(&format!("{NAMESPACE}/configmaps/test-configmap"));
    assert!(map["metadata"]["deletionTimestamp"].is_null(), "pods go first: {map}");
    assert_eq!(world.get(&one).code, 200, "the finalizer holds the pod");

    world.patch(&one, &json!({"metadata": {"finalizers": null}}));
    world.until_gone(NAMESPACE);
}
