//! test/e2e/apimachinery/crd_conversion_webhook.go, and what else clients see of conversion webhooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::custom_resource_definition::{DEFINITIONS, establish};
use super::webhook::{VALIDATING, configuration, rule, webhook};
use super::webhook_server::{WebhookServer, reviewed, seen};
use crate::world::World;

/// A world with a definition of two versions: `hostPort` in the first is `host` and `port` in the second.
struct Converting {
    world: World,
    server: WebhookServer,
    /// Whether the webhook refuses.
    broken: Arc<AtomicBool>,
    /// Objects in the largest review.
    largest: Arc<AtomicUsize>,
}

fn path(version: &str) -> String {
    format!("/apis/stable.example.com/{version}/namespaces/default/e2es")
}

fn versions(stored: &str) -> Value {
    let version = |name: &str, properties: Value| {
        json!({
            "name": name, "served": true, "storage": name == stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            }},
        })
    };
    let text = json!({"type": "string"});
    let replicas = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
    json!([
        version("v1", json!({"hostPort": text, "spec": replicas, "status": replicas})),
        version("v2", json!({"host": text, "port": text, "spec": replicas, "status": replicas})),
    ])
}

/// What upstream's webhook image makes of an object.
fn convert(object: &Value, wanted: &str) -> Value {
    let mut converted = object.clone();
    converted["apiVersion"] = wanted.into();
    let members = converted.as_object_mut().unwrap();
    if wanted.ends_with("/v2") {
        if let Some(joined) = members.remove("hostPort") {
            let (host, port) = joined.as_str().unwrap().split_once(':').unwrap();
            members.insert("host".into(), host.into());
            members.insert("port".into(), port.into());
        }
    } else if let (Some(host), Some(port)) = (members.remove("host"), members.remove("port")) {
        let joined = format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
        members.insert("hostPort".into(), joined.into());
    }
    converted
}

impl Converting {
    async fn new(reviews: &[&str]) -> Self {
        let world = World::new().await;
        let (broken, largest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (refuses, seen) = (broken.clone(), largest.clone());
        let server = WebhookServer::start(&world, move |path, review| {
            let request = &review["request"];
            if path != "/crdconvert" {
                let right = request["object"]["host"] == "localhost";
                return reviewed(review, json!({"allowed": right}));
            }
            let objects = request["objects"].as_array().unwrap();
            seen.fetch_max(objects.len(), Ordering::SeqCst);
            let wanted = request["desiredAPIVersion"].as_str().unwrap();
            let result = match refuses.load(Ordering::SeqCst) {
                true => json!({"status": "Failed", "message": "out of order"}),
                false => json!({"status": "Success"}),
            };
            let converted: Vec<Value> = objects.iter().map(|object| convert(object, wanted)).collect();
            reviewed(review, json!({"result": result, "convertedObjects": converted}))
        })
        .await;
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "e2es.stable.example.com"},
            "spec": {
                "group": "stable.example.com", "scope": "Namespaced",
                "names": {"plural": "e2es", "kind": "E2e"},
                "versions": versions("v1"),
                "conversion": {"strategy": "Webhook", "webhook": {
                    "clientConfig": server.client("/crdconvert"), "conversionReviewVersions": reviews,
                }},
            },
        });
        establish(&world, &definition).await;
        Self { world, server, broken, largest }
    }

    async fn create(&self, name: &str) {
        let object = json!({
            "apiVersion": "stable.example.com/v1", "kind": "E2e", "metadata": {"name": name},
            "hostPort": "localhost:8080",
        });
        let made = self.world.admin.post(&path("v1"), &object).await.is(201);
        is_v1(&made.body);
    }

    fn break_it(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

fn is_v1(object: &Value) {
    assert_eq!(
        (&object["apiVersion"], &object["hostPort"]),
        (&json!("stable.example.com/v1"), &json!("localhost:8080"))
    );
    assert!(object.get("host").is_none() && object.get("port").is_none(), "{object}");
}

fn is_v2(object: &Value) {
    assert_eq!(object["apiVersion"], "stable.example.com/v2");
    assert_eq!((&object["host"], &object["port"]), (&json!("localhost"), &json!("8080")));
    assert!(object.get("hostPort").is_none(), "{object}");
}

/// Conformance: [sig-api-machinery] CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert from CR v1 to CR v2 [Conformance]
#[tokio::test]
async fn from_v1_to_v2() {
    for reviews in [&["v1", "v1beta1"][..], &["v1beta1"]] {
        let it = Converting::new(reviews).await;
        it.create("cr-instance-1").await;
        is_v2(&it.world.admin.get(&format!("{}/cr-instance-1", path("v2"))).await.is(200).body);
    }
}

/// Conformance: [sig-api-machinery] CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert a non homogeneous list of CRs [Conformance]
#[tokio::test]
async fn a_non_homogeneous_list() {
    let it = Converting::new(&["v1", "v1beta1"]).await;
    let admin = &it.world.admin;
    it.create("cr-instance-1").await;
    let changed = json!({"spec": {"versions": versions("v2")}});
    admin
        .patch(&format!("{DEFINITIONS}/e2es.stable.example.com"), "merge-patch+json", &changed)
        .await
        .is(200);
    it.create("cr-instance-2").await;
    type Check = fn(&Value);
    let checks: [(&str, Check); 2] = [("v1", is_v1), ("v2", is_v2)];
    for (version, check) in checks {
        // From the watch cache, and from the store.
        for query in ["", "?limit=1", "?resourceVersion=0"] {
            let list = admin.get(&format!("{}{query}", path(version))).await.is(200);
            let token = list.text("/metadata/continue").to_owned();
            let mut items = list.body["items"].as_array().unwrap().clone();
            if !token.is_empty() {
                let rest = admin.get(&format!("{}?limit=5&continue={token}", path(version))).await.is(200);
                items.extend(rest.body["items"].as_array().unwrap().clone());
            }
            let names: Vec<_> = items.iter().map(|item| item["metadata"]["name"].clone()).collect();
            assert_eq!(names, ["cr-instance-1", "cr-instance-2"], "{version}{query}");
            items.iter().for_each(check);
        }
    }
}

#[tokio::test]
async fn every_write_is_stored_in_one_version_and_answered_in_another() {
    let it = Converting::new(&["v1"]).await;
    let admin = &it.world.admin;
    let one = format!("{}/a", path("v2"));
    let object = json!({
        "apiVersion": "stable.example.com/v2", "kind": "E2e", "metadata": {"name": "a"},
        "host": "localhost", "port": "8080",
    });
    let mut written = admin.post(&path("v2"), &object).await.is(201).body;
    is_v2(&written);
    is_v1(&admin.get(&format!("{}/a", path("v1"))).await.is(200).body);
    written["metadata"]["labels"] = json!({"a": "b"});
    is_v2(&admin.put(&one, &written).await.is(200).body);
    let patch = json!({"spec": {"replicas": 1}});
    is_v2(&admin.patch(&one, "merge-patch+json", &patch).await.is(200).body);
    let status = json!({"status": {"replicas": 1}});
    is_v2(&admin.patch(&format!("{one}/status"), "merge-patch+json", &status).await.is(200).body);
    let scale =
        admin.patch(&format!("{one}/scale"), "merge-patch+json", &json!({"spec": {"replicas": 2}})).await;
    assert_eq!(scale.is(200).at("/spec/replicas"), 2);
    let mut applied = object.clone();
    applied["metadata"]["annotations"] = json!({"applied": "yes"});
    let apply = format!("{one}?fieldManager=me&force=true");
    let applied = admin.patch(&apply, "apply-patch+yaml", &applied).await.is(200);
    is_v2(&applied.body);
    assert_eq!(applied.text("/metadata/labels/a"), "b");
    let other = admin.get(&format!("{}/a", path("v1"))).await.is(200);
    is_v1(&other.body);
    assert_eq!((other.at("/spec/replicas"), other.at("/status/replicas")), (&json!(2), &json!(1)));

    // An admission webhook that knows the second version only sees that.
    let mut rules = rule("stable.example.com", &["e2es"], &["CREATE"]);
    rules["apiVersions"] = json!(["v2"]);
    let hook = webhook("v2.example.com", it.server.client("/v2-only"), json!([rules]));
    let made = configuration("ValidatingWebhookConfiguration", "v2-only", vec![hook]);
    let made = admin.post(VALIDATING, &made).await.is(201);
    seen(&it.world, VALIDATING, &made).await;
    it.create("b").await;
    admin.delete(&one, None).await.is(200);
    admin.get(&one).await.is(404);
}

#[tokio::test]
async fn watches_are_in_their_version_and_outlive_a_failure_of_others() {
    let it = Converting::new(&["v1"]).await;
    let admin = &it.world.admin;
    it.create("a").await;
    it.create("b").await;
    let list = admin.get(&path("v2")).await.is(200);
    assert_eq!(
        (list.names(), it.largest.load(Ordering::SeqCst)),
        (vec!["a", "b"], 2),
        "a list is one review"
    );
    let since = list.text("/metadata/resourceVersion");
    let watch = |version: &str| format!("{}?watch=1&resourceVersion={since}", path(version));
    let (mut first, mut second) = (admin.watch(&watch("v1")).await, admin.watch(&watch("v2")).await);
    it.create("c").await;
    is_v1(&first.next().await.unwrap()["object"]);
    is_v2(&second.next().await.unwrap()["object"]);

    it.break_it(true);
    it.create("d").await;
    assert_eq!(first.event().await.1, "d", "the stored version needs no webhook");
    let error = second.next().await.unwrap();
    let message = "conversion webhook for stable.example.com/v1, Kind=E2e failed: out of order";
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(500)));
    assert_eq!(error["object"]["message"], message);
    assert_eq!(second.next().await, None);
    for path in [format!("{}/a", path("v2")), path("v2")] {
        assert_eq!(admin.get(&path).await.is(500).message(), message);
    }
    let object = json!({"apiVersion": "stable.example.com/v2", "kind": "E2e", "metadata": {"name": "e"}});
    let refused = admin.post(&path("v2"), &object).await.is(500);
    assert_eq!(refused.message(), message.replace("/v1,", "/v2,"));
    admin.get(&path("v1")).await.is(200);

    it.break_it(false);
    let list = admin.get(&path("v2")).await.is(200);
    assert_eq!(list.names(), ["a", "b", "c", "d"]);
    list.body["items"].as_array().unwrap().iter().for_each(is_v2);
    admin.delete(&format!("{}/d", path("v1")), None).await.is(200);
    let mut again = admin
        .watch(&format!("{}?watch=1&resourceVersion={}", path("v2"), list.text("/metadata/resourceVersion")))
        .await;
    let gone = again.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    is_v2(&gone["object"]);
    assert_eq!(first.event().await.0, "DELETED");
}

#[tokio::test]
async fn a_definition_is_refused_without_a_webhook_that_can_be_called() {
    let world = World::new().await;
    let mut definition = crate::custom::definition();
    definition["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let refused = world.admin.post(DEFINITIONS, &definition).await.is(422);
    assert!(
        refused.message().contains("spec.conversion.webhookClientConfig: Required value"),
        "{}",
        refused.message()
    );
    let service = json!({"namespace": "default", "name": "converter"});
    definition["spec"]["conversion"]["webhook"] =
        json!({"clientConfig": {"service": service}, "conversionReviewVersions": ["v1"]});
    let made = world.admin.post(DEFINITIONS, &definition).await.is(201);
    assert_eq!(made.at("/spec/conversion/webhook/clientConfig/service/port"), 443);
    let object = json!({"apiVersion": "example.com/v2", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": 1}});
    let refused = world.admin.post("/apis/example.com/v2/namespaces/default/things", &object).await.is(500);
    let message = "conversion webhook for example.com/v2, Kind=Thing failed: Post \
                   \"https://converter.default.svc:443/?timeout=30s\": service \"converter\" not found";
    assert_eq!(refused.message(), message);
}

#[tokio::test]
async fn who_owns_fields_of_another_version_is_asked_of_the_webhook() {
    let it = Converting::new(&["v1"]).await;
    let admin = &it.world.admin;
    let apply = async |version: &str, manager: &str, force: bool, fields: Value| {
        let mut config = json!({
            "apiVersion": format!("stable.example.com/{version}"), "kind": "E2e", "metadata": {"name": "o"},
        });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let path = format!("{}/o?fieldManager={manager}&force={force}", path(version));
        admin.patch(&path, "apply-patch+yaml", &config).await
    };
    apply("v1", "one", false, json!({"hostPort": "localhost:8080"})).await.is(201);
    let refused = apply("v2", "two", false, json!({"host": "localhost", "port": "9090"})).await.is(409);
    let message = "Apply failed with 1 conflict: conflict with \"one\": .hostPort";
    assert_eq!(refused.message(), message);
    apply("v2", "two", false, json!({"host": "localhost", "port": "8080"})).await.is(200);
    let forced = apply("v2", "two", true, json!({"host": "localhost", "port": "9090"})).await.is(200);
    let entries = forced.at("/metadata/managedFields").as_array().unwrap();
    let managers: Vec<_> = entries.iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
    assert_eq!(managers, ["two"], "the other owned nothing but what was taken");

    // Other writes are not refused where the webhook is out of order; as upstream, nobody owns anything then.
    apply("v1", "one", true, json!({"hostPort": "localhost:7070"})).await.is(200);
    it.break_it(true);
    let change = json!({"hostPort": "localhost:6060"});
    let path = format!("{}/o?fieldManager=three", path("v1"));
    let patched = admin.patch(&path, "merge-patch+json", &change).await.is(200);
    assert_eq!(patched.at("/metadata/managedFields"), &Value::Null);
    apply("v1", "one", true, json!({"hostPort": "localhost:7070"})).await.is(200);
}
