//! test/e2e/apimachinery/aggregated_discovery.go

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::world::{Answer, World};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Groups, versions and resources that a cluster must have.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("", "v1", "namespaces"),
    ("", "v1", "pods"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
];

async fn ask(world: &World, path: &str, accept: &str) -> Answer {
    world.admin.ask(Method::GET, path, &[("accept", accept)], Bytes::new()).await.is(200)
}

fn resources(list: &Answer, group: &str, version: &str) -> Vec<Value> {
    let items = list.at("/items").as_array().cloned().unwrap_or_default();
    let group = items
        .into_iter()
        .find(|item| item["metadata"].get("name").map_or("", |n| n.as_str().unwrap()) == group);
    let versions =
        group.map(|group| group["versions"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
    let version = versions.into_iter().find(|known| known["version"] == version);
    version.map(|version| version["resources"].as_array().cloned().unwrap_or_default()).unwrap_or_default()
}

fn has(list: &Answer, group: &str, version: &str, resource: &str) -> bool {
    resources(list, group, version).iter().any(|known| known["resource"] == resource)
}

fn definition(group: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

async fn define(world: &World, group: &str) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    world.admin.post(path, &definition(group)).await.is(201);
}

/// Conformance: [sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface [Conformance]
#[tokio::test]
async fn should_support_aggregated_discovery_interface() {
    let world = World::new().await;
    let accept = format!(
        "{V2},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    );
    let core = ask(&world, "/api", &accept).await;
    let named = ask(&world, "/apis", &accept).await;
    for (group, version, resource) in EXPECTED {
        let list = if group.is_empty() { &core } else { &named };
        assert!(has(list, group, version, resource), "{group}/{version} {resource}");
    }
    let pods = resources(&core, "", "v1").into_iter().find(|known| known["resource"] == "pods").unwrap();
    assert_eq!(pods["scope"], "Namespaced");
    assert_eq!(pods["responseKind"]["kind"], "Pod");
    assert_eq!(pods["singularResource"], "pod");
    let subresources = pods["subresources"].as_array().unwrap();
    assert!(subresources.iter().any(|sub| sub["subresource"] == "status"));
}

/// Conformance: [sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers [Conformance]
#[tokio::test]
async fn should_support_raw_aggregated_discovery_endpoint_accept_headers() {
    let world = World::new().await;
    for path in ["/api", "/apis"] {
        let aggregated = ask(&world, path, V2).await;
        assert_eq!(aggregated.text("/kind"), "APIGroupDiscoveryList");
        assert_eq!(aggregated.text("/apiVersion"), "apidiscovery.k8s.io/v2");
        assert_eq!(aggregated.headers["content-type"], V2);
        let beta =
            ask(&world, path, "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")
                .await;
        assert_eq!(beta.text("/apiVersion"), "apidiscovery.k8s.io/v2beta1");
        let old = ask(&world, path, "application/json").await;
        assert_eq!(old.headers["content-type"], "application/json");
        assert_eq!(old.text("/kind"), if path == "/api" { "APIVersions" } else { "APIGroupList" });
    }
}

/// Conformance: [sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface for CRDs [Conformance]
#[tokio::test]
async fn should_support_aggregated_discovery_interface_for_crds() {
    let world = World::new().await;
    define(&world, "e2e.example.com").await;
    let list = ask(&world, "/apis", &format!("{V2},application/json")).await;
    let thing = &resources(&list, "e2e.example.com", "v1")[0];
    assert_eq!(thing["resource"], "things");
    assert_eq!(thing["scope"], "Namespaced");
    assert_eq!(thing["responseKind"], json!({"group": "e2e.example.com", "version": "v1", "kind": "Thing"}));
    for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
        assert!(thing["verbs"].as_array().unwrap().contains(&verb.into()), "{verb}");
    }
}

/// Conformance: [sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery request for CRDs [Conformance]
#[tokio::test]
async fn should_support_raw_aggregated_discovery_request_for_crds() {
    let world = World::new().await;
    assert!(!has(&ask(&world, "/apis", V2).await, "raw.example.com", "v1", "things"));
    define(&world, "raw.example.com").await;
    assert!(has(&ask(&world, "/apis", V2).await, "raw.example.com", "v1", "things"));
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.raw.example.com";
    world.admin.delete(path, None).await.is(200);
    let mut watched = ask(&world, "/apis", V2).await;
    while has(&watched, "raw.example.com", "v1", "things") {
        watched = ask(&world, "/apis", V2).await;
    }
}
