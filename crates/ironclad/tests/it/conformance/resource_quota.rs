//! test/e2e/apimachinery/resource_quota.go: what a quota counts, and what it refuses.

use serde_json::{Value, json};

use super::{World, propagation};

const CORE: &str = "/api/v1/namespaces/e2e";

fn quota(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec})
}

/// The quota that upstream's tests start from.
fn hard() -> Value {
    json!({
        "pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1",
        "replicationcontrollers": "10", "resourcequotas": "1", "cpu": "1", "memory": "500Mi", "configmaps": "10",
        "secrets": "10", "persistentvolumeclaims": "10", "requests.storage": "10Gi", "ephemeral-storage": "50Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10",
        "gold.storageclass.storage.k8s.io/requests.storage": "10Gi",
        "requests.example.com/dongle": "3",
    })
}

fn pod(name: &str, requests: Value, limits: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "pause", "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": requests, "limits": limits},
        }]},
    })
}

impl World {
    fn quota(&self, name: &str, spec: Value) {
        self.create(&format!("{CORE}/resourcequotas"), &quota(name, spec));
    }

    /// Waits until a quota says that so much is used.
    fn until_used(&self, name: &str, used: Value) {
        let used = used.as_object().unwrap().clone();
        self.until(&format!("{CORE}/resourcequotas/{name}"), |answer| {
            let status = &answer.body["status"];
            status["hard"] == answer.body["spec"]["hard"]
                && used.iter().all(|(resource, amount)| &status["used"][resource] == amount)
        });
    }

    /// Creates what the quota has no room for.
    #[track_caller]
    fn exceeds(&self, resource: &str, body: &Value) {
        let answer = self.post(&format!("{CORE}/{resource}"), body);
        assert_eq!(answer.code, 403, "{}", answer.body);
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains("exceeded quota: test-quota, requested: "), "{message}");
    }

    fn delete_now(&self, path: &str) {
        let mut options = propagation("Background");
        options["gracePeriodSeconds"] = 0.into();
        self.delete(path, options);
    }
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated. [Conformance]
#[test]
fn should_create_a_resource_quota_and_ensure_its_status_is_promptly_calculated() {
    let world = World::hollow(1);
    world.quota("test-quota", json!({"hard": hard()}));
    world.until_used("test-quota", json!({"resourcequotas": "1"}));
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a service. [Conformance]
#[test]
fn should_capture_the_life_of_a_service() {
    let world = World::hollow(1);
    world.quota("test-quota", json!({"hard": hard()}));
    world.until_used("test-quota", json!({"resourcequotas": "1"}));
    let service = |name: &str, kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}]},
        })
    };
    let path = format!("{CORE}/services");
    world.create(&path, &service("test-service", "ClusterIP"));
    world.create(&path, &service("test-service-np", "NodePort"));
    world.exceeds("services", &service("test-service-lb", "LoadBalancer"));
    world
        .until_used("test-quota", json!({"resourcequotas": "1", "services": "2", "services.nodeports": "1"}));
    for name in ["test-service", "test-service-np"] {
        world.delete(&format!("{path}/{name}"), propagation("Background"));
    }
    world.until_used("test-quota", json!({"services": "0", "services.nodeports": "0"}));
}

/// Creates an object of a core resource of which there are so many, and deletes it again; the quota has room for it
/// alone.
fn lives(world: &World, resource: &str, existing: usize, body: Value) {
    let (before, full) = (existing.to_string(), (existing + 1).to_string());
    let mut hard = hard();
    hard[resource] = full.clone().into();
    world.quota("test-quota", json!({"hard": hard}));
    world.until_used("test-quota", json!({"resourcequotas": "1", resource: before}));
    let path = format!("{CORE}/{resource}");
    let made = world.create(&path, &body);
    world.until_used("test-quota", json!({"resourcequotas": "1", resource: full}));
    let mut another = body;
    another["metadata"]["name"] = "one-too-many".into();
    world.exceeds(resource, &another);
    world
        .delete(&format!("{path}/{}", made["metadata"]["name"].as_str().unwrap()), propagation("Background"));
    world.until_used("test-quota", json!({resource: before}));
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a secret. [Conformance]
#[test]
fn should_capture_the_life_of_a_secret() {
    let world = World::hollow(1);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "test-secret"},
        "data": {"data-1": "dmFsdWUtMQo="},
    });
    lives(&world, "secrets", 0, secret);
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a configMap. [Conformance]
#[test]
fn should_capture_the_life_of_a_config_map() {
    let world = World::hollow(1);
    // The certificate that every namespace has.
    world.until(&format!("{CORE}/configmaps/kube-root-ca.crt"), |answer| answer.code == 200);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "test-configmap"}, "data": {"a": "b"},
    });
    lives(&world, "configmaps", 1, map);
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replication controller. [Conformance]
#[test]
fn should_capture_the_life_of_a_replication_controller() {
    let world = World::hollow(1);
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "test-rc"},
        "spec": {
            "replicas": 0, "selector": {"name": "test-rc"},
            "template": {
                "metadata": {"labels": {"name": "test-rc"}},
                "spec": {"containers": [{"name": "test-rc", "image": "none"}]},
            },
        },
    });
    lives(&world, "replicationcontrollers", 0, controller);
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replica set. [Conformance]
#[test]
fn should_capture_the_life_of_a_replica_set() {
    let world = World::hollow(1);
    let mut hard = hard();
    hard["count/replicasets.apps"] = "1".into();
    world.quota("test-quota", json!({"hard": hard}));
    world.until_used("test-quota", json!({"resourcequotas": "1", "count/replicasets.apps": "0"}));
    let path = "/apis/apps/v1/namespaces/e2e/replicasets";
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "test-rs"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"name": "test-rs"}},
            "template": {
                "metadata": {"labels": {"name": "test-rs"}},
                "spec": {"containers": [{"name": "test-rs", "image": "none"}]},
            },
        },
    });
    world.create(path, &set);
    world.until_used("test-quota", json!({"count/replicasets.apps": "1"}));
    world.delete(&format!("{path}/test-rs"), propagation("Background"));
    world.until_used("test-quota", json!({"count/replicasets.apps": "0"}));
}

/// Conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a pod. [Conformance]
#[test]
fn should_capture_the_life_of_a_pod() {
    let world = World::hollow(1);
    let path = format!("{CORE}/pods");
    world.quota("test-quota", json!({"hard": hard()}));
    world.until_used("test-quota", json!({"resourcequotas": "1"}));
    let requests = json!({
        "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2",
    });
    let mut made = world.create(&path, &pod("test-pod", requests, json!({"example.com/dongle": "2"})));
    let used = json!({
        "resourcequotas": "1", "pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
        "requests.example.com/dongle": "2",
    });
    world.until_used("test-quota", used.clone());
    world.exceeds("pods", &pod("fail-pod", json!({"cpu": "600m", "memory": "100Mi"}), json!({})));
    let requests =
        json!({"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"});
    let extended = pod("fail-pod-for-extended-resource", requests, json!({"example.com/dongle": "2"}));
    world.exceeds("pods", &extended);

    // Updated anew where the status was written in between.
    let refused = loop {
        made["spec"]["containers"][0]["resources"]["requests"] =
            json!({"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "10Gi"});
        let answer = world.put(&format!("{path}/test-pod"), &made);
        if answer.code != 409 {
            break answer;
        }
        made = world.read(&format!("{path}/test-pod"));
    };
    assert_eq!(refused.code, 422, "{}", refused.body);
    world.until_used("test-quota", used);
    world.delete_now(&format!("{path}/test-pod"));
    world.until_used(
        "test-quota",
        json!({
            "resourcequotas": "1", "pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0",
            "requests.example.com/dongle": "0",
        }),
    );
}

/// Conformance: [sig-api-machinery] ResourceQuota should verify ResourceQuota with terminating scopes. [Conformance]
#[test]
fn should_verify_resource_quota_with_terminating_scopes() {
    let world = World::hollow(1);
    for (name, scope) in [("quota-terminating", "Terminating"), ("quota-not-terminating", "NotTerminating")] {
        let hard = json!({
            "pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2", "limits.memory": "1Gi",
        });
        world.quota(name, json!({"hard": hard, "scopes": [scope]}));
        world.until_used(name, json!({"pods": "0"}));
    }
    let none = json!({
        "pods": "0", "requests.cpu": "0", "requests.memory": "0", "limits.cpu": "0", "limits.memory": "0",
    });
    let one = json!({
        "pods": "1", "requests.cpu": "500m", "requests.memory": "200Mi", "limits.cpu": "1",
        "limits.memory": "400Mi",
    });
    for (name, deadline, counts, ignores) in [
        ("test-pod", None, "quota-not-terminating", "quota-terminating"),
        ("terminating-pod", Some(3600), "quota-terminating", "quota-not-terminating"),
    ] {
        let (requests, limits) =
            (json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "1", "memory": "400Mi"}));
        let mut body = pod(name, requests, limits);
        if let Some(deadline) = deadline {
            body["spec"]["activeDeadlineSeconds"] = deadline.into();
        }
        world.create(&format!("{CORE}/pods"), &body);
        world.until_used(counts, one.clone());
        world.until_used(ignores, none.clone());
        world.delete_now(&format!("{CORE}/pods/{name}"));
        world.until_used(counts, none.clone());
    }
}

/// Conformance: [sig-api-machinery] ResourceQuota should verify ResourceQuota with best effort scope. [Conformance]
#[test]
fn should_verify_resource_quota_with_best_effort_scope() {
    let world = World::hollow(1);
    for (name, scope) in [("quota-besteffort", "BestEffort"), ("quota-not-besteffort", "NotBestEffort")] {
        world.quota(name, json!({"hard": {"pods": "5"}, "scopes": [scope]}));
        world.until_used(name, json!({"pods": "0"}));
    }
    let (requests, limits) =
        (json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "1", "memory": "400Mi"}));
    for (body, counts, ignores) in [
        (pod("pod", json!({}), json!({})), "quota-besteffort", "quota-not-besteffort"),
        (pod("pod", requests, limits), "quota-not-besteffort", "quota-besteffort"),
    ] {
        world.create(&format!("{CORE}/pods"), &body);
        world.until_used(counts, json!({"pods": "1"}));
        world.until_used(ignores, json!({"pods": "0"}));
        world.delete_now(&format!("{CORE}/pods/pod"));
        world.until_used(counts, json!({"pods": "0"}));
    }
}

/// Conformance: [sig-api-machinery] ResourceQuota should apply changes to a resourcequota status [Conformance]
#[test]
fn should_apply_changes_to_a_resource_quota_status() {
    let world = World::hollow(1);
    let one = format!("{CORE}/resourcequotas/e2e-rq-status");
    let status = format!("{one}/status");
    let settled = |hard: &Value| world.until(&status, |answer| &answer.body["status"]["hard"] == hard);
    let first = json!({"cpu": "500m", "memory": "500Mi"});
    world.quota("e2e-rq-status", json!({"hard": first}));
    let mut read = settled(&first);

    let updated = json!({"cpu": "2", "memory": "2Gi"});
    let answer = loop {
        read["status"]["hard"] = updated.clone();
        let answer = world.put(&status, &read);
        if answer.code != 409 {
            break answer;
        }
        read = world.read(&status);
    };
    assert_eq!((answer.code, &answer.body["status"]["hard"]), (200, &updated), "{}", answer.body);
    assert_eq!(answer.body["spec"]["hard"], first, "the spec is not changed by it");
    settled(&first);

    let second = json!({"cpu": "1", "memory": "1Gi"});
    let patched = world.patch(&one, &json!({"spec": {"hard": second}}));
    assert_eq!(patched["spec"]["hard"], second);
    settled(&second);
    for hard in [json!({"cpu": "3", "memory": "3Gi"}), json!({"cpu": "4", "memory": "4Gi"})] {
        let patched = world.patch(&status, &json!({"status": {"hard": hard}}));
        assert_eq!(patched["status"]["hard"], hard);
        assert_eq!(patched["spec"]["hard"], second, "the spec is not changed by it");
        settled(&second);
    }
}
