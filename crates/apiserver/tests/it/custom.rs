//! CustomResourceDefinitions: served at once, by their schema, until they are deleted.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::world::World;

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

pub fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object", "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 1},
                    "color": {"type": "string", "default": "red"},
                    "replicas": {"type": "integer"},
                },
            },
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        },
    }});
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": schema,
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            }},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
            "versions": [version("v1", true), version("v2", false)],
        },
    })
}

fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_definition_is_served_at_once_and_by_its_schema() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.get(THINGS).await.is(404);
    let made = admin.post(DEFINITIONS, &definition()).await.is(201);
    assert_eq!(made.text("/status/acceptedNames/listKind"), "ThingList");
    let types: Vec<_> =
        made.at("/status/conditions").as_array().unwrap().iter().map(|c| &c["type"]).collect();
    assert_eq!(types, ["NamesAccepted", "Established"]);

    assert_eq!(admin.get("/apis/example.com").await.is(200).text("/preferredVersion/version"), "v2");
    let created = admin.post(THINGS, &thing("a", json!({"size": 1, "unknown": true}))).await.is(201);
    assert_eq!(created.text("/spec/color"), "red", "defaulted");
    assert!(created.at("/spec/unknown").is_null(), "pruned");
    assert_eq!(created.at("/metadata/generation"), 1);
    for bad in [json!({"size": 0}), json!({})] {
        admin.post(THINGS, &thing("b", bad)).await.is(422);
    }
    let other = admin.get("/apis/example.com/v2/namespaces/default/things/a").await.is(200);
    assert_eq!(other.text("/apiVersion"), "example.com/v2");
    let red = admin.get(&format!("{THINGS}?fieldSelector=spec.color%3Dred")).await.is(200);
    assert_eq!((red.names(), red.text("/kind")), (vec!["a"], "ThingList"));
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = admin.ask(Method::GET, THINGS, &table, Bytes::new()).await.is(200);
    assert_eq!(table.at("/rows/0/cells"), &json!(["a", "red"]));

    let status = json!({"status": {"replicas": 2}, "spec": {"size": 9}});
    let written = admin.patch(&format!("{THINGS}/a/status"), "merge-patch+json", &status).await.is(200);
    assert_eq!((written.at("/status/replicas"), written.at("/spec/size")), (&json!(2), &json!(1)));
    let unset = admin.get(&format!("{THINGS}/a/scale")).await.is(500);
    assert!(unset.message().contains(r#"the spec replicas field ".spec.replicas" does not exist"#));
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let unset = admin.patch(&format!("{THINGS}/a/scale"), "merge-patch+json", &labelled).await.is(400);
    assert_eq!(unset.message(), r#"the spec replicas field ".spec.replicas" cannot be empty"#);
    let scale = json!({"spec": {"replicas": 3}});
    admin.patch(&format!("{THINGS}/a/scale"), "merge-patch+json", &scale).await.is(200);
    assert_eq!(admin.get(&format!("{THINGS}/a")).await.is(200).at("/spec/replicas"), 3);
    admin.patch(&format!("{THINGS}/a"), "strategic-merge-patch+json", &scale).await.is(415);
    let mut unversioned = thing("a", json!({"size": 2}));
    unversioned["metadata"]["resourceVersion"] = Value::Null;
    let refused = admin.put(&format!("{THINGS}/a"), &unversioned).await.is(422);
    assert!(refused.message().contains("must be specified for an update"), "{}", refused.message());

    let mut watch = admin.watch(&format!("{THINGS}?watch=1")).await;
    assert_eq!(watch.event().await, ("ADDED".into(), "a".into()));
    delete(&world).await;
    assert_eq!(watch.event().await, ("DELETED".into(), "a".into()));
    assert_eq!(watch.next().await, None, "the watch ends with its kind");
    admin.get(THINGS).await.is(404);
    admin.post(DEFINITIONS, &definition()).await.is(201);
    assert_eq!(admin.get(THINGS).await.is(200).names(), Vec::<&str>::new(), "its objects went with it");
}

/// Deletes the definition and waits until it is gone.
async fn delete(world: &World) {
    let path = format!("{DEFINITIONS}/things.example.com");
    let deleting = world.admin.delete(&path, None).await.is(200);
    let revision = deleting.text("/metadata/resourceVersion");
    let mut definitions =
        world.admin.watch(&format!("{DEFINITIONS}?watch=1&resourceVersion={revision}")).await;
    while definitions.event().await.0 != "DELETED" {}
}

fn condition<'a>(definition: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let all = definition.pointer("/status/conditions").and_then(Value::as_array).unwrap();
    let found = all.iter().find(|condition| condition["type"] == kind).expect("the condition");
    (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

#[tokio::test]
async fn a_definition_stays_until_its_objects_are_gone_in_order() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    admin.post(THINGS, &thing("free", json!({"size": 1}))).await.is(201);
    let mut held = thing("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/outside"]);
    admin.post(THINGS, &held).await.is(201);
    let mut things = admin.watch(&format!("{THINGS}?watch=1")).await;
    for name in ["free", "held"] {
        assert_eq!(things.event().await, ("ADDED".into(), name.into()));
    }
    let path = format!("{DEFINITIONS}/things.example.com");
    let deleting = admin.delete(&path, None).await.is(200);
    assert_eq!(deleting.at("/metadata/finalizers"), &json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&deleting.body, "Terminating"), ("True", "InstanceDeletionPending"));
    assert_eq!(things.event().await, ("DELETED".into(), "free".into()));
    assert_eq!(things.event().await, ("MODIFIED".into(), "held".into()), "it waits for its finalizer");
    let refused = admin.put(THINGS, &thing("new", json!({"size": 1}))).await.is(405);
    assert_eq!(refused.message(), "update is not supported on resources of kind \"things.example.com\"");
    let refused = admin.post(THINGS, &thing("new", json!({"size": 1}))).await.is(405);
    assert_eq!(refused.message(), "create not allowed while custom resource definition is terminating");
    let waiting = admin.get(&path).await.is(200);
    assert_eq!(condition(&waiting.body, "Terminating"), ("True", "InstanceDeletionInProgress"));
    admin.delete(&path, None).await.is(200);

    let revision = waiting.text("/metadata/resourceVersion");
    let mut definitions = admin.watch(&format!("{DEFINITIONS}?watch=1&resourceVersion={revision}")).await;
    let outside = json!({"metadata": {"finalizers": null}});
    admin.patch(&format!("{THINGS}/held"), "merge-patch+json", &outside).await.is(200);
    assert_eq!(things.event().await, ("DELETED".into(), "held".into()));
    while definitions.event().await.0 != "DELETED" {}
    admin.get(&path).await.is(404);
}

#[tokio::test]
async fn every_server_over_the_store_serves_every_definition() {
    let world = World::new().await;
    let (clock, randomness) = (foundation::SystemClock::shared(), foundation::SystemRandomness::shared());
    let options = apiserver::Options::default();
    let other = apiserver::ApiServer::new(world.store.clone(), options, &world.tasks, clock, randomness)
        .await
        .unwrap();
    let other = world.user_of(&other, "admin", &["system:masters"]);
    let until = async |code: u16| {
        let reached = async {
            while other.get(THINGS).await.code != code {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::world::PATIENCE, reached).await.expect("the other server hears of it");
    };
    world.admin.post(DEFINITIONS, &definition()).await.is(201);
    until(200).await;
    delete(&world).await;
    until(404).await;
}

#[tokio::test]
async fn changes_of_a_definition_are_served_in_order_and_without_a_gap() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let changes = async {
        for round in 0..10 {
            let default = format!("color-{round}");
            let pointer = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color/default";
            let patch = json!([{"op": "replace", "path": pointer, "value": default}]);
            let path = format!("{DEFINITIONS}/things.example.com");
            admin.patch(&path, "json-patch+json", &patch).await.is(200);
            let made = admin.post(THINGS, &thing(&format!("t{round}"), json!({"size": 1}))).await.is(201);
            assert_eq!(made.text("/spec/color"), default, "the newest schema is in force at once");
        }
    };
    let reads = async {
        loop {
            admin.get(THINGS).await.is(200);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = changes => {}
        () = reads => {}
    }
}

#[tokio::test]
async fn names_that_become_free_go_to_who_waits_for_them() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let mut other = definition();
    other["metadata"]["name"] = "others.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "kind": "Thing"});
    let made = admin.post(DEFINITIONS, &other).await.is(201);
    assert_eq!(condition(&made.body, "NamesAccepted"), ("False", "ListKindConflict"));
    assert_eq!(condition(&made.body, "Established"), ("False", "NotAccepted"));
    let revision = made.text("/metadata/resourceVersion");
    let selector = "fieldSelector=metadata.name%3Dothers.example.com";
    let watch = format!("{DEFINITIONS}?watch=1&{selector}&resourceVersion={revision}");
    let mut waiting = admin.watch(&watch).await;
    delete(&world).await;
    let event = waiting.next().await.unwrap();
    assert_eq!(condition(&event["object"], "Established"), ("True", "InitialNamesAccepted"));
}

#[tokio::test]
async fn names_in_use_and_bad_definitions_are_not_served() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let mut other = definition();
    other["metadata"]["name"] = "others.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "kind": "Thing"});
    let made = admin.post(DEFINITIONS, &other).await.is(201);
    assert_eq!(made.at("/status/conditions/0/status"), "False");
    assert_eq!(made.at("/status/conditions/1/status"), "False");
    admin.get("/apis/example.com/v1/others").await.is(404);

    let mut misnamed = definition();
    misnamed["metadata"]["name"] = "wrong".into();
    let refused = admin.post(DEFINITIONS, &misnamed).await.is(422);
    assert!(
        refused.message().contains("must be spec.names.plural+\".\"+spec.group"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn a_definition_that_cannot_be_served_is_refused_and_says_why() {
    let world = World::new().await;
    let admin = &world.admin;
    let refuse = async |change: &dyn Fn(&mut Value)| {
        let mut body = definition();
        change(&mut body);
        admin.post(DEFINITIONS, &body).await.is(422).message().to_owned()
    };
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let prefix = "CustomResourceDefinition.apiextensions.k8s.io \"things.example.com\" is invalid: ";
    let message = refuse(&|body| body.pointer_mut(schema).unwrap()["free"] = json!({})).await;
    assert_eq!(
        message,
        format!(
            "{prefix}spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[free].type: Required value: must \
             not be empty for specified object fields"
        )
    );
    let message = refuse(&|body| {
        body.pointer_mut(schema).unwrap()["size"]["default"] = json!("many");
    })
    .await;
    assert!(message.contains("properties[size].default: Invalid value"), "{message}");
    let message = refuse(&|body| body["spec"]["preserveUnknownFields"] = json!(true)).await;
    assert!(
        message.contains("spec.preserveUnknownFields: Invalid value: true: cannot set to true"),
        "{message}"
    );
    let message = refuse(&|body| {
        body["metadata"]["name"] = json!("things.example.k8s.io");
        body["spec"]["group"] = json!("example.k8s.io");
    })
    .await;
    assert!(
        message.ends_with(
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval \
             annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"
        ),
        "{message}"
    );
}

#[tokio::test]
async fn the_groups_of_the_community_say_whether_they_are_approved() {
    let world = World::new().await;
    let mut body = definition();
    body["metadata"] = json!({"name": "things.example.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}});
    body["spec"]["group"] = json!("example.k8s.io");
    let made = world.admin.post(DEFINITIONS, &body).await.is(201);
    let conditions = made.at("/status/conditions").as_array().unwrap();
    let told = conditions.iter().find(|one| one["type"] == "KubernetesAPIApprovalPolicyConformant").unwrap();
    assert_eq!(
        (&told["status"], &told["reason"], &told["message"]),
        (&json!("False"), &json!("UnapprovedAnnotation"), &json!("not approved: \"unapproved, a test\""))
    );
}

#[tokio::test]
async fn a_custom_resource_says_what_it_is() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(DEFINITIONS, &definition()).await.is(201);
    let made = thing("there", json!({"size": 1}));
    admin.post(THINGS, &made).await.is(201);
    let unkind = "the object provided is unrecognized (must be of type Thing): Object 'Kind' is missing in '";
    let unversioned = "does not match the expected API version (example.com/v1)";
    let wrong_kind = "kind: Invalid value: \"Bar\": must be Thing";
    for (meta, code, said) in [
        (json!({}), 400, unkind),
        (json!({"apiVersion": "example.com/v1"}), 400, unkind),
        (json!({"kind": "Thing"}), 400, unversioned),
        (json!({"kind": "Thing", "apiVersion": "example.com/v3"}), 400, unversioned),
        (json!({"kind": "Bar", "apiVersion": "example.com/v1"}), 422, wrong_kind),
    ] {
        let mut new = json!({"metadata": {"name": "new"}, "spec": {"size": 1}});
        new.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let mut there = new.clone();
        there["metadata"]["name"] = "there".into();
        for answer in [admin.post(THINGS, &new).await, admin.put(&format!("{THINGS}/there"), &there).await] {
            let answer = answer.is(code);
            assert!(answer.message().contains(said), "{meta}: {}", answer.message());
        }
    }
    let short = admin.post(THINGS, &json!({})).await.is(400);
    assert_eq!(short.message(), format!("{unkind}{{}}' ({{}})"));

    // A patch leaves out what it does not change, and changes it for nothing else.
    let path = format!("{THINGS}/there");
    for (patch, said) in [
        (json!({"kind": "Bar"}), wrong_kind),
        (
            json!({"apiVersion": "example.com/v3"}),
            "apiVersion: Invalid value: \"example.com/v3\": must be example.com/v1",
        ),
    ] {
        let refused = admin.patch(&path, "merge-patch+json", &patch).await.is(422);
        assert_eq!(refused.message(), format!("Thing.example.com \"there\" is invalid: {said}"));
    }
    admin.patch(&path, "merge-patch+json", &json!({"spec": {"size": 2}})).await.is(200);
    assert_eq!(admin.get(THINGS).await.is(200).names(), ["there"]);
}
