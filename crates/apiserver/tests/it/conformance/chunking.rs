//! test/e2e/apimachinery/chunking.go: a list in pieces.

use serde_json::{Value, json};

use crate::world::{Answer, World};

const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
const TOTAL: usize = 400;

async fn world() -> World {
    let world = World::new().await;
    for at in 0..TOTAL {
        let template = json!({
            "apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": format!("template-{at:04}")},
            "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}},
        });
        world.admin.post(TEMPLATES, &template).await.is(201);
    }
    world
}

/// Checks the order of a piece and what it says of the rest, and returns how many have been seen with it.
fn take(piece: &Answer, limit: usize, seen: usize) -> usize {
    let names = piece.names();
    assert!(names.len() <= limit, "{} of at most {limit}", names.len());
    for (at, name) in names.iter().enumerate() {
        assert_eq!(*name, format!("template-{:04}", seen + at));
    }
    let seen = seen + names.len();
    match piece.text("/metadata/continue") {
        "" => assert!(piece.at("/metadata/remainingItemCount").is_null()),
        _ => assert_eq!(piece.at("/metadata/remainingItemCount"), &Value::from(TOTAL - seen)),
    }
    seen
}

/// Conformance: [sig-api-machinery] Servers with support for API chunking should return chunks of results for list calls [Conformance]
#[tokio::test]
async fn should_return_chunks_of_results_for_list_calls() {
    let world = world().await;
    for limits in [[1, 40, 17], [40, 40, 40], [7, 3, 29]] {
        let (mut seen, mut token, mut revision) = (0, String::new(), None);
        for limit in limits.into_iter().cycle() {
            let piece = world.admin.get(&format!("{TEMPLATES}?limit={limit}&continue={token}")).await.is(200);
            seen = take(&piece, limit, seen);
            let at = piece.text("/metadata/resourceVersion").to_owned();
            assert_eq!(revision.get_or_insert_with(|| at.clone()), &at, "all pieces are of one revision");
            token = piece.text("/metadata/continue").to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, TOTAL);
    }
    let whole = world.admin.get(&format!("{TEMPLATES}?limit={}", TOTAL + 1)).await.is(200);
    assert_eq!(whole.names().len(), TOTAL);
}

/// Conformance: [sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent [Slow] [Conformance]
#[tokio::test]
async fn should_support_continue_listing_from_the_last_key_after_compaction() {
    let world = world().await;
    let admin = &world.admin;
    let limit = TOTAL / 10;
    let piece = admin.get(&format!("{TEMPLATES}?limit={limit}")).await.is(200);
    let first = piece.text("/metadata/resourceVersion").to_owned();
    let token = piece.text("/metadata/continue").to_owned();
    let mut seen = take(&piece, limit, 0);
    // Upstream waits for five minutes until something was written and the store was compacted.
    let written = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}});
    let written = admin.post("/api/v1/namespaces/default/configmaps", &written).await.is(201);
    let now = written.text("/metadata/resourceVersion").parse().unwrap();
    store::Store::compact(&*world.store, now).await.unwrap();

    let expired = admin.get(&format!("{TEMPLATES}?limit={limit}&continue={token}")).await.is(410);
    assert_eq!(expired.text("/reason"), "Expired");
    let mut token = expired.text("/metadata/continue").to_owned();
    assert!(!token.is_empty(), "a token to go on with");
    let mut revision = None;
    while !token.is_empty() {
        let piece = admin.get(&format!("{TEMPLATES}?limit={limit}&continue={token}")).await.is(200);
        let at = piece.text("/metadata/resourceVersion").to_owned();
        if revision.is_none() {
            assert_ne!(at, first, "the list goes on at a later revision");
            assert_eq!(piece.names().len(), limit);
        }
        assert_eq!(revision.get_or_insert_with(|| at.clone()), &at, "and stays at it");
        seen = take(&piece, limit, seen);
        token = piece.text("/metadata/continue").to_owned();
    }
    assert_eq!(seen, TOTAL);
}
