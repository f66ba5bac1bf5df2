//! test/e2e/apimachinery/resource_quota.go: the part that is about the object. What is counted is the controller's,
//! and is shown with a whole cluster.

use serde_json::json;

use crate::world::World;

/// Conformance: [sig-api-machinery] ResourceQuota should manage the lifecycle of a ResourceQuota [Conformance]
#[tokio::test]
async fn should_manage_the_lifecycle_of_a_resource_quota() {
    let world = World::new().await;
    let admin = &world.admin;
    let path = "/api/v1/namespaces/default/resourcequotas";
    let one = format!("{path}/e2e-quota");
    let body = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "e2e-quota", "labels": {"e2e-quota": "e2e-quota"}},
        "spec": {"hard": {"cpu": "1", "memory": "500Mi"}},
    });
    let made = admin.post(path, &body).await.is(201);
    assert_eq!(made.at("/spec/hard"), &json!({"cpu": "1", "memory": "500Mi"}));
    let read = admin.get(&one).await.is(200);
    assert_eq!(read.at("/spec/hard"), &json!({"cpu": "1", "memory": "500Mi"}));

    let patch =
        json!({"metadata": {"labels": {"e2e-quota": "patched"}}, "spec": {"hard": {"memory": "750Mi"}}});
    let patched = admin.patch(&one, "strategic-merge-patch+json", &patch).await.is(200);
    assert_eq!(patched.text("/metadata/labels/e2e-quota"), "patched");
    assert_eq!(patched.at("/spec/hard"), &json!({"cpu": "1", "memory": "750Mi"}));

    let everywhere = "/api/v1/resourcequotas?labelSelector=e2e-quota%3Dpatched";
    let listed = admin.get(everywhere).await.is(200);
    assert_eq!(listed.names(), ["e2e-quota"]);
    assert_eq!(listed.text("/items/0/spec/hard/memory"), "750Mi");
    admin.delete(&format!("{path}?labelSelector=e2e-quota%3Dpatched"), None).await.is(200);
    assert!(admin.get(everywhere).await.is(200).names().is_empty());
}

/// Conformance: [sig-api-machinery] ResourceQuota should be able to update and delete ResourceQuota. [Conformance]
#[tokio::test]
async fn should_be_able_to_update_and_delete_resource_quota() {
    let world = World::new().await;
    let admin = &world.admin;
    let path = "/api/v1/namespaces/default/resourcequotas";
    let one = format!("{path}/test-quota");
    let hard = json!({"cpu": "1", "memory": "500Mi"});
    let body = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "test-quota"}, "spec": {"hard": hard},
    });
    admin.post(path, &body).await.is(201);
    let mut read = admin.get(&one).await.is(200).body;
    assert_eq!(read["spec"]["hard"], hard);
    let hard = json!({"cpu": "2", "memory": "1Gi"});
    read["spec"]["hard"] = hard.clone();
    assert_eq!(admin.put(&one, &read).await.is(200).at("/spec/hard"), &hard);
    assert_eq!(admin.get(&one).await.is(200).at("/spec/hard"), &hard);
    admin.delete(&one, None).await.is(200);
    admin.get(&one).await.is(404);
}
