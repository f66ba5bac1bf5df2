//! test/e2e/instrumentation/core_events.go

use serde_json::{Value, json};

use crate::world::World;

const PATH: &str = "/api/v1/namespaces/default/events";

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "labels": {"testevent-constant": "true"}},
        "message": "This is a test event", "reason": "Test", "type": "Normal", "count": 1,
        "involvedObject": {"namespace": "default"},
    })
}

/// Conformance: [sig-instrumentation] Events should manage the lifecycle of an event [Conformance]
#[tokio::test]
async fn should_manage_the_lifecycle_of_an_event() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(PATH, &event("event-test")).await.is(201);
    let everywhere = "/api/v1/events?labelSelector=testevent-constant%3Dtrue";
    assert_eq!(admin.get(everywhere).await.is(200).names(), ["event-test"]);
    let one = format!("{PATH}/event-test");
    let patch = json!({"message": "This is a test event - patched"});
    admin.patch(&one, "strategic-merge-patch+json", &patch).await.is(200);
    assert_eq!(admin.get(&one).await.is(200).text("/message"), "This is a test event - patched");
    let mut update = admin.get(&one).await.is(200).body;
    update["series"] = json!({"count": 100, "lastObservedTime": "2020-01-01T00:00:00.000000Z"});
    admin.put(&one, &update).await.is(200);
    assert_eq!(admin.get(&one).await.is(200).at("/series/count"), 100);
    admin.delete(&one, None).await.is(200);
    assert!(admin.get(everywhere).await.is(200).names().is_empty());
}

/// Conformance: [sig-instrumentation] Events should delete a collection of events [Conformance]
#[tokio::test]
async fn should_delete_a_collection_of_events() {
    let world = World::new().await;
    let names = ["test-event-1", "test-event-2", "test-event-3"];
    for name in names {
        world.admin.post(PATH, &event(name)).await.is(201);
    }
    let selected = format!("{PATH}?labelSelector=testevent-constant%3Dtrue");
    assert_eq!(world.admin.get(&selected).await.is(200).names(), names);
    world.admin.delete(&selected, None).await.is(200);
    assert!(world.admin.get(&selected).await.is(200).names().is_empty());
}
