//! What there is: discovery, health, version.

use bytes::Bytes;
use http::Method;

use crate::world::World;

#[tokio::test]
async fn what_is_stored_says_in_which_version() {
    let world = World::new().await;
    for (version, resource, hash) in [
        ("api/v1", "pods", "xPOwRZ+Yhw8="),
        ("api/v1", "events", "r2yiGXH7wu8="),
        ("apis/events.k8s.io/v1", "events", "r2yiGXH7wu8="),
        ("apis/autoscaling/v1", "horizontalpodautoscalers", "qwQve8ut294="),
        ("apis/autoscaling/v2", "horizontalpodautoscalers", "qwQve8ut294="),
        ("apis/apps/v1", "deployments", "8aSe+NMegvE="),
        ("apis/rbac.authorization.k8s.io/v1", "clusterroles", "bYE5ZWDrJ44="),
        ("api/v1", "bindings", ""),
        ("api/v1", "componentstatuses", ""),
        ("api/v1", "pods/status", ""),
        ("apis/authentication.k8s.io/v1", "tokenreviews", ""),
    ] {
        let list = world.admin.get(&format!("/{version}")).await.is(200);
        let found = list.at("/resources").as_array().unwrap().iter().find(|one| one["name"] == resource);
        let found = found.unwrap_or_else(|| panic!("{resource}"));
        assert_eq!(found["storageVersionHash"].as_str().unwrap_or_default(), hash, "{version} {resource}");
    }
}

#[tokio::test]
async fn groups_and_resources_are_listed_in_both_forms() {
    let world = World::new().await;
    let admin = &world.admin;
    assert_eq!(admin.get("/api").await.is(200).at("/versions"), &serde_json::json!(["v1"]));
    let groups = admin.get("/apis").await.is(200);
    let names: Vec<_> =
        groups.at("/groups").as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
    for group in ["apps", "batch", "rbac.authorization.k8s.io", "discovery.k8s.io", "events.k8s.io"] {
        assert!(names.contains(&group), "{group} in {names:?}");
    }
    assert_eq!(admin.get("/apis/apps").await.is(200).text("/preferredVersion/groupVersion"), "apps/v1");
    admin.get("/apis/nothing").await.is(404);
    let core = admin.get("/api/v1").await.is(200);
    let resources = core.at("/resources").as_array().unwrap();
    let find = |name: &str| resources.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(find("pods")["shortNames"], serde_json::json!(["po"]));
    assert_eq!(find("pods")["kind"], "Pod");
    assert_eq!(find("pods/eviction")["group"], "policy");
    assert_eq!(find("namespaces")["namespaced"], false);

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let list = admin.ask(Method::GET, "/apis", &[("accept", accept)], Bytes::new()).await.is(200);
    assert_eq!(
        list.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(list.text("/kind"), "APIGroupDiscoveryList");
    let binary = accept.replace("application/json;g", "application/cbor;g");
    let same = admin.ask(Method::GET, "/apis", &[("accept", &binary)], Bytes::new()).await.is(200);
    assert_eq!(
        same.headers["content-type"],
        "application/cbor;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(schema::cbor::decode(&same.bytes).unwrap(), list.body, "the same in CBOR");
    let tag = list.headers["etag"].to_str().unwrap().to_owned();
    let again = [("accept", accept), ("if-none-match", tag.as_str())];
    admin.ask(Method::GET, "/apis", &again, Bytes::new()).await.is(304);
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let world = World::new().await;
    let admin = &world.admin;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(admin.get(path).await.is(200).bytes, "ok");
    }
    let verbose = admin.get("/readyz?verbose").await.is(200);
    assert!(String::from_utf8_lossy(&verbose.bytes).contains("[+]ping ok\n"));
    world.server.checks().register("broken", || Err("because".into()));
    let failed = admin.get("/healthz").await.is(500);
    assert!(String::from_utf8_lossy(&failed.bytes).contains("[-]broken failed: reason withheld"));
    admin.get("/healthz?exclude=broken").await.is(200);
    assert_eq!(admin.get("/version").await.is(200).text("/minor"), "37");
    let metrics = admin.get("/metrics").await.is(200);
    assert!(String::from_utf8_lossy(&metrics.bytes).contains("apiserver_request_total{"));
}

#[tokio::test]
async fn the_cluster_has_its_first_objects() {
    let world = World::new().await;
    let namespaces = world.admin.get("/api/v1/namespaces").await.is(200);
    assert_eq!(namespaces.names(), ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = world.admin.get("/api/v1/namespaces/default/services/kubernetes").await.is(200);
    assert_eq!(service.text("/spec/clusterIP"), "10.43.0.1");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(world.admin.get(slice).await.is(200).text("/endpoints/0/addresses/0"), "127.0.0.1");
    world.admin.get("/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical").await.is(200);
    world.admin.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin").await.is(200);
}

#[tokio::test]
async fn every_form_of_discovery_is_protobuf_for_those_who_speak_nothing_else() {
    let world = World::new().await;
    let protobuf = "application/vnd.kubernetes.protobuf";
    for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"] {
        let answer = world.admin.ask(Method::GET, path, &[("accept", protobuf)], Bytes::new()).await.is(200);
        assert_eq!(answer.headers["content-type"], protobuf, "{path}");
        assert!(answer.bytes.starts_with(b"k8s\0"), "{path}");
    }
    for path in ["/api", "/apis"] {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let answer = world.admin.ask(Method::GET, path, &[("accept", accept)], Bytes::new()).await.is(200);
        assert_eq!(answer.at("/items/0/metadata/creationTimestamp"), &serde_json::Value::Null, "{path}");
        assert_eq!(answer.at("/items/0/metadata").as_object().unwrap().len(), 1, "{path}: a name alone");
    }
}
