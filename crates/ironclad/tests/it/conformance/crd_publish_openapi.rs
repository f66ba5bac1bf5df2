//! test/e2e/apimachinery/crd_publish_openapi.go: what kubectl makes of a published definition, before it asks the server
//! to do anything and when it explains. What is published is checked in crate `apiserver`, under upstream's names.

use serde_json::{Value, json};

use super::World;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

impl World {
    /// A kind of objects with this schema, once kubectl may know of it.
    fn defined(&self, plural: &str, kind: &str, schema: Value) {
        let group = format!("{plural}.example.com");
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        });
        self.create(DEFINITIONS, &definition);
        let published = format!("com.example.{plural}.v1.{kind}");
        self.until("/openapi/v2", |answer| answer.body["definitions"].get(&published).is_some());
        self.until(&format!("/openapi/v3/apis/{group}/v1"), |answer| answer.code == 200);
    }

    /// What `kubectl create` and `kubectl apply` say of an object, each after the other; the object is then removed.
    fn offered(&self, plural: &str, kind: &str, content: &Value) -> [Result<(), String>; 2] {
        let mut object = json!({
            "apiVersion": format!("{plural}.example.com/v1"), "kind": kind,
            "metadata": {"name": "offered", "namespace": "e2e"},
        });
        object.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
        let file = self.cluster.folder().join("offered.json");
        std::fs::write(&file, object.to_string()).unwrap();
        let file = file.to_str().unwrap();
        ["create", "apply"].map(|verb| {
            let output = self.cluster.try_kubectl(&[verb, "-f", file]);
            if !output.success {
                return Err(output.stderr);
            }
            self.cluster.kubectl(&["delete", "-f", file]);
            Ok(())
        })
    }

    #[track_caller]
    fn takes(&self, plural: &str, kind: &str, content: &Value) {
        assert_eq!(self.offered(plural, kind, content), [Ok(()), Ok(())], "{content}");
    }

    #[track_caller]
    fn refuses(&self, plural: &str, kind: &str, content: &Value, because: &str) {
        for said in self.offered(plural, kind, content) {
            let said = said.expect_err("it is refused");
            assert!(said.contains(because), "{content}: {said}");
        }
    }

    /// What `kubectl explain` prints, which has these texts in this order.
    #[track_caller]
    fn explains(&self, arguments: &[&str], texts: &[&str]) {
        let said = self.cluster.kubectl(&[&["explain"], arguments].concat());
        let mut rest = said.as_str();
        for text in texts {
            let Some((_, after)) = rest.split_once(text) else {
                panic!("{text:?} is missing or late in\n{said}")
            };
            rest = after;
        }
    }
}

fn schema() -> Value {
    json!({
        "type": "object", "description": "Foo CRD for Testing",
        "properties": {
            "spec": {"type": "object", "description": "Specification of Foo", "properties": {
                "bars": {"type": "array", "description": "List of Bars and their specs.", "items": {
                    "type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string", "description": "Name of Bar."},
                        "age": {"type": "string", "description": "Age of Bar."},
                        "feeling": {"type": "string", "description": "Feeling of Bar.", "enum": ["Great", "Down"]},
                    },
                }},
            }},
            "status": {"type": "object", "description": "Status of Foo"},
        },
    })
}

#[test]
fn kubectl_knows_a_kind_with_a_schema() {
    let world = World::hollow(1);
    world.defined("foos", "Foo", schema());
    let bar = |bar: Value| json!({"spec": {"bars": [bar]}});
    world.takes("foos", "Foo", &bar(json!({"name": "test-bar", "feeling": "Great"})));
    world.refuses(
        "foos",
        "Foo",
        &bar(json!({"name": "b", "feeling": "NonExistentValue"})),
        "Unsupported value",
    );
    world.refuses(
        "foos",
        "Foo",
        &bar(json!({"name": "b", "unknown": 1})),
        r#"unknown field "spec.bars[0].unknown""#,
    );
    world.refuses("foos", "Foo", &bar(json!({"age": "10"})), "spec.bars[0].name: Required value");

    world.explains(
        &["foos"],
        &[
            "KIND:       Foo",
            "DESCRIPTION:",
            "Foo CRD for Testing",
            "FIELDS:",
            "apiVersion\t<string>",
            "APIVersion defines",
            "spec\t<Object>",
            "Specification of Foo",
            "status\t<Object>",
            "Status of Foo",
        ],
    );
    world.explains(
        &["foos.metadata"],
        &["DESCRIPTION:", "Standard object's metadata", "FIELDS:", "creationTimestamp\t<string>"],
    );
    world.explains(
        &["foos.spec"],
        &[
            "DESCRIPTION:",
            "Specification of Foo",
            "FIELDS:",
            "bars\t<[]Object>",
            "List of Bars and their specs",
        ],
    );
    world.explains(
        &["foos.spec.bars"],
        &[
            "FIELD: bars <[]Object>",
            "List of Bars and their specs",
            "FIELDS:",
            "age\t<string>",
            "Age of Bar.",
            "feeling\t<string>",
            "enum: Great, Down",
            "name\t<string> -required-",
            "Name of Bar.",
        ],
    );
    world.explains(
        &["foos", "--recursive"],
        &["FIELDS:", "spec\t<Object>", "bars\t<[]Object>", "age\t<string>", "name\t<string> -required-"],
    );
    let said = world.cluster.try_kubectl(&["explain", "foos.spec.bars2"]);
    assert!(!said.success && said.stderr.contains(r#"field "bars2" does not exist"#), "{said:?}");
}

#[test]
fn kubectl_lets_pass_what_a_kind_does_not_describe() {
    let world = World::hollow(1);
    let anything = json!({"a": {"b": [1, "c"]}, "spec": {"d": true}});
    let keeps = "x-kubernetes-preserve-unknown-fields";
    world.defined("opens", "Open", json!({"type": "object", keeps: true}));
    world.takes("opens", "Open", &anything);
    world.explains(&["opens"], &["KIND:       Open", "DESCRIPTION:", "<empty>"]);

    let mut root = schema();
    root[keeps] = true.into();
    world.defined("roots", "Root", root);
    world.takes("roots", "Root", &json!({"a": {"b": [1, "c"]}, "spec": {"bars": [{"name": "b"}]}}));
    world.explains(&["roots"], &["KIND:       Root", "DESCRIPTION:", "Foo CRD for Testing"]);

    let mut embedded = schema();
    embedded["properties"]["spec"] = json!({"type": "object", "description": "Specification of Waldo", keeps: true, "properties": {"dummy": {"type": "object"}}});
    embedded["properties"]["status"] = json!({"type": "object", "description": "Status of Waldo", keeps: true, "x-kubernetes-embedded-resource": true});
    world.defined("waldos", "Waldo", embedded);
    let inner = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "inner"}, "more": 1});
    world.takes("waldos", "Waldo", &json!({"spec": {"a": 1, "dummy": {}}, "status": inner}));
    world.explains(
        &["waldos"],
        &[
            "DESCRIPTION:",
            "Foo CRD for Testing",
            "FIELDS:",
            "spec\t<Object>",
            "Specification of Waldo",
            "status\t<Object>",
            "Status of Waldo",
        ],
    );
}
