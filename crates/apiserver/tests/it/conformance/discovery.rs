//! test/e2e/apimachinery/discovery.go

use serde_json::Value;

use crate::world::World;

/// Conformance: [sig-api-machinery] Discovery should validate PreferredVersion for each APIGroup [Conformance]
#[tokio::test]
async fn should_validate_preferred_version_for_each_group() {
    let world = World::new().await;
    let groups = world.admin.get("/apis").await.is(200);
    for group in groups.at("/groups").as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        let alone = world.admin.get(&format!("/apis/{name}")).await.is(200);
        assert_eq!(alone.text("/kind"), "APIGroup");
        let preferred = alone.text("/preferredVersion/groupVersion");
        assert_eq!(group["preferredVersion"]["groupVersion"], preferred);
        let versions = alone.at("/versions").as_array().unwrap();
        assert!(versions.iter().any(|version| version["groupVersion"] == preferred), "{name}");
    }
}

/// Conformance: [sig-api-machinery] Discovery should locate the groupVersion and a resource within each APIGroup [Conformance]
#[tokio::test]
async fn should_locate_the_group_version_and_a_resource_within_each_group() {
    let world = World::new().await;
    for (group, version, resource) in [
        ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
        ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
        ("apiregistration.k8s.io", "v1", "apiservices"),
        ("apps", "v1", "deployments"),
        ("authentication.k8s.io", "v1", "tokenreviews"),
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
        ("autoscaling", "v1", "horizontalpodautoscalers"),
        ("autoscaling", "v2", "horizontalpodautoscalers"),
        ("batch", "v1", "jobs"),
        ("certificates.k8s.io", "v1", "certificatesigningrequests"),
        ("coordination.k8s.io", "v1", "leases"),
        ("discovery.k8s.io", "v1", "endpointslices"),
        ("events.k8s.io", "v1", "events"),
        ("networking.k8s.io", "v1", "ingresses"),
        ("node.k8s.io", "v1", "runtimeclasses"),
        ("policy", "v1", "poddisruptionbudgets"),
        ("scheduling.k8s.io", "v1", "priorityclasses"),
        ("storage.k8s.io", "v1", "csinodes"),
    ] {
        let listed = world.admin.get(&format!("/apis/{group}")).await.is(200);
        let wanted = format!("{group}/{version}");
        let versions = listed.at("/versions").as_array().unwrap();
        assert!(versions.iter().any(|known| known["groupVersion"] == wanted.as_str()), "{wanted}");
        let resources = world.admin.get(&format!("/apis/{wanted}")).await.is(200);
        assert_eq!(resources.text("/groupVersion"), wanted);
        let found = resources.at("/resources").as_array().unwrap();
        assert!(found.iter().any(|known| known["name"] == resource), "{wanted} {resource}");
        assert!(
            found
                .iter()
                .all(|known| known["verbs"].as_array().is_some_and(|verbs: &Vec<Value>| !verbs.is_empty()))
        );
    }
}
