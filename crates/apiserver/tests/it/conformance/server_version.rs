//! test/e2e/apimachinery/server_version.go

use crate::world::World;

/// Conformance: [sig-api-machinery] server version should find the server version [Conformance]
#[tokio::test]
async fn should_find_the_server_version() {
    let world = World::new().await;
    let version = world.admin.get("/version").await.is(200);
    assert_eq!((version.text("/major"), version.text("/minor")), ("1", "37"));
    assert!(version.text("/gitVersion").starts_with("v1.37."));
    assert!(version.text("/platform").starts_with("linux/"));
}
