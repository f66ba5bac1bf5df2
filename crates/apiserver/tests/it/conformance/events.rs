//! test/e2e/instrumentation/events.go

use serde_json::{Value, json};

use crate::world::World;

const PATH: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const EVERYWHERE: &str = "/apis/events.k8s.io/v1/events?labelSelector=testevent-constant%3Dtrue";

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "labels": {"testevent-constant": "true"}},
        "regarding": {"kind": "Pod", "name": "test", "namespace": "default"},
        "eventTime": "2017-09-19T13:49:16.000000Z", "type": "Normal", "reason": "Test", "action": "Do",
        "note": "This is a test event", "reportingController": "test-controller", "reportingInstance": "test-node",
    })
}

/// Conformance: [sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed [Conformance]
#[tokio::test]
async fn should_ensure_that_an_event_can_be_fetched_patched_deleted_and_listed() {
    let world = World::new().await;
    let admin = &world.admin;
    admin.post(PATH, &event("event-test")).await.is(201);
    assert_eq!(admin.get(EVERYWHERE).await.is(200).names(), ["event-test"]);
    let core = "/api/v1/namespaces/default/events/event-test";
    assert_eq!(admin.get(core).await.is(200).text("/message"), "This is a test event");
    let one = format!("{PATH}/event-test");
    let got = admin.get(&one).await.is(200);
    assert_eq!(got.text("/note"), "This is a test event");
    assert_eq!(got.text("/eventTime"), "2017-09-19T13:49:16.000000Z");

    let series = json!({"series": {"count": 2, "lastObservedTime": "2017-09-19T13:50:16.000000Z"}});
    let patched = admin.patch(&one, "strategic-merge-patch+json", &series).await.is(200);
    assert_eq!(patched.at("/series/count"), 2);
    assert_eq!(admin.get(&one).await.is(200).text("/series/lastObservedTime"), "2017-09-19T13:50:16.000000Z");

    let mut update = admin.get(&one).await.is(200).body;
    update["series"] = json!({"count": 100, "lastObservedTime": "2020-01-01T00:00:00.000000Z"});
    assert_eq!(admin.put(&one, &update).await.is(200).at("/series/count"), 100);

    admin.delete(&one, None).await.is(200);
    assert!(admin.get(EVERYWHERE).await.is(200).names().is_empty());
    assert!(admin.get(PATH).await.is(200).names().is_empty());
}

/// Conformance: [sig-instrumentation] Events API should delete a collection of events [Conformance]
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
