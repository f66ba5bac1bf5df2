//! test/e2e/apimachinery/storage_version_migration.go.

use serde_json::json;

use super::lifecycle::Kind;
use crate::world::World;

/// Conformance: [sig-api-machinery] StorageVersionMigration CRUD Tests storagemigration.k8s.io/v1 StorageVersionMigration [Conformance]
#[tokio::test]
async fn storage_version_migrations_are_served_with_all_operations() {
    let kind = Kind {
        group: "storagemigration.k8s.io",
        version: "v1",
        resource: "storageversionmigrations",
        namespace: "",
        body: json!({
            "apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
            "spec": {"resource": {"group": "", "resource": "configmaps"}},
        }),
        status: Some((
            json!({"status": {"conditions": [{
                "type": "Running", "status": "True", "reason": "E2E", "message": "set by a test",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]}}),
            "/status/conditions",
        )),
    };
    let world = World::new().await;
    kind.run(&world).await;
    kind.patch_every_way(&world).await;
}
