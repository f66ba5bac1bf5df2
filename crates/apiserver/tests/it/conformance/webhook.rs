//! test/e2e/apimachinery/webhook.go

use std::time::Duration;

use serde_json::{Value, json};

use super::webhook_server::{WebhookServer, patch, reviewed, seen};
use crate::world::{World, config_map, pod};

pub const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
pub const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// What upstream's webhook image answers, by path.
pub fn image(path: &str, review: &Value) -> Option<Value> {
    let request = &review["request"];
    let object = &request["object"];
    let denied = |why: &str| json!({"allowed": false, "status": {"message": why}});
    let data = |object: &Value, key: &str| object["data"][key].as_str().unwrap_or_default().to_owned();
    let response = match path {
        "/configmaps" if request["operation"] == "DELETE" => {
            match data(&request["oldObject"], "webhook-e2e-test").as_str() {
                "webhook-nondeletable" => {
                    denied("the configmap cannot be deleted because it contains unwanted key and value")
                }
                _ => json!({"allowed": true}),
            }
        }
        "/configmaps" => match data(object, "webhook-e2e-test").as_str() {
            "webhook-disallow" => denied("the configmap contains unwanted key and value"),
            _ => json!({"allowed": true, "warnings": ["seen"]}),
        },
        "/pods" => match object["spec"]["containers"][0]["name"].as_str() {
            Some("webhook-disallow") => denied("the pod contains unwanted container name"),
            _ => json!({"allowed": true}),
        },
        "/pods/attach" => match (request["name"].as_str(), request["subResource"].as_str()) {
            (Some("to-be-attached-pod"), Some("attach")) => {
                denied("attaching to pod 'to-be-attached-pod' is not allowed")
            }
            _ => json!({"allowed": true}),
        },
        "/mutating-configmaps" => {
            let mut operations = Vec::new();
            if data(object, "mutation-start") == "yes" {
                operations.push(json!({"op": "add", "path": "/data/mutation-stage-1", "value": "yes"}));
            }
            if data(object, "mutation-stage-1") == "yes" {
                operations.push(json!({"op": "add", "path": "/data/mutation-stage-2", "value": "yes"}));
            }
            patch(&json!(operations))
        }
        "/mutating-pods" => patch(&json!([
            {"op": "add", "path": "/spec/initContainers",
             "value": [{"image": "webhook-added-image", "name": "webhook-added-init-container", "resources": {}}]},
        ])),
        "/crd" => match object["metadata"]["labels"]["webhook-e2e-test"].as_str() {
            Some("webhook-disallow") => denied("the crd contains unwanted label"),
            _ => json!({"allowed": true}),
        },
        "/always-deny" => denied("this webhook denies all requests"),
        "/never" => return None,
        _ => json!({"allowed": true}),
    };
    reviewed(review, response)
}

pub fn rule(group: &str, resources: &[&str], operations: &[&str]) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["*"], "resources": resources, "operations": operations})
}

pub fn webhook(name: &str, client: Value, rules: Value) -> Value {
    json!({
        "name": name, "clientConfig": client, "rules": rules, "sideEffects": "None",
        "admissionReviewVersions": ["v1", "v1beta1"],
    })
}

pub fn configuration(kind: &str, name: &str, webhooks: Vec<Value>) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "webhooks": webhooks,
        "metadata": {"name": name, "labels": {"e2e": "webhooks"}},
    })
}

async fn validating(world: &World, name: &str, webhooks: Vec<Value>) {
    let made =
        world.admin.post(VALIDATING, &configuration("ValidatingWebhookConfiguration", name, webhooks)).await;
    seen(world, VALIDATING, &made.is(201)).await;
}

pub async fn mutating(world: &World, name: &str, webhooks: Vec<Value>) {
    let made =
        world.admin.post(MUTATING, &configuration("MutatingWebhookConfiguration", name, webhooks)).await;
    seen(world, MUTATING, &made.is(201)).await;
}

pub fn with_data(name: &str, data: Value) -> Value {
    let mut object = config_map(name);
    object["data"] = data;
    object
}

fn disallowed(name: &str) -> Value {
    with_data(name, json!({"webhook-e2e-test": "webhook-disallow"}))
}

fn definition(stored: &str) -> Value {
    let version = |name: &str| {
        json!({
            "name": name, "served": true, "storage": name == stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"data": {
                "type": "object", "properties": {
                    "mutation-start": {"type": "string"}, "mutation-stage-1": {"type": "string"},
                    "webhook-e2e-test": {"type": "string"},
                },
            }}}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hooks.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "hooks", "kind": "Hook"},
            "versions": [version("v1"), version("v2")],
        },
    })
}

fn hook(version: &str, name: &str, data: Value) -> Value {
    json!({
        "apiVersion": format!("example.com/{version}"), "kind": "Hook", "metadata": {"name": name}, "data": data,
    })
}

const HOOKS: &str = "/apis/example.com/v1/namespaces/default/hooks";

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should include webhook resources in discovery documents [Conformance]
#[tokio::test]
async fn should_include_webhook_resources_in_discovery_documents() {
    let world = World::new().await;
    let group = world.admin.get("/apis/admissionregistration.k8s.io").await.is(200);
    assert_eq!(group.text("/preferredVersion/version"), "v1");
    let resources = world.admin.get("/apis/admissionregistration.k8s.io/v1").await.is(200);
    let names: Vec<_> =
        resources.at("/resources").as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for name in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny pod and configmap creation [Conformance]
#[tokio::test]
async fn should_be_able_to_deny_pod_and_configmap_creation() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let mut hanging =
        webhook("hanging.k8s.io", server.client("/never"), json!([rule("", &["pods"], &["CREATE"])]));
    hanging["timeoutSeconds"] = json!(1);
    hanging["objectSelector"] = json!({"matchLabels": {"hang": "yes"}});
    let mut maps = webhook(
        "deny-unwanted-configmap-data.k8s.io",
        server.client("/configmaps"),
        json!([rule("", &["configmaps"], &["CREATE", "UPDATE", "DELETE"])]),
    );
    maps["namespaceSelector"] = json!({"matchExpressions": [{"key": "skip-webhook-admission", "operator": "NotIn", "values": ["yes"]}]});
    validating(
        &world,
        "deny",
        vec![
            webhook(
                "deny-unwanted-pod-container-name-and-label.k8s.io",
                server.client("/pods"),
                json!([rule("", &["pods"], &["CREATE"])]),
            ),
            maps,
            hanging,
        ],
    )
    .await;
    let admin = &world.admin;
    let mut unwanted = pod("unwanted");
    unwanted["spec"]["containers"][0]["name"] = "webhook-disallow".into();
    let refused = admin.post(PODS, &unwanted).await.is(400);
    assert_eq!(
        refused.message(),
        "admission webhook \"deny-unwanted-pod-container-name-and-label.k8s.io\" denied the request: the pod contains \
         unwanted container name"
    );
    let mut hangs = pod("hangs");
    hangs["metadata"]["labels"] = json!({"hang": "yes"});
    let refused = admin.post(PODS, &hangs).await.is(500);
    assert!(
        refused.message().contains("failed calling webhook \"hanging.k8s.io\": failed to call webhook: Post")
    );
    assert!(refused.message().ends_with("context deadline exceeded"), "{}", refused.message());
    let refused = admin.post(CONFIG_MAPS, &disallowed("unwanted")).await.is(400);
    assert!(refused.message().contains("denied the request: the configmap contains unwanted key and value"));
    let allowed = admin.post(CONFIG_MAPS, &config_map("allowed")).await.is(201);
    assert_eq!(allowed.headers["warning"], "299 - \"seen\"");
    let path = format!("{CONFIG_MAPS}/allowed");
    let change = json!({"data": {"webhook-e2e-test": "webhook-disallow"}});
    admin.patch(&path, "merge-patch+json", &change).await.is(400);
    admin.put(&path, &disallowed("allowed")).await.is(400);
    admin
        .post(CONFIG_MAPS, &with_data("kept", json!({"webhook-e2e-test": "webhook-nondeletable"})))
        .await
        .is(201);
    let refused = admin.delete(&format!("{CONFIG_MAPS}/kept"), None).await.is(400);
    assert!(refused.message().contains("cannot be deleted"), "{}", refused.message());
    admin.delete(&path, None).await.is(200);

    let exempt = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "exempt", "labels": {"skip-webhook-admission": "yes"}},
    });
    let made = admin.post("/api/v1/namespaces", &exempt).await.is(201);
    seen(&world, "/api/v1/namespaces", &made).await;
    admin.post("/api/v1/namespaces/exempt/configmaps", &disallowed("unwanted")).await.is(201);
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny attaching pod [Conformance]
#[tokio::test]
async fn should_be_able_to_deny_attaching_pod() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let rules = json!([rule("", &["pods/attach"], &["CONNECT"])]);
    validating(
        &world,
        "attach",
        vec![webhook("deny-attaching-pod.k8s.io", server.client("/pods/attach"), rules)],
    )
    .await;
    world.admin.post(PODS, &pod("to-be-attached-pod")).await.is(201);
    let bind = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "to-be-attached-pod"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n"},
    });
    world.admin.post(&format!("{PODS}/to-be-attached-pod/binding"), &bind).await.is(201);
    let path = format!("{PODS}/to-be-attached-pod/attach?stdin=true");
    let refused = world.admin.post(&path, &Value::Null).await.is(400);
    assert!(
        refused.message().contains("attaching to pod 'to-be-attached-pod' is not allowed"),
        "{}",
        refused.message()
    );
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny custom resource creation, update and deletion [Conformance]
#[tokio::test]
async fn should_be_able_to_deny_custom_resource_creation_update_and_deletion() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition("v1")).await.is(201);
    let rules = json!([rule("example.com", &["hooks"], &["CREATE", "UPDATE", "DELETE"])]);
    validating(
        &world,
        "custom",
        vec![webhook("deny-unwanted-custom-resource-data.k8s.io", server.client("/configmaps"), rules)],
    )
    .await;
    let bad = json!({"webhook-e2e-test": "webhook-disallow"});
    let refused = admin.post(HOOKS, &hook("v1", "bad", bad.clone())).await.is(400);
    assert!(refused.message().contains("contains unwanted key and value"), "{}", refused.message());
    let kept = json!({"webhook-e2e-test": "webhook-nondeletable"});
    admin.post(HOOKS, &hook("v1", "kept", kept)).await.is(201);
    admin.patch(&format!("{HOOKS}/kept"), "merge-patch+json", &json!({"data": bad})).await.is(400);
    let refused = admin.delete(&format!("{HOOKS}/kept"), None).await.is(400);
    assert!(refused.message().contains("cannot be deleted"), "{}", refused.message());
    let freed = json!({"data": {"webhook-e2e-test": "webhook-allow"}});
    admin.patch(&format!("{HOOKS}/kept"), "merge-patch+json", &freed).await.is(200);
    admin.delete(&format!("{HOOKS}/kept"), None).await.is(200);
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should unconditionally reject operations on fail closed webhook [Conformance]
#[tokio::test]
async fn should_unconditionally_reject_operations_on_fail_closed_webhook() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let mut client = server.client("/configmaps");
    let mut untrusted =
        webhook("fail-closed.k8s.io", client.clone(), json!([rule("", &["configmaps"], &["CREATE"])]));
    untrusted["clientConfig"]["caBundle"] = Value::Null;
    untrusted["failurePolicy"] = "Fail".into();
    validating(&world, "closed", vec![untrusted]).await;
    let refused = world.admin.post(CONFIG_MAPS, &config_map("any")).await.is(500);
    assert_eq!(refused.text("/reason"), "InternalError");
    assert!(
        refused
            .message()
            .ends_with("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        "{}",
        refused.message()
    );
    client["url"] = "https://localhost:1/nobody".into();
    let mut ignored = webhook("fail-open.k8s.io", client, json!([rule("", &["secrets"], &["CREATE"])]));
    ignored["failurePolicy"] = "Ignore".into();
    validating(&world, "open", vec![ignored]).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    world.admin.post("/api/v1/namespaces/default/secrets", &secret).await.is(201);
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate configmap [Conformance]
#[tokio::test]
async fn should_mutate_configmap() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let rules = json!([rule("", &["configmaps"], &["CREATE"])]);
    mutating(
        &world,
        "mutate",
        vec![
            webhook(
                "adding-configmap-data-stage-1.k8s.io",
                server.client("/mutating-configmaps"),
                rules.clone(),
            ),
            webhook("adding-configmap-data-stage-2.k8s.io", server.client("/mutating-configmaps"), rules),
        ],
    )
    .await;
    let made = world.admin.post(CONFIG_MAPS, &with_data("m", json!({"mutation-start": "yes"}))).await.is(201);
    let expected = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    assert_eq!(made.at("/data"), &expected);
}

/// Not by name: those that ask for it run again, once, when others have changed the object after them.
#[tokio::test]
async fn eligible_webhooks_are_reinvoked() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let rules = json!([rule("", &["configmaps"], &["CREATE"])]);
    // The second stage stands first: only a second round lets it see what the first has done.
    let staged = |stage: &str| {
        let condition =
            format!("'{}' in object.data", if stage == "a" { "mutation-stage-1" } else { "mutation-start" });
        let mut hook =
            webhook(&format!("{stage}.stage.k8s.io"), server.client("/mutating-configmaps"), rules.clone());
        hook["matchConditions"] = json!([{"name": "stage", "expression": condition}]);
        hook["reinvocationPolicy"] = "IfNeeded".into();
        hook
    };
    mutating(&world, "a", vec![staged("a")]).await;
    mutating(&world, "b", vec![staged("b")]).await;
    let made = world.admin.post(CONFIG_MAPS, &with_data("m", json!({"mutation-start": "yes"}))).await.is(201);
    assert_eq!(made.at("/data/mutation-stage-1"), "yes");
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate pod and apply defaults after mutation [Conformance]
#[tokio::test]
async fn should_mutate_pod_and_apply_defaults_after_mutation() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let rules = json!([rule("", &["pods"], &["CREATE"])]);
    mutating(
        &world,
        "pods",
        vec![webhook("adding-init-container.k8s.io", server.client("/mutating-pods"), rules)],
    )
    .await;
    let made = world.admin.post(PODS, &pod("p")).await.is(201);
    let added = made.at("/spec/initContainers/0");
    assert_eq!(added["name"], "webhook-added-init-container");
    assert_eq!(added["terminationMessagePolicy"], "File", "defaulted");
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should not be able to mutate or prevent deletion of webhook configuration objects [Conformance]
#[tokio::test]
async fn should_not_be_able_to_mutate_or_prevent_deletion_of_webhook_configuration_objects() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let everything = json!([rule("admissionregistration.k8s.io", &["*"], &["*"])]);
    validating(
        &world,
        "deny-all",
        vec![webhook("deny.webhook.k8s.io", server.client("/always-deny"), everything.clone())],
    )
    .await;
    mutating(
        &world,
        "mutate-all",
        vec![webhook("mutate.webhook.k8s.io", server.client("/always-deny"), everything)],
    )
    .await;
    let one = webhook("dummy.webhook.k8s.io", server.client("/x"), json!([rule("", &["pods"], &["CREATE"])]));
    for (path, kind) in
        [(VALIDATING, "ValidatingWebhookConfiguration"), (MUTATING, "MutatingWebhookConfiguration")]
    {
        let made = world.admin.post(path, &configuration(kind, "dummy", vec![one.clone()])).await.is(201);
        assert_eq!(made.at("/metadata/labels"), &json!({"e2e": "webhooks"}), "not mutated");
        world.admin.delete(&format!("{path}/dummy"), None).await.is(200);
    }
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource [Conformance]
#[tokio::test]
async fn should_mutate_custom_resource() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    world.admin.post(DEFINITIONS, &definition("v1")).await.is(201);
    let rules = json!([rule("example.com", &["hooks"], &["CREATE", "UPDATE"])]);
    mutating(
        &world,
        "custom",
        vec![webhook(
            "mutate-custom-resource-data-stage-1.k8s.io",
            server.client("/mutating-configmaps"),
            rules,
        )],
    )
    .await;
    let made = world.admin.post(HOOKS, &hook("v1", "m", json!({"mutation-start": "yes"}))).await.is(201);
    assert_eq!(made.at("/data"), &json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource with pruning [Conformance]
#[tokio::test]
async fn should_mutate_custom_resource_with_pruning() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    world.admin.post(DEFINITIONS, &definition("v1")).await.is(201);
    let rules = json!([rule("example.com", &["hooks"], &["CREATE", "UPDATE"])]);
    mutating(
        &world,
        "custom",
        vec![
            webhook("stage-1.k8s.io.example", server.client("/mutating-configmaps"), rules.clone()),
            webhook("stage-2.k8s.io.example", server.client("/mutating-configmaps"), rules),
        ],
    )
    .await;
    let made = world.admin.post(HOOKS, &hook("v1", "m", json!({"mutation-start": "yes"}))).await.is(201);
    // The schema does not know the second stage.
    assert_eq!(made.at("/data"), &json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource with different stored version [Conformance]
#[tokio::test]
async fn should_mutate_custom_resource_with_different_stored_version() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    world.admin.post(DEFINITIONS, &definition("v1")).await.is(201);
    // Only v1 is asked for; a request for v2 is shown to the webhook as v1.
    let rules = json!([{"apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["hooks"], "operations": ["CREATE", "UPDATE"]}]);
    mutating(
        &world,
        "custom",
        vec![webhook(
            "mutate-custom-resource-data-stage-1.k8s.io",
            server.client("/mutating-configmaps"),
            rules,
        )],
    )
    .await;
    let empty = hook("v1", "m", json!({}));
    world.admin.post(HOOKS, &empty).await.is(201);
    let definition_path = format!("{DEFINITIONS}/hooks.example.com");
    let mut changed = definition("v2");
    changed["metadata"]["resourceVersion"] =
        world.admin.get(&definition_path).await.is(200).at("/metadata/resourceVersion").clone();
    world.admin.put(&definition_path, &changed).await.is(200);
    let path = "/apis/example.com/v2/namespaces/default/hooks/m";
    // The definition is served anew once its change has been seen.
    seen(&world, DEFINITIONS, &world.admin.get(&definition_path).await.is(200)).await;
    let patched = world
        .admin
        .patch(path, "merge-patch+json", &json!({"data": {"mutation-start": "yes"}}))
        .await
        .is(200);
    assert_eq!(patched.at("/data"), &json!({"mutation-start": "yes", "mutation-stage-1": "yes"}));
    assert_eq!(patched.text("/apiVersion"), "example.com/v2");
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should deny crd creation [Conformance]
#[tokio::test]
async fn should_deny_crd_creation() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let rules = json!([rule("apiextensions.k8s.io", &["customresourcedefinitions"], &["CREATE"])]);
    validating(
        &world,
        "crd",
        vec![webhook("deny-crd-with-unwanted-label.k8s.io", server.client("/crd"), rules)],
    )
    .await;
    let mut unwanted = definition("v1");
    unwanted["metadata"]["labels"] = json!({"webhook-e2e-test": "webhook-disallow"});
    let refused = world.admin.post(DEFINITIONS, &unwanted).await.is(400);
    assert!(refused.message().contains("the crd contains unwanted label"), "{}", refused.message());
    world.admin.post(DEFINITIONS, &definition("v1")).await.is(201);
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should honor timeout [Conformance]
#[tokio::test]
async fn should_honor_timeout() {
    let world = World::new().await;
    let server = WebhookServer::slow(&world, Duration::from_secs(3), image).await;
    let cases = [
        ("shorter, and failing counts", Some(1), "Fail", 500),
        ("shorter, and failing does not count", Some(1), "Ignore", 201),
        ("longer", Some(10), "Fail", 201),
        ("left out, which means ten seconds", None, "Fail", 201),
    ];
    for (what, timeout, policy, code) in cases {
        let mut slow = webhook(
            "allow-configmap-with-delay-webhook.k8s.io",
            server.client("/always-allow"),
            json!([rule("", &["configmaps"], &["CREATE"])]),
        );
        if let Some(timeout) = timeout {
            slow["timeoutSeconds"] = json!(timeout);
        }
        slow["failurePolicy"] = policy.into();
        validating(&world, "slow", vec![slow]).await;
        let answer = world.admin.post(CONFIG_MAPS, &config_map("late")).await.is(code);
        assert_eq!(answer.message().contains("context deadline exceeded"), code == 500, "{what}");
        if code == 201 {
            world.admin.delete(&format!("{CONFIG_MAPS}/late"), None).await.is(200);
        }
        world.admin.delete(&format!("{VALIDATING}/slow"), None).await.is(200);
    }
}
