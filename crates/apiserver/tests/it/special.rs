//! Resources that need the cluster's state: bindings, evictions, addresses, namespaces, tokens, reviews.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::world::{World, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn binding(node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": node}})
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(PODS, &pod("p")).await.is(201);
    let bound = admin.post(&format!("{PODS}/p/binding"), &binding("n1")).await.is(201);
    assert_eq!(bound.text("/status"), "Success");
    let read = admin.get(&format!("{PODS}/p")).await.is(200);
    assert_eq!(read.text("/spec/nodeName"), "n1");
    assert_eq!(read.text("/status/conditions/0/type"), "PodScheduled");
    let again = admin.post(&format!("{PODS}/p/binding"), &binding("n2")).await.is(409);
    assert_eq!(
        again.message(),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    admin.post(&format!("{PODS}/absent/binding"), &binding("n1")).await.is(404);
    let nowhere = json!({"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node"}});
    admin.post(PODS, &pod("q")).await.is(201);
    admin.post(&format!("{PODS}/q/binding"), &nowhere).await.is(422);
    let mut old = binding("n1");
    old["metadata"] = json!({"name": "q"});
    admin.post("/api/v1/namespaces/default/bindings", &old).await.is(201);
    assert_eq!(admin.get(&format!("{PODS}/q")).await.is(200).text("/spec/nodeName"), "n1");
}

#[tokio::test]
async fn a_budget_limits_evictions() {
    let world = World::new().await;
    let admin = &world.admin;
    for name in ["a", "b"] {
        let mut body = pod(name);
        body["metadata"]["labels"] = json!({"app": "x"});
        admin.post(PODS, &body).await.is(201);
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        admin.patch(&format!("{PODS}/{name}/status"), "merge-patch+json", &status).await.is(200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    });
    let made = admin.post(budgets, &budget).await.is(201);
    let eviction =
        |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let early = admin.post(&format!("{PODS}/a/eviction"), &eviction("a")).await.is(429);
    assert_eq!(
        early.text("/details/causes/0/message"),
        "The disruption budget b is still being processed by the server."
    );
    assert_eq!(early.headers["retry-after"], "10");
    let mut observed = made.body.clone();
    observed["status"] = json!({
        "observedGeneration": made.at("/metadata/generation"), "disruptionsAllowed": 1,
        "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    });
    admin.put(&format!("{budgets}/b/status"), &observed).await.is(200);
    admin.post(&format!("{PODS}/a/eviction"), &eviction("a")).await.is(201);
    admin.get(&format!("{PODS}/a")).await.is(404);
    let refused = admin.post(&format!("{PODS}/b/eviction"), &eviction("b")).await.is(429);
    assert_eq!(refused.message(), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(admin.get(&format!("{budgets}/b")).await.is(200).at("/status/disruptionsAllowed"), 0);
}

#[tokio::test]
async fn an_evicted_pod_says_so_and_only_the_pod_that_was_looked_at_goes() {
    let world = World::new().await;
    let admin = &world.admin;
    let eviction = |name: &str, options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
    // Finalizers keep the pods to be looked at.
    let made = async |name: &str, phase: &str| {
        let mut body = pod(name);
        body["metadata"]["finalizers"] = json!(["example.com/keep"]);
        admin.post(PODS, &body).await.is(201);
        let status = json!({"status": {"phase": phase}});
        admin.patch(&format!("{PODS}/{name}/status"), "merge-patch+json", &status).await.is(200)
    };
    for (name, phase) in [("running", "Running"), ("pending", "Pending"), ("ended", "Succeeded")] {
        let path = format!("{PODS}/{name}");
        let pod = made(name, phase).await;
        let dry = eviction(name, json!({"dryRun": ["All"]}));
        admin.post(&format!("{path}/eviction"), &dry).await.is(201);
        assert!(admin.get(&path).await.is(200).at("/status/conditions/0/reason").is_null(), "{name}");
        for stale in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
            let stale = eviction(name, json!({"preconditions": stale}));
            admin.post(&format!("{path}/eviction"), &stale).await.is(409);
        }
        // A state that is named is the one before the condition.
        let exact = json!({"preconditions": {"resourceVersion": pod.at("/metadata/resourceVersion")}});
        admin.post(&format!("{path}/eviction"), &eviction(name, exact)).await.is(201);
        let now = admin.get(&path).await.is(200);
        assert!(!now.at("/metadata/deletionTimestamp").is_null(), "{name}");
        let condition = now.at("/status/conditions").as_array().unwrap();
        let condition = condition.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
        assert_eq!(
            (&condition["status"], &condition["reason"], &condition["message"]),
            (&json!("True"), &json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting")),
            "{name}"
        );
    }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let world = World::new().await;
    let admin = &world.admin;
    let ports = json!([{"port": 80}]);
    let made = admin.post(SERVICES, &service("a", json!({"ports": ports}))).await.is(201);
    let address = made.text("/spec/clusterIP").to_owned();
    assert!(address.starts_with("10.43."), "{address}");
    assert_eq!(made.at("/spec/clusterIPs/0"), address.as_str());
    assert_eq!(made.text("/spec/ipFamilyPolicy"), "SingleStack");
    let same = service("b", json!({"clusterIP": address, "ports": ports}));
    let refused = admin.post(SERVICES, &same).await.is(422);
    assert!(refused.message().contains("provided IP is already allocated"), "{}", refused.message());
    let kubernetes = service("c", json!({"clusterIP": "10.43.0.1", "ports": ports}));
    admin.post(SERVICES, &kubernetes).await.is(422);
    admin.delete(&format!("{SERVICES}/a"), None).await.is(200);
    admin.post(SERVICES, &same).await.is(201);

    let typed = json!({"spec": {"type": "NodePort"}});
    let patched = admin.patch(&format!("{SERVICES}/b"), "merge-patch+json", &typed).await.is(200);
    let node_port = patched.at("/spec/ports/0/nodePort").as_u64().unwrap();
    assert!((30_000..=32_767).contains(&node_port));
    let taken = service("d", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}));
    admin.post(SERVICES, &taken).await.is(422);
    let back = json!({"spec": {"type": "ClusterIP"}});
    let back = admin.patch(&format!("{SERVICES}/b"), "merge-patch+json", &back).await.is(200);
    assert!(back.at("/spec/ports/0/nodePort").is_null());
    assert_eq!(back.text("/spec/clusterIP"), address);
    admin.post(SERVICES, &taken).await.is(201);
    let headless =
        admin.post(SERVICES, &service("h", json!({"clusterIP": "None", "ports": ports}))).await.is(201);
    assert_eq!(headless.at("/spec/clusterIPs"), &json!(["None"]));
}

#[tokio::test]
async fn a_namespace_ends_when_its_finalizers_are_gone() {
    let world = World::new().await;
    let admin = &world.admin;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
    let made = admin.post("/api/v1/namespaces", &body).await.is(201);
    assert_eq!(made.text("/status/phase"), "Active");
    assert_eq!(made.text("/metadata/labels/kubernetes.io~1metadata.name"), "x");
    assert_eq!(made.at("/spec/finalizers"), &json!(["kubernetes"]));
    let path = "/api/v1/namespaces/x";
    let deleting = admin.delete(path, None).await.is(200);
    assert_eq!(deleting.text("/status/phase"), "Terminating");
    let refused = admin.post("/api/v1/namespaces/x/configmaps", &crate::world::config_map("a")).await.is(403);
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );
    let mut finalized = deleting.body.clone();
    finalized["spec"]["finalizers"] = json!([]);
    admin.put(&format!("{path}/finalize"), &finalized).await.is(200);
    admin.get(path).await.is(404);
    let missing = admin.post("/api/v1/namespaces/x/configmaps", &crate::world::config_map("a")).await.is(404);
    assert_eq!(missing.message(), "namespaces \"x\" not found");
}

#[tokio::test]
async fn reviews_answer_without_storing() {
    let world = World::new().await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = world.admin.post(path, &review).await.is(201);
    assert_eq!(answer.at("/status/allowed"), &Value::Bool(true));
    let bob = world.user("bob", &[]);
    assert_eq!(bob.post(path, &review).await.is(201).at("/status/allowed"), &Value::Bool(false));
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = bob.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &who).await.is(201);
    assert_eq!(answer.text("/status/userInfo/username"), "bob");
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let world = World::new().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let may_write_roles = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "roles"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]}],
    });
    world.admin.post(roles, &may_write_roles).await.is(201);
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "roles"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "roles"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    });
    world.admin.post(bindings, &binding).await.is(201);
    let secrets = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "secrets"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    });
    let refused = world.user("bob", &[]).post(roles, &secrets).await.is(403);
    assert!(
        refused.message().contains("is attempting to grant RBAC permissions not currently held"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn what_no_kubelet_can_answer_says_so() {
    let world = World::new().await;
    let admin = &world.admin;
    let mut two = pod("two");
    two["spec"]["containers"] = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    two["spec"]["nodeName"] = "n1".into();
    admin.post(PODS, &two).await.is(201);
    let which = admin.get(&format!("{PODS}/two/log")).await.is(400);
    assert_eq!(which.message(), "a container name must be specified for pod two, choose one of: [a b]");
    let unreachable = admin.get(&format!("{PODS}/two/log?container=a")).await.is(503);
    assert_eq!(unreachable.text("/reason"), "ServiceUnavailable");
    admin.post(PODS, &pod("free")).await.is(201);
    assert_eq!(admin.get(&format!("{PODS}/free/log")).await.is(204).bytes, "");
    let exec = admin.ask(Method::POST, &format!("{PODS}/free/exec?command=ls"), &[], "").await.is(400);
    assert_eq!(exec.message(), "pod free does not have a host assigned");
}

#[tokio::test]
async fn claims_are_checked_by_compiler_and_namespace() {
    let world = World::new().await;
    let admin = &world.admin;
    let group = "/apis/resource.k8s.io/v1";
    let class = |expression: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu"},
            "spec": {"selectors": [{"cel": {"expression": expression}}]}})
    };
    let refused = admin.post(&format!("{group}/deviceclasses"), &class("device.nothing")).await.is(422);
    let at = "spec.selectors[0].cel.expression: Invalid value: \"device.nothing\": compilation failed: ERROR";
    assert!(refused.text("/message").contains(at), "{refused:?}");
    admin.post(&format!("{group}/deviceclasses"), &class("device.driver == 'gpu.example.com'")).await.is(201);

    let devices = json!({"devices": {"requests": [
        {"name": "r", "exactly": {"deviceClassName": "gpu", "adminAccess": true}},
    ]}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"}, "spec": devices});
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "t"},
        "spec": {"spec": devices}});
    let claims = format!("{group}/namespaces/default/resourceclaims");
    let templates = format!("{group}/namespaces/default/resourceclaimtemplates");
    for (path, body) in [(&claims, &claim), (&templates, &template)] {
        let refused = admin.post(path, body).await.is(422);
        let message = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the \
            `resource.kubernetes.io/admin-access: true` label on the containing namespace";
        assert!(refused.text("/message").ends_with(message), "{refused:?}");
    }
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    admin.patch("/api/v1/namespaces/default", "merge-patch+json", &label).await.is(200);
    admin.post(&claims, &claim).await.is(201);
    admin.post(&templates, &template).await.is(201);
}

#[tokio::test]
async fn mistakes_in_expressions_are_told_with_the_others() {
    let world = World::new().await;
    let admission = "admissionregistration.k8s.io/v1";
    let resource = "resource.k8s.io/v1";
    let selectors = json!([{"cel": {"expression": "foo("}}]);
    for (path, kind, version, spec, expected) in [
        (
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            admission,
            json!({"failurePolicy": "Maybe", "matchConditions": [{"name": "a", "expression": "1"}],
                "variables": [{"name": "v", "expression": "foo("}], "validations": [{"expression": "true"}],
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}}),
            &["spec.failurePolicy", "spec.matchConditions[0].expression", "spec.variables[0].expression"][..],
        ),
        (
            "namespaces/default/resourceclaims",
            "ResourceClaim",
            resource,
            json!({"devices": {"requests": [
                {"name": "Bad", "exactly": {"deviceClassName": "gpu", "selectors": selectors}}]}}),
            &[
                "spec.devices.requests[0].name",
                "spec.devices.requests[0].exactly.selectors[0].cel.expression",
            ],
        ),
        (
            "deviceclasses",
            "DeviceClass",
            resource,
            json!({"selectors": selectors, "extendedResourceName": "cpu"}),
            &["spec.extendedResourceName", "spec.selectors[0].cel.expression"],
        ),
    ] {
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
        let refused = world.admin.post(&format!("/apis/{version}/{path}"), &object).await.is(422);
        let causes = refused.at("/details/causes").as_array().unwrap();
        let fields: BTreeSet<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
        for field in expected {
            assert!(fields.contains(field), "{kind}: {field} in {fields:?}");
        }
    }
}

#[tokio::test]
async fn taints_of_devices_say_since_when() {
    let world = World::new().await;
    let group = "/apis/resource.k8s.io/v1";
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": {
        "driver": "gpu.example.com", "nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "a", "taints": [{"key": "example.com/broken", "effect": "NoExecute"}]}],
    }});
    let made = world.admin.post(&format!("{group}/resourceslices"), &slice).await.is(201);
    assert!(made.text("/spec/devices/0/taints/0/timeAdded").ends_with('Z'), "{made:?}");
    let rule = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule", "metadata": {"name": "r"}, "spec": {
        "taint": {"key": "example.com/broken", "effect": "None", "timeAdded": "2026-01-01T00:00:00Z"},
    }});
    let path = format!("{group}/devicetaintrules/r");
    world.admin.post(&format!("{group}/devicetaintrules"), &rule).await.is(201);
    let other = json!({"spec": {"taint": {"effect": "NoExecute"}}});
    let changed = world.admin.patch(&path, "merge-patch+json", &other).await.is(200);
    assert!(changed.text("/spec/taint/timeAdded") > "2026-01-01T00:00:00Z", "{changed:?}");
    // Upstream's v1 of the kind wants to be told what is changed.
    world.admin.put(&path, &rule).await.is(422);
}

#[tokio::test]
async fn a_volume_says_since_when_it_is_in_its_phase() {
    let world = World::new().await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/v"},
    }});
    world.admin.post("/api/v1/persistentvolumes", &volume).await.is(201);
    let status = "/api/v1/persistentvolumes/v/status";
    let said = json!({"status": {"phase": "Available", "lastPhaseTransitionTime": "2020-01-01T00:00:00Z"}});
    let patched = world.admin.patch(status, "merge-patch+json", &said).await.is(200);
    assert_eq!(patched.text("/status/lastPhaseTransitionTime"), "2020-01-01T00:00:00Z");
    let unsaid = json!({"status": {"phase": "Released"}});
    let patched = world.admin.patch(status, "merge-patch+json", &unsaid).await.is(200);
    assert!(patched.text("/status/lastPhaseTransitionTime") > "2020-01-01T00:00:00Z", "{patched:?}");
    let same = json!({"status": {"message": "x"}});
    let again = world.admin.patch(status, "merge-patch+json", &same).await.is(200);
    assert_eq!(again.at("/status/lastPhaseTransitionTime"), patched.at("/status/lastPhaseTransitionTime"));
}
