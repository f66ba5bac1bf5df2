//! test/e2e/apimachinery/field_validation.go

use http::Method;
use serde_json::{Value, json};

use super::custom_resource_definition::{definition, establish};
use crate::world::{Answer, World};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const THINGS: &str = "/apis/things.example.com/v1/namespaces/default/things";

async fn create(world: &World, path: &str, mode: &str, body: &str) -> Answer {
    let path = format!("{path}?fieldValidation={mode}");
    world.admin.ask(Method::POST, &path, &[("content-type", "application/json")], body.to_owned()).await
}

async fn apply(world: &World, path: &str, mode: &str, body: &Value) -> Answer {
    let path = format!("{path}?fieldManager=test&fieldValidation={mode}");
    let headers = [("content-type", "application/apply-patch+yaml")];
    world.admin.ask(Method::PATCH, &path, &headers, body.to_string()).await
}

#[track_caller]
fn says(answer: &Answer, code: u16, parts: &[&str]) {
    assert_eq!(answer.code, code, "{}", String::from_utf8_lossy(&answer.bytes));
    for part in parts {
        assert!(answer.message().contains(part), "{part}: {}", answer.message());
    }
}

/// Conformance: [sig-api-machinery] FieldValidation should detect unknown and duplicate fields of a typed object [Conformance]
#[tokio::test]
async fn should_detect_unknown_and_duplicate_fields_of_a_typed_object() {
    let world = World::new().await;
    let body = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "unknown1": "val1", "unknownDupe": "valDupe", "unknownDupe": "valDupe2", "paused": true, "paused": false,
        "selector": {"matchLabels": {"app": "nginx"}},
        "template": {"metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": [{
            "name": "nginx", "image": "nginx", "unknownNested": "val1", "imagePullPolicy": "Always",
            "imagePullPolicy": "Never"
        }]}}}}"#;
    let answer = create(&world, DEPLOYMENTS, "Strict", body).await;
    says(
        &answer,
        400,
        &[
            "unknown field \"spec.template.spec.containers[0].unknownNested\"",
            "duplicate field \"spec.template.spec.containers[0].imagePullPolicy\"",
            "strict decoding error: unknown field \"spec.unknown1\"",
            "unknown field \"spec.unknownDupe\"",
            "duplicate field \"spec.paused\"",
        ],
    );
}

/// Conformance: [sig-api-machinery] FieldValidation should detect unknown metadata fields of a typed object [Conformance]
#[tokio::test]
async fn should_detect_unknown_metadata_fields_of_a_typed_object() {
    let world = World::new().await;
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "unknownMeta": "foo", "labels": {"app": "nginx"}},
        "spec": {
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}, "unknownSubMeta": "x"},
                "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
            },
        },
    });
    let answer = create(&world, DEPLOYMENTS, "Strict", &body.to_string()).await;
    says(
        &answer,
        400,
        &[
            "unknown field \"metadata.unknownMeta\"",
            "unknown field \"spec.template.metadata.unknownSubMeta\"",
        ],
    );
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "knownField1": {"type": "string"},
        "ports": {
            "type": "array", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "x-kubernetes-list-type": "map",
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": {"type": "integer", "format": "int32"}, "hostIP": {"type": "string"},
                "protocol": {"type": "string"}, "name": {"type": "string"},
            }},
        },
    }}}})
}

fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "things.example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

/// Conformance: [sig-api-machinery] FieldValidation should create/apply a valid CR for CRD with validation schema [Conformance]
#[tokio::test]
async fn should_create_apply_a_valid_cr_for_crd_with_validation_schema() {
    let world = World::new().await;
    establish(&world, &definition("things", "Thing", &[schema()])).await;
    let spec =
        json!({"knownField1": "val1", "ports": [{"name": "x", "containerPort": 8080, "protocol": "TCP"}]});
    create(&world, THINGS, "Strict", &thing("a", spec.clone()).to_string()).await.is(201);
    apply(&world, &format!("{THINGS}/b"), "Strict", &thing("b", spec)).await.is(201);
}

/// Conformance: [sig-api-machinery] FieldValidation should create/apply a CR with unknown fields for CRD with no validation schema [Conformance]
#[tokio::test]
async fn should_create_apply_a_cr_with_unknown_fields_for_crd_with_no_validation_schema() {
    let world = World::new().await;
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    establish(&world, &definition("things", "Thing", &[anything])).await;
    let spec = json!({"knownField1": "val1", "unknownField": {"deep": [1]}});
    create(&world, THINGS, "Strict", &thing("a", spec.clone()).to_string()).await.is(201);
    let applied = apply(&world, &format!("{THINGS}/b"), "Strict", &thing("b", spec)).await.is(201);
    assert_eq!(applied.at("/spec/unknownField/deep/0"), 1);
}

/// Conformance: [sig-api-machinery] FieldValidation should create/apply an invalid CR with extra properties for CRD with validation schema [Conformance]
#[tokio::test]
async fn should_create_apply_an_invalid_cr_with_extra_properties_for_crd_with_validation_schema() {
    let world = World::new().await;
    establish(&world, &definition("things", "Thing", &[schema()])).await;
    let spec = json!({
        "foo": "foo1", "cronSpec": "* * * * */5",
        "ports": [{"name": "x", "containerPort": 8080, "protocol": "TCP", "unknownNested": "y"}],
    });
    let unknown = ["unknown field \"spec.foo\"", "unknown field \"spec.ports[0].unknownNested\""];
    says(&create(&world, THINGS, "Strict", &thing("a", spec.clone()).to_string()).await, 400, &unknown);
    let undeclared = [".spec.foo: field not declared in schema"];
    says(&apply(&world, &format!("{THINGS}/b"), "Strict", &thing("b", spec.clone())).await, 500, &undeclared);
    let kept = create(&world, THINGS, "Ignore", &thing("a", spec).to_string()).await.is(201);
    assert!(kept.at("/spec/foo").is_null(), "pruned");
}

/// Conformance: [sig-api-machinery] FieldValidation should detect unknown metadata fields in both the root and embedded object of a CR [Conformance]
#[tokio::test]
async fn should_detect_unknown_metadata_fields_in_both_the_root_and_embedded_object_of_a_cr() {
    let world = World::new().await;
    let mut with_template = schema();
    with_template["properties"]["spec"]["properties"]["template"] = json!({
        "type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object"},
        },
    });
    establish(&world, &definition("things", "Thing", &[with_template])).await;
    let mut body = thing(
        "a",
        json!({"template": {
            "apiVersion": "foo/v1", "kind": "Sub", "metadata": {"unknownSubMeta": "unknown-sub-meta", "name": "subobject"},
        }}),
    );
    body["metadata"]["unknownMeta"] = "unknown-meta".into();
    let answer = create(&world, THINGS, "Strict", &body.to_string()).await;
    says(
        &answer,
        400,
        &[
            "unknown field \"metadata.unknownMeta\"",
            "unknown field \"spec.template.metadata.unknownSubMeta\"",
        ],
    );
}

/// Conformance: [sig-api-machinery] FieldValidation should detect duplicates in a CR when preserving unknown fields [Conformance]
#[tokio::test]
async fn should_detect_duplicates_in_a_cr_when_preserving_unknown_fields() {
    let world = World::new().await;
    let mut open = schema();
    open["x-kubernetes-preserve-unknown-fields"] = true.into();
    open["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    establish(&world, &definition("things", "Thing", &[open])).await;
    let body = r#"{"apiVersion": "things.example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {
        "unknown": "uk1", "unknown": "uk2", "ports": [{"containerPort": 8080, "protocol": "TCP", "hostIP": "a", "hostIP": "b"}]
    }}"#;
    let answer = create(&world, THINGS, "Strict", body).await;
    says(&answer, 400, &["duplicate field \"spec.unknown\"", "duplicate field \"spec.ports[0].hostIP\""]);

    let body = "
apiVersion: things.example.com/v1
kind: Thing
metadata:
  name: a
  labels: {}
spec:
  foo: a
  foo: b
  ports: []
";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let path = |mode: &str| format!("{THINGS}/a?fieldManager=test&fieldValidation={mode}");
    let apply =
        async |mode: &str| world.admin.ask(Method::PATCH, &path(mode), &headers, body.to_owned()).await;
    let found = "line 9: key \"foo\" already set in map";
    let answer = apply("Strict").await;
    let whole = format!(
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {found}"
    );
    says(&answer, 400, &[&whole]);
    let warned = apply("Warn").await.is(201);
    assert_eq!(warned.warnings(), [found]);
    assert_eq!(warned.at("/spec/foo"), "b", "the last one counts");
    assert!(apply("Ignore").await.is(200).warnings().is_empty());
}

/// A body in YAML is read as upstream's YAML 1.1 reader does, and what it says twice is found.
#[tokio::test]
async fn yaml_bodies_are_validated_as_json_is() {
    let world = World::new().await;
    let post = async |mode: &str, name: &str, more: &str| {
        let body = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\nimmutable: no\ndata:\n  a: one\n  a: two\n{more}"
        );
        let path = format!("/api/v1/namespaces/default/configmaps?fieldValidation={mode}");
        world.admin.ask(Method::POST, &path, &[("content-type", "application/yaml")], body).await
    };
    let found = "line 7: key \"a\" already set in map";
    let strict = format!(
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  \
         {found}, unknown field \"x\""
    );
    says(&post("Strict", "a", "x: 1\n").await, 400, &[&strict]);
    let warned = post("Warn", "b", "x: 1\n").await.is(201);
    assert_eq!(warned.warnings(), [found, "unknown field \"x\""]);
    assert_eq!((warned.at("/immutable"), warned.at("/data/a")), (&json!(false), &json!("two")));
    assert!(post("Ignore", "c", "x: 1\n").await.is(201).warnings().is_empty());
    let unreadable = [
        "the object provided is unrecognized (must be of type ConfigMap): yaml: line 8: ",
        "(61706956657273696f6e3a2076310a6b696e643a20436f6e6669674d6170 ...)",
    ];
    says(&post("Strict", "d", "x: y: z\n").await, 400, &unreadable);
}
