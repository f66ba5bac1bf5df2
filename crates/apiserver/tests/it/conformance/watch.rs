//! test/e2e/apimachinery/watch.go: what a watch tells, in which order, and where it starts.

use serde_json::{Value, json};

use crate::world::{Watch, World, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LABEL: &str = "watch-this-configmap";

fn labelled(name: &str, value: &str) -> Value {
    let mut body = config_map(name);
    body["metadata"]["labels"] = json!({LABEL: value});
    body
}

/// Type, name and `data.mutation` of the next event.
async fn seen(watch: &mut Watch) -> (String, String, String) {
    let event = watch.next().await.expect("an event");
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/type"), text("/object/metadata/name"), text("/object/data/mutation"))
}

fn event(kind: &str, name: &str, mutation: &str) -> (String, String, String) {
    (kind.to_owned(), name.to_owned(), mutation.to_owned())
}

fn revision(object: &Value) -> &str {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).expect("a resourceVersion")
}

impl World {
    async fn mutate(&self, name: &str, mutation: &str) -> Value {
        let patch = json!({"data": {"mutation": mutation}});
        self.admin.patch(&format!("{MAPS}/{name}"), "merge-patch+json", &patch).await.is(200).body
    }

    async fn watch_maps(&self, query: &str) -> Watch {
        self.admin.watch(&format!("{MAPS}?watch=true{query}")).await
    }
}

/// Conformance: [sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps [Conformance]
#[tokio::test]
async fn should_observe_add_update_and_delete_watch_notifications_on_configmaps() {
    let world = World::new().await;
    let admin = &world.admin;
    let start = admin.get(MAPS).await.is(200);
    let start = format!("&resourceVersion={}", revision(&start.body));
    let selector = |selector: &str| format!("{start}&labelSelector={LABEL}{selector}");
    let mut a = world.watch_maps(&selector("%3DA")).await;
    let mut b = world.watch_maps(&selector("%3DB")).await;
    let mut both = world.watch_maps(&selector("%20in%20(A,B)")).await;

    // Every watch sees exactly its own: an event too many would be in the place of the one that is expected next.
    admin.post(MAPS, &labelled("a", "A")).await.is(201);
    world.mutate("a", "1").await;
    world.mutate("a", "2").await;
    admin.delete(&format!("{MAPS}/a"), None).await.is(200);
    for watch in [&mut a, &mut both] {
        assert_eq!(seen(watch).await, event("ADDED", "a", ""));
        assert_eq!(seen(watch).await, event("MODIFIED", "a", "1"));
        assert_eq!(seen(watch).await, event("MODIFIED", "a", "2"));
        assert_eq!(seen(watch).await, event("DELETED", "a", "2"));
    }
    admin.post(MAPS, &labelled("b", "B")).await.is(201);
    admin.delete(&format!("{MAPS}/b"), None).await.is(200);
    for watch in [&mut b, &mut both] {
        assert_eq!(seen(watch).await, event("ADDED", "b", ""));
        assert_eq!(seen(watch).await, event("DELETED", "b", ""));
    }
    admin.post(MAPS, &labelled("last", "A")).await.is(201);
    assert_eq!(seen(&mut a).await, event("ADDED", "last", ""), "nothing of b came here");
}

/// Conformance: [sig-api-machinery] Watchers should be able to start watching from a specific resource version [Conformance]
#[tokio::test]
async fn should_be_able_to_start_watching_from_a_specific_resource_version() {
    let world = World::new().await;
    world.admin.post(MAPS, &labelled("m", "from-resource-version")).await.is(201);
    let first = world.mutate("m", "1").await;
    world.mutate("m", "2").await;
    world.admin.delete(&format!("{MAPS}/m"), None).await.is(200);
    let from = format!("&labelSelector={LABEL}%3Dfrom-resource-version&resourceVersion={}", revision(&first));
    let mut watch = world.watch_maps(&from).await;
    assert_eq!(seen(&mut watch).await, event("MODIFIED", "m", "2"), "only what came after the revision");
    assert_eq!(seen(&mut watch).await, event("DELETED", "m", "2"));
}

/// Conformance: [sig-api-machinery] Watchers should be able to restart watching from the last resource version observed by the previous watch [Conformance]
#[tokio::test]
async fn should_be_able_to_restart_watching_from_the_last_resource_version_observed() {
    let world = World::new().await;
    let selector = format!("&labelSelector={LABEL}%3Dwatch-closed-and-restarted");
    let mut watch = world.watch_maps(&selector).await;
    world.admin.post(MAPS, &labelled("m", "watch-closed-and-restarted")).await.is(201);
    world.mutate("m", "1").await;
    assert_eq!(seen(&mut watch).await, event("ADDED", "m", ""));
    let last = watch.next().await.expect("an event");
    assert_eq!((&last["type"], &last["object"]["data"]["mutation"]), (&"MODIFIED".into(), &"1".into()));
    drop(watch);
    world.mutate("m", "2").await;
    world.admin.delete(&format!("{MAPS}/m"), None).await.is(200);
    let mut watch =
        world.watch_maps(&format!("{selector}&resourceVersion={}", revision(&last["object"]))).await;
    assert_eq!(seen(&mut watch).await, event("MODIFIED", "m", "2"));
    assert_eq!(seen(&mut watch).await, event("DELETED", "m", "2"));
}

/// Conformance: [sig-api-machinery] Watchers should observe an object deletion if it stops meeting the requirements of the selector [Conformance]
#[tokio::test]
async fn should_observe_an_object_deletion_if_it_stops_meeting_the_requirements_of_the_selector() {
    let world = World::new().await;
    let mut watch = world.watch_maps(&format!("&labelSelector={LABEL}%3Dchanged-and-restored")).await;
    let label = async |value: &str| {
        let patch = json!({"metadata": {"labels": {LABEL: value}}});
        world.admin.patch(&format!("{MAPS}/m"), "merge-patch+json", &patch).await.is(200);
    };
    world.admin.post(MAPS, &labelled("m", "changed-and-restored")).await.is(201);
    world.mutate("m", "1").await;
    label("wrong-value").await;
    assert_eq!(seen(&mut watch).await, event("ADDED", "m", ""));
    assert_eq!(seen(&mut watch).await, event("MODIFIED", "m", "1"));
    assert_eq!(seen(&mut watch).await, event("DELETED", "m", "1"), "it left the selection");

    // Unseen: the next event is the return.
    world.mutate("m", "2").await;
    label("changed-and-restored").await;
    world.mutate("m", "3").await;
    world.admin.delete(&format!("{MAPS}/m"), None).await.is(200);
    assert_eq!(seen(&mut watch).await, event("ADDED", "m", "2"));
    assert_eq!(seen(&mut watch).await, event("MODIFIED", "m", "3"));
    assert_eq!(seen(&mut watch).await, event("DELETED", "m", "3"));
}

/// Conformance: [sig-api-machinery] Watchers should receive events on concurrent watches in same order [Conformance]
#[tokio::test]
async fn should_receive_events_on_concurrent_watches_in_same_order() {
    const ROUNDS: usize = 100;
    let world = World::new().await;
    let start = world.admin.get(MAPS).await.is(200);
    let produce = async {
        let mut present = std::collections::VecDeque::new();
        // More than is looked at, so that the last watches see events too.
        for at in 0..2 * ROUNDS {
            match at % 4 {
                0 | 1 => {
                    let name = format!("m{at}");
                    world.admin.post(MAPS, &config_map(&name)).await.is(201);
                    present.push_back(name);
                }
                2 => {
                    world.mutate(present.back().expect("two were made"), &at.to_string()).await;
                }
                _ => {
                    let name = present.pop_front().expect("two were made");
                    world.admin.delete(&format!("{MAPS}/{name}"), None).await.is(200);
                }
            }
        }
    };
    let observe = async {
        let mut watches =
            vec![world.watch_maps(&format!("&resourceVersion={}", revision(&start.body))).await];
        for _ in 0..ROUNDS {
            let event = watches[0].next().await.expect("an event");
            let reached = revision(&event["object"]).to_owned();
            for watch in &mut watches[1..] {
                let other = watch.next().await.expect("an event");
                assert_eq!(revision(&other["object"]), reached);
                assert_eq!(other["type"], event["type"]);
            }
            watches.push(world.watch_maps(&format!("&resourceVersion={reached}")).await);
        }
    };
    tokio::join!(produce, observe);
}
