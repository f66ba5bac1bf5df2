//! test/e2e/apimachinery/custom_resource_definition.go, crd_selectable_fields.go and crd_watch.go

use serde_json::{Value, json};

use crate::world::World;

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition in the group `<plural>.example.com`, with one version for each schema.
pub fn definition(plural: &str, kind: &str, schemas: &[Value]) -> Value {
    let versions: Vec<Value> = schemas
        .iter()
        .enumerate()
        .map(|(index, schema)| {
            json!({
                "name": format!("v{}", index + 1), "served": true, "storage": index == 0,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{plural}.example.com"), "labels": {"e2e": "crd"}},
        "spec": {
            "group": format!("{plural}.example.com"), "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural, "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions,
        },
    })
}

/// Makes the definition and waits until it is established.
pub async fn establish(world: &World, definition: &Value) {
    let name = definition["metadata"]["name"].as_str().unwrap();
    let made = world.admin.post(DEFINITIONS, definition).await.is(201);
    let since = made.text("/metadata/resourceVersion");
    let path =
        format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={since}");
    let established = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
    };
    if !established(&made.body) {
        let mut watch = world.admin.watch(&path).await;
        while !established(&watch.next().await.unwrap()["object"]) {}
    }
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition creating/deleting custom resource definition objects works [Conformance]
#[tokio::test]
async fn creating_deleting_custom_resource_definition_objects_works() {
    let world = World::new().await;
    let definition = definition("foos", "Foo", &[anything()]);
    establish(&world, &definition).await;
    let path = format!("{DEFINITIONS}/foos.foos.example.com");
    world.admin.delete(&path, None).await.is(200);
}

/// Conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition listing custom resource definition objects works [Conformance]
#[tokio::test]
async fn listing_custom_resource_definition_objects_works() {
    let world = World::new().await;
    let all: Vec<String> = ('a'..='j').map(|letter| format!("{letter}s")).collect();
    for plural in &all {
        establish(&world, &definition(plural, &plural.to_uppercase(), &[anything()])).await;
    }
    let selected = format!("{DEFINITIONS}?labelSelector=e2e%3Dcrd");
    assert_eq!(world.admin.get(&selected).await.is(200).names().len(), all.len());
    world.admin.delete(&selected, None).await.is(200);
    world.admin.until(&selected, |answer| answer.names().is_empty()).await;
    world.admin.until("/apis/as.example.com/v1/as", |answer| answer.code == 404).await;
}

/// Conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition getting/updating/patching custom resource definition status sub-resource works [Conformance]
#[tokio::test]
async fn getting_updating_patching_custom_resource_definition_status_sub_resource_works() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[anything()])).await;
    let path = format!("{DEFINITIONS}/foos.foos.example.com/status");
    let found = world.admin.get(&path).await.is(200);
    let mut changed = found.body.clone();
    let condition = |message: &str| {
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    changed["status"]["conditions"].as_array_mut().unwrap().push(condition("Set from an e2e test"));
    let written = world.admin.put(&path, &changed).await.is(200);
    let conditions = written.at("/status/conditions").as_array().unwrap().clone();
    assert!(conditions.iter().any(|c| c["message"] == "Set from an e2e test"));
    let patch = json!({"status": {"conditions": [condition("Set by a patch")]}});
    let patched = world.admin.patch(&path, "merge-patch+json", &patch).await.is(200);
    let conditions = patched.at("/status/conditions").as_array().unwrap().clone();
    assert!(conditions.iter().any(|c| c["message"] == "Set by a patch"));
}

/// Conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] should include custom resource definition resources in discovery documents [Conformance]
#[tokio::test]
async fn should_include_custom_resource_definition_resources_in_discovery_documents() {
    let world = World::new().await;
    let groups = world.admin.get("/apis").await.is(200);
    let groups = groups.at("/groups").as_array().unwrap();
    assert!(groups.iter().any(|group| group["name"] == "apiextensions.k8s.io"));
    let group = world.admin.get("/apis/apiextensions.k8s.io").await.is(200);
    assert_eq!(group.text("/versions/0/groupVersion"), "apiextensions.k8s.io/v1");
    let resources = world.admin.get("/apis/apiextensions.k8s.io/v1").await.is(200);
    let resources = resources.at("/resources").as_array().unwrap();
    assert!(resources.iter().any(|resource| resource["name"] == "customresourcedefinitions"));
}

/// Conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] custom resource defaulting for requests and from storage works [Conformance]
#[tokio::test]
async fn custom_resource_defaulting_for_requests_and_from_storage_works() {
    let world = World::new().await;
    let with = |defaults: &[&str]| {
        let mut schema = json!({"type": "object", "properties": {
            "a": {"type": "string"}, "b": {"type": "string"},
        }});
        for name in defaults {
            schema["properties"][*name]["default"] = name.to_uppercase().into();
        }
        schema
    };
    establish(&world, &definition("foos", "Foo", &[with(&[])])).await;
    let path = "/apis/foos.example.com/v1/namespaces/default/foos";
    let foo =
        |name: &str| json!({"apiVersion": "foos.example.com/v1", "kind": "Foo", "metadata": {"name": name}});
    world.admin.post(path, &foo("early")).await.is(201);
    let named = format!("{DEFINITIONS}/foos.foos.example.com");
    let patch = |defaults: &[&str]| {
        json!([{
            "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": with(defaults),
        }])
    };
    let patched = world.admin.patch(&named, "json-patch+json", &patch(&["a"])).await.is(200);
    super::webhook_server::seen(&world, DEFINITIONS, &patched).await;
    let made = world.admin.post(path, &foo("late")).await.is(201);
    assert_eq!((made.text("/a"), made.at("/b")), ("A", &Value::Null), "defaulted by the request");
    let read = world.admin.get(&format!("{path}/early")).await.is(200);
    assert_eq!(read.text("/a"), "A", "defaulted from storage");
}

/// Conformance: [sig-api-machinery] CustomResourceFieldSelectors [Privileged:ClusterAdmin] CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector [Conformance]
#[tokio::test]
async fn must_list_and_watch_custom_resources_matching_the_field_selector() {
    let world = World::new().await;
    let schema = json!({"type": "object", "properties": {
        "hostPort": {"type": "string"}, "host": {"type": "string"}, "port": {"type": "string"},
    }});
    let mut made = definition("hosts", "Host", &[schema]);
    made["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    establish(&world, &made).await;
    let path = "/apis/hosts.example.com/v1/namespaces/default/hosts";
    let host = |name: &str, host: &str, port: &str| json!({"apiVersion": "hosts.example.com/v1", "kind": "Host", "metadata": {"name": name}, "host": host, "port": port});
    let watched = format!("{path}?fieldSelector=host%3Dhost1,port%3D80");
    let mut watch = world.admin.watch(&format!("{watched}&watch=true")).await;
    for (name, on, port) in
        [("a", "host1", "80"), ("b", "host1", "8080"), ("c", "host2", "80"), ("d", "host1", "80")]
    {
        world.admin.post(path, &host(name, on, port)).await.is(201);
    }
    assert_eq!(world.admin.get(&watched).await.is(200).names(), ["a", "d"]);
    assert_eq!(
        world.admin.get(&format!("{path}?fieldSelector=host%3Dhost1")).await.is(200).names(),
        ["a", "b", "d"]
    );
    assert_eq!(world.admin.get(&format!("{path}?fieldSelector=host!%3Dhost1")).await.is(200).names(), ["c"]);
    world.admin.get(&format!("{path}?fieldSelector=hostPort%3Dx")).await.is(400);
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    assert_eq!(watch.event().await, ("ADDED".into(), "d".into()));
    world.admin.patch(&format!("{path}/a"), "merge-patch+json", &json!({"host": "host2"})).await.is(200);
    assert_eq!(watch.event().await, ("DELETED".into(), "a".into()), "no longer selected");
    world.admin.patch(&format!("{path}/c"), "merge-patch+json", &json!({"host": "host1"})).await.is(200);
    assert_eq!(watch.event().await, ("ADDED".into(), "c".into()), "selected now");
}

/// Conformance: [sig-api-machinery] CustomResourceDefinition Watch [Privileged:ClusterAdmin] CustomResourceDefinition Watch watch on custom resource definition objects [Conformance]
#[tokio::test]
async fn watch_on_custom_resource_definition_objects() {
    let world = World::new().await;
    establish(&world, &definition("noxus", "WishIHadChosenNoxu", &[anything()])).await;
    let path = "/apis/noxus.example.com/v1/namespaces/default/noxus";
    let object = |name: &str| {
        json!({"apiVersion": "noxus.example.com/v1", "kind": "WishIHadChosenNoxu", "metadata": {"name": name},
            "content": {"key": "value"}, "num": {"num1": 1, "num2": 2}})
    };
    let mut watch =
        world.admin.watch(&format!("{path}?watch=true&fieldSelector=metadata.name%3Dname1")).await;
    world.admin.post(path, &object("name1")).await.is(201);
    assert_eq!(watch.event().await, ("ADDED".into(), "name1".into()));
    world.admin.post(path, &object("name2")).await.is(201);
    world.admin.patch(&format!("{path}/name1"), "merge-patch+json", &json!({"dummy": "test"})).await.is(200);
    assert_eq!(watch.event().await, ("MODIFIED".into(), "name1".into()));
    world.admin.delete(&format!("{path}/name2"), None).await.is(200);
    world.admin.delete(&format!("{path}/name1"), None).await.is(200);
    assert_eq!(watch.event().await, ("DELETED".into(), "name1".into()));
}

/// Not by name: rules are checked with the definition, and hold for its objects.
#[tokio::test]
async fn rules_hold() {
    let world = World::new().await;
    let schema = |rule: &str| {
        json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": rule, "messageExpression": "'at least ' + string(self.min)", "fieldPath": ".replicas"},
                {"rule": "!has(oldSelf.min) || self.min >= oldSelf.min", "message": "min must not shrink"},
            ],
            "properties": {
                "min": {"type": "integer"}, "replicas": {"type": "integer"}, "note": {"type": "string", "maxLength": 5},
            },
        }}})
    };
    let bad =
        world.admin.post(DEFINITIONS, &definition("foos", "Foo", &[schema("self.nope > 1")])).await.is(422);
    let message = bad.message();
    assert!(
        message.contains(
            "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value"
        ),
        "{message}"
    );
    assert!(message.contains("compilation failed: ERROR: <input>:1:5: undefined field 'nope'"), "{message}");
    establish(&world, &definition("foos", "Foo", &[schema("self.replicas >= self.min")])).await;
    let path = "/apis/foos.example.com/v1/namespaces/default/foos";
    let foo = |min: u32, replicas: u32| {
        json!({
            "apiVersion": "foos.example.com/v1", "kind": "Foo", "metadata": {"name": "f"},
            "spec": {"min": min, "replicas": replicas},
        })
    };
    let refused = world.admin.post(path, &foo(3, 1)).await.is(422);
    assert_eq!(
        refused.message(),
        "Foo.foos.example.com \"f\" is invalid: spec.replicas: Invalid value: \"object\": at least 3"
    );
    world.admin.post(path, &foo(3, 5)).await.is(201);
    let smaller = json!({"spec": {"min": 2}});
    let refused = world.admin.patch(&format!("{path}/f"), "merge-patch+json", &smaller).await.is(422);
    assert!(
        refused.message().ends_with("spec: Invalid value: \"object\": min must not shrink"),
        "{}",
        refused.message()
    );
    // What was stored before a rule came stays as it is, until it is touched.
    let named = format!("{DEFINITIONS}/foos.foos.example.com");
    let stricter = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema("self.replicas > 9")}]);
    let patched = world.admin.patch(&named, "json-patch+json", &stricter).await.is(200);
    super::webhook_server::seen(&world, DEFINITIONS, &patched).await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    world.admin.patch(&format!("{path}/f"), "merge-patch+json", &label).await.is(200);
    world
        .admin
        .patch(&format!("{path}/f"), "merge-patch+json", &json!({"spec": {"replicas": 6}}))
        .await
        .is(422);
    // A rule that may cost too much is not stored.
    let costly = json!({"type": "object", "properties": {"names": {
        "type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a == b))"}],
    }}});
    let refused = world.admin.post(DEFINITIONS, &definition("bars", "Bar", &[costly])).await.is(422);
    assert!(
        refused.message().contains("estimated rule cost exceeds budget by factor of more than 100x"),
        "{}",
        refused.message()
    );
}
