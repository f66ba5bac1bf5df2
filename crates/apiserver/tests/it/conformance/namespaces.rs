//! test/e2e/apimachinery/namespace.go: the part that is about the object. What is deleted with a namespace is the
//! controllers', and is shown with a whole cluster.

use serde_json::{Value, json};

use crate::world::World;

const PATH: &str = "/api/v1/namespaces";

async fn create(world: &World, name: &str) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    world.admin.post(PATH, &body).await.is(201).body
}

/// Conformance: [sig-api-machinery] Namespaces [Serial] should patch a Namespace [Conformance]
#[tokio::test]
async fn should_patch_a_namespace() {
    let world = World::new().await;
    create(&world, "nspatchtest").await;
    let one = format!("{PATH}/nspatchtest");
    let patch = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    world.admin.patch(&one, "strategic-merge-patch+json", &patch).await.is(200);
    assert_eq!(world.admin.get(&one).await.is(200).text("/metadata/labels/testLabel"), "testValue");
}

/// Conformance: [sig-api-machinery] Namespaces [Serial] should apply an update to a Namespace [Conformance]
#[tokio::test]
async fn should_apply_an_update_to_a_namespace() {
    let world = World::new().await;
    let mut body = create(&world, "e2e-update").await;
    body["metadata"]["labels"]["e2e-update"] = "updated".into();
    let updated = world.admin.put(&format!("{PATH}/e2e-update"), &body).await.is(200);
    assert_eq!(updated.text("/metadata/labels/e2e-update"), "updated");
    let read = world.admin.get(&format!("{PATH}/e2e-update")).await.is(200);
    assert_eq!(read.text("/metadata/labels/e2e-update"), "updated");
    assert_eq!(read.text("/metadata/labels/kubernetes.io~1metadata.name"), "e2e-update");
}

/// Conformance: [sig-api-machinery] Namespaces [Serial] should apply changes to a namespace status [Conformance]
#[tokio::test]
async fn should_apply_changes_to_a_namespace_status() {
    let world = World::new().await;
    let admin = &world.admin;
    create(&world, "e2e-status").await;
    let status = format!("{PATH}/e2e-status/status");
    assert_eq!(admin.get(&status).await.is(200).text("/status/phase"), "Active");
    let conditions = |answer: &Value| {
        let conditions = answer["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .into_iter()
            .map(|c| (c["type"].clone(), c["status"].clone(), c["reason"].clone(), c["message"].clone()))
            .collect::<Vec<_>>()
    };
    let patched = (json!("StatusPatch"), json!("True"), json!("E2E"), json!("Patched by an e2e test"));
    let patch = json!({
        "metadata": {"annotations": {"e2e-patched-ns-status": "e2e-status"}},
        "status": {"conditions": [
            {"type": patched.0, "status": patched.1, "reason": patched.2, "message": patched.3},
        ]},
    });
    let answer = admin.patch(&status, "merge-patch+json", &patch).await.is(200);
    assert_eq!(answer.text("/metadata/annotations/e2e-patched-ns-status"), "e2e-status");
    assert_eq!(conditions(&answer.body), std::slice::from_ref(&patched));

    let mut update = admin.get(&status).await.is(200).body;
    let updated = (json!("StatusUpdate"), json!("True"), json!("E2E"), json!("Updated by an e2e test"));
    let list = update["status"]["conditions"].as_array_mut().unwrap();
    list.push(json!({"type": updated.0, "status": updated.1, "reason": updated.2, "message": updated.3}));
    let answer = admin.put(&status, &update).await.is(200);
    assert_eq!(conditions(&answer.body), [patched, updated]);
    let read = admin.get(&format!("{PATH}/e2e-status")).await.is(200);
    assert_eq!(conditions(&read.body), conditions(&answer.body));
}

/// Conformance: [sig-api-machinery] Namespaces [Serial] should apply a finalizer to a Namespace [Conformance]
#[tokio::test]
async fn should_apply_a_finalizer_to_a_namespace() {
    let world = World::new().await;
    let admin = &world.admin;
    let finalizer = "e2e.example.com/fakeFinalizer";
    let mut body = create(&world, "e2e-finalizer").await;
    assert_eq!(body["spec"]["finalizers"], json!(["kubernetes"]));
    let finalize = format!("{PATH}/e2e-finalizer/finalize");
    body["spec"]["finalizers"] = json!(["kubernetes", finalizer]);
    let answer = admin.put(&finalize, &body).await.is(200);
    assert_eq!(answer.at("/spec/finalizers"), &json!(["kubernetes", finalizer]));

    let mut body = admin.get(&format!("{PATH}/e2e-finalizer")).await.is(200).body;
    assert_eq!(body["spec"]["finalizers"], json!(["kubernetes", finalizer]));
    body["spec"]["finalizers"] = json!(["kubernetes"]);
    let answer = admin.put(&finalize, &body).await.is(200);
    assert_eq!(answer.at("/spec/finalizers"), &json!(["kubernetes"]));
}
