//! test/e2e/apimachinery/garbage_collector.go: what becomes of the dependents of what is deleted.

use serde_json::{Value, json};

use super::{World, items, propagation};

const CONTROLLERS: &str = "/api/v1/namespaces/e2e/replicationcontrollers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/e2e/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/e2e/replicasets";
const PODS: &str = "/api/v1/namespaces/e2e/pods";

fn template(label: &str) -> Value {
    json!({
        "metadata": {"labels": {"gc": label}},
        "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10"}]},
    })
}

impl World {
    /// A ReplicationController of this name, once all its pods are there; its path.
    fn controller(&self, name: &str, replicas: usize) -> String {
        let body = json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"gc": name}, "template": template(name)},
        });
        self.create(CONTROLLERS, &body);
        let path = format!("{CONTROLLERS}/{name}");
        self.until(&path, |rc| rc.body["status"]["replicas"] == replicas);
        path
    }

    /// A Deployment of two, once its ReplicaSet has made them; its path.
    fn deployment(&self) -> String {
        let body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"gc": "d"}}, "template": template("d")},
        });
        self.create(DEPLOYMENTS, &body);
        self.until(REPLICA_SETS, |sets| {
            items(&sets.body).len() == 1 && items(&sets.body)[0]["status"]["replicas"] == 2
        });
        format!("{DEPLOYMENTS}/d")
    }

    fn until_no(&self, collection: &str) {
        self.until(collection, |answer| answer.code == 200 && items(&answer.body).is_empty());
    }

    /// Waits until the garbage collector has dealt with what came later than all before: whoever it would delete by
    /// mistake had its chance.
    fn garbage_collected(&self) {
        let path = self.controller("later", 1);
        self.delete(&path, propagation("Background"));
        self.until_no(&format!("{PODS}?labelSelector=gc%3Dlater"));
    }
}

fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Conformance: [sig-api-machinery] Garbage collector should delete pods created by rc when not orphaning [Conformance]
#[test]
fn should_delete_pods_created_by_rc_when_not_orphaning() {
    let world = World::hollow(1);
    let path = world.controller("rc", 2);
    world.delete(&path, propagation("Background"));
    world.until_gone(&path);
    world.until_no(PODS);
}

/// Conformance: [sig-api-machinery] Garbage collector should orphan pods created by rc if delete options say so [Serial] [Conformance]
#[test]
fn should_orphan_pods_created_by_rc_if_delete_options_say_so() {
    let world = World::hollow(1);
    let path = world.controller("rc", 40);
    world.delete(&path, propagation("Orphan"));
    world.until_gone(&path);
    world.garbage_collected();
    let pods = world.read(PODS);
    assert_eq!(items(&pods).len(), 40);
    for pod in items(&pods) {
        assert!(pod["metadata"]["deletionTimestamp"].is_null() && owners(pod).is_empty(), "{pod}");
    }
}

/// Conformance: [sig-api-machinery] Garbage collector should delete RS created by deployment when not orphaning [Conformance]
#[test]
fn should_delete_rs_created_by_deployment_when_not_orphaning() {
    let world = World::hollow(1);
    let path = world.deployment();
    world.delete(&path, propagation("Background"));
    world.until_gone(&path);
    world.until_no(REPLICA_SETS);
    world.until_no(PODS);
}

/// Conformance: [sig-api-machinery] Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan [Conformance]
#[test]
fn should_orphan_rs_created_by_deployment_when_propagation_policy_is_orphan() {
    let world = World::hollow(1);
    let path = world.deployment();
    world.delete(&path, propagation("Orphan"));
    world.until_gone(&path);
    world.garbage_collected();
    let sets = world.read(REPLICA_SETS);
    let [set] = items(&sets) else { panic!("one ReplicaSet, not {sets}") };
    assert!(set["metadata"]["deletionTimestamp"].is_null() && owners(set).is_empty(), "{set}");
    let pods = world.read(PODS);
    assert_eq!(items(&pods).len(), 2);
    for pod in items(&pods) {
        assert_eq!(owners(pod)[0]["uid"], set["metadata"]["uid"], "its pods stay its own");
    }
}

/// Conformance: [sig-api-machinery] Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so [Serial] [Conformance]
#[test]
fn should_keep_the_rc_around_until_all_its_pods_are_deleted() {
    let world = World::hollow(1);
    let path = world.controller("rc", 20);
    let uid = world.read(&path)["metadata"]["uid"].clone();
    let mut options = propagation("Foreground");
    options["preconditions"] = json!({"uid": uid});
    world.delete(&path, options);
    world.until(&path, |answer| {
        if answer.code == 404 {
            return true;
        }
        let metadata = &answer.body["metadata"];
        assert_eq!(metadata["finalizers"], json!(["foregroundDeletion"]), "{metadata}");
        assert!(!metadata["deletionTimestamp"].is_null(), "{metadata}");
        false
    });
    let pods = world.read(PODS);
    assert!(items(&pods).is_empty(), "the pods went first: {pods}");
}

/// Conformance: [sig-api-machinery] Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted [Serial] [Conformance]
#[test]
fn should_not_delete_dependents_that_have_both_valid_and_waiting_owner() {
    const REPLICAS: usize = 20;
    let world = World::hollow(1);
    let going = world.controller("to-be-deleted", REPLICAS);
    let staying = world.controller("to-stay", 0);
    let staying = world.read(&staying)["metadata"]["uid"].clone();
    let pods = world.read(PODS);
    assert_eq!(items(&pods).len(), REPLICAS);
    for pod in &items(&pods)[..REPLICAS / 2] {
        let patch = json!({"metadata": {"ownerReferences": [owners(pod)[0], {
            "apiVersion": "v1", "kind": "ReplicationController", "name": "to-stay", "uid": staying,
        }]}});
        world.patch(&format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap()), &patch);
    }
    world.delete(&going, propagation("Foreground"));
    world.until_gone(&going);
    world.garbage_collected();
    let pods = world.read(PODS);
    assert_eq!(items(&pods).len(), REPLICAS / 2);
    for pod in items(&pods) {
        assert!(pod["metadata"]["deletionTimestamp"].is_null(), "{pod}");
        let [owner] = owners(pod) else { panic!("one owner: {pod}") };
        assert_eq!((&owner["name"], &owner["uid"]), (&"to-stay".into(), &staying));
    }
}

/// Conformance: [sig-api-machinery] Garbage collector should not be blocked by dependency circle [Conformance]
#[test]
fn should_not_be_blocked_by_dependency_circle() {
    let world = World::hollow(1);
    let uids: Vec<Value> = ["pod1", "pod2", "pod3"]
        .into_iter()
        .map(|name| {
            let mut body = template("circle");
            (body["apiVersion"], body["kind"]) = ("v1".into(), "Pod".into());
            body["metadata"]["name"] = name.into();
            world.create(PODS, &body)["metadata"]["uid"].clone()
        })
        .collect();
    for (dependent, owner) in [("pod1", 3), ("pod2", 1), ("pod3", 2)] {
        let patch = json!({"metadata": {"ownerReferences": [{
            "apiVersion": "v1", "kind": "Pod", "name": format!("pod{owner}"), "uid": uids[owner - 1],
            "controller": true, "blockOwnerDeletion": true,
        }]}});
        world.patch(&format!("{PODS}/{dependent}"), &patch);
    }
    world.delete(&format!("{PODS}/pod1"), propagation("Foreground"));
    world.until_no(PODS);
}
