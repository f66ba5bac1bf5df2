//! test/e2e/apimachinery/crd_publish_openapi.go: what `kubectl explain` and client-side validation read.

use serde_json::{Value, json};

use super::custom_resource_definition::{DEFINITIONS, definition, establish};
use super::webhook_server::seen;
use crate::world::World;

fn schema() -> Value {
    json!({
        "type": "object", "description": "Foo CRD for Testing",
        "properties": {
            "spec": {"type": "object", "description": "Specification of Foo", "properties": {
                "bars": {"type": "array", "description": "List of Bars and their specs.", "items": {
                    "type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string", "description": "Name of Bar."},
                        "age": {"type": "string", "description": "Age of Bar."},
                        "feeling": {"type": "string", "enum": ["Great", "Down"]},
                    },
                }},
            }},
            "status": {"type": "object", "description": "Status of Foo"},
        },
    })
}

/// The definition of a kind in version 2 of OpenAPI, if it is there.
async fn published(world: &World, plural: &str, version: &str, kind: &str) -> Option<Value> {
    let document = world.admin.get("/openapi/v2").await.is(200);
    let name = format!("com.example.{plural}.{version}.{kind}");
    let found = document.body["definitions"].get(&name).cloned()?;
    let gvk = json!([{"group": format!("{plural}.example.com"), "version": version, "kind": kind}]);
    assert_eq!(found["x-kubernetes-group-version-kind"], gvk);
    let list = &document.body["definitions"][format!("{name}List")];
    assert_eq!(list["properties"]["items"]["items"]["$ref"], format!("#/definitions/{name}"));
    Some(found)
}

/// The same in version 3.
async fn published_v3(world: &World, plural: &str, version: &str, kind: &str) -> Option<Value> {
    let index = world.admin.get("/openapi/v3").await.is(200);
    let path =
        index.body["paths"][format!("apis/{plural}.example.com/{version}")]["serverRelativeURL"].clone();
    let document = world.admin.get(path.as_str()?).await.is(200);
    document.body["components"]["schemas"].get(format!("com.example.{plural}.{version}.{kind}")).cloned()
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD with validation schema [Conformance]
#[tokio::test]
async fn works_for_crd_with_validation_schema() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[schema()])).await;
    let found = published(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found["description"], "Foo CRD for Testing");
    let bars = &found["properties"]["spec"]["properties"]["bars"];
    assert_eq!(bars["items"]["properties"]["feeling"]["enum"], json!(["Great", "Down"]));
    assert_eq!(bars["items"]["required"], json!(["name"]));
    let metadata = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(found["properties"]["metadata"]["$ref"], metadata);
    let found = published_v3(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found["properties"]["status"]["description"], "Status of Foo");
}

fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD without validation schema [Conformance]
#[tokio::test]
async fn works_for_crd_without_validation_schema() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[open()])).await;
    let found = published(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found["x-kubernetes-preserve-unknown-fields"], true);
    assert_eq!(found.get("properties"), None, "v2 readers would refuse what is not among them");
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD preserving unknown fields at the schema root [Conformance]
#[tokio::test]
async fn works_for_crd_preserving_unknown_fields_at_the_schema_root() {
    let world = World::new().await;
    let mut schema = schema();
    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    establish(&world, &definition("foos", "Foo", &[schema])).await;
    let found = published(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found.get("properties"), None);
    let found = published_v3(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found["properties"]["spec"]["description"], "Specification of Foo", "v3 tells all");
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD preserving unknown fields in an embedded object [Conformance]
#[tokio::test]
async fn works_for_crd_preserving_unknown_fields_in_an_embedded_object() {
    let world = World::new().await;
    let mut schema = schema();
    schema["properties"]["spec"] = json!({
        "type": "object", "description": "Specification of Foo", "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-embedded-resource": true, "properties": {"dummy": {"type": "string"}},
    });
    establish(&world, &definition("foos", "Foo", &[schema])).await;
    let found = published(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found["properties"]["spec"]["description"], "Specification of Foo");
    assert_eq!(found["properties"]["spec"].get("properties"), None);
    let found = published_v3(&world, "foos", "v1", "Foo").await.unwrap();
    assert_eq!(found["properties"]["spec"]["properties"]["dummy"]["type"], "string");
    assert!(found["properties"]["spec"]["properties"]["metadata"]["allOf"][0]["$ref"].is_string());
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of different groups [Conformance]
#[tokio::test]
async fn works_for_multiple_crds_of_different_groups() {
    let world = World::new().await;
    for (plural, kind) in [("foos", "Foo"), ("bars", "Bar")] {
        establish(&world, &definition(plural, kind, &[schema()])).await;
    }
    for (plural, kind) in [("foos", "Foo"), ("bars", "Bar")] {
        assert!(published(&world, plural, "v1", kind).await.is_some());
    }
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of same group but different versions [Conformance]
#[tokio::test]
async fn works_for_multiple_crds_of_same_group_but_different_versions() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[schema(), open()])).await;
    assert_eq!(published(&world, "foos", "v1", "Foo").await.unwrap()["description"], "Foo CRD for Testing");
    assert_eq!(published(&world, "foos", "v2", "Foo").await.unwrap().get("description"), None);
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of same group and version but different kinds [Conformance]
#[tokio::test]
async fn works_for_multiple_crds_of_same_group_and_version_but_different_kinds() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[schema()])).await;
    let mut second = definition("foos", "Bar", &[schema()]);
    second["metadata"]["name"] = "bars.foos.example.com".into();
    second["spec"]["names"] =
        json!({"plural": "bars", "singular": "bar", "kind": "Bar", "listKind": "BarList"});
    establish(&world, &second).await;
    for kind in ["Foo", "Bar"] {
        assert!(published(&world, "foos", "v1", kind).await.is_some(), "{kind}");
    }
}

async fn change(world: &World, patch: Value) {
    let path = format!("{DEFINITIONS}/foos.foos.example.com");
    let patched = world.admin.patch(&path, "json-patch+json", &patch).await.is(200);
    seen(world, DEFINITIONS, &patched).await;
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] updates the published spec when one version gets renamed [Conformance]
#[tokio::test]
async fn updates_the_published_spec_when_one_version_gets_renamed() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[schema(), schema()])).await;
    assert!(published(&world, "foos", "v2", "Foo").await.is_some());
    change(&world, json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}])).await;
    assert!(published(&world, "foos", "v4", "Foo").await.is_some());
    assert!(published(&world, "foos", "v2", "Foo").await.is_none());
    assert!(published(&world, "foos", "v1", "Foo").await.is_some(), "the other stays");
}

/// Conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] removes definition from spec when one version gets changed to not be served [Conformance]
#[tokio::test]
async fn removes_definition_from_spec_when_one_version_gets_changed_to_not_be_served() {
    let world = World::new().await;
    establish(&world, &definition("foos", "Foo", &[schema(), schema()])).await;
    change(&world, json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}])).await;
    assert!(published(&world, "foos", "v2", "Foo").await.is_none());
    assert!(published(&world, "foos", "v1", "Foo").await.is_some(), "the other stays");
}
