//! Custom resources by their schema: pruned, defaulted, validated.

use serde_json::json;

use super::*;
use crate::{FieldValidation, Schema, decode};

fn structural(spec: Value) -> Structural {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    Structural::parse(GroupVersionKind::new("example.com", "v1", "Widget"), &schema).unwrap()
}

fn errors(spec: Value, value: Value) -> Vec<String> {
    structural(spec).validate(&json!({"spec": value})).iter().map(ToString::to_string).collect()
}

#[test]
fn unknown_fields_are_pruned() {
    let schema = Schema::from(structural(json!({
        "type": "object",
        "properties": {
            "known": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"strict": {"type": "object"}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true},
        },
    })));
    let body = json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": "w", "labels": {"a": "b"}, "what": 1},
        "extra": 1,
        "spec": {
            "known": "k", "unknown": 1,
            "list": [{"a": 1}, {"a": 2, "b": 3}],
            "map": {"x": {"a": 1, "b": 2}},
            "free": {"any": {"thing": [1]}, "strict": {"x": 1}},
            "template": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}, "spec": {}},
        },
    });
    let decoded = decode(body.to_string().as_bytes(), &schema, FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.value,
        json!({
            "apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": "w", "labels": {"a": "b"}},
            "spec": {
                "known": "k",
                "list": [{"a": 1}, {"a": 2}],
                "map": {"x": {"a": 1}},
                "free": {"any": {"thing": [1]}, "strict": {}},
                "template": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}},
            },
        })
    );
    let expected = [
        "metadata.what",
        "extra",
        "spec.free.strict.x",
        "spec.list[1].b",
        "spec.map.x.b",
        "spec.template.spec",
        "spec.unknown",
    ];
    assert_eq!(decoded.warnings, expected.map(|path| format!("unknown field \"{path}\"")));
    let status = decode(body.to_string().as_bytes(), &schema, FieldValidation::Strict).unwrap_err();
    assert!(
        status.message.starts_with(
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"metadata.what\", "
        ),
        "{}",
        status.message
    );
    let twice = br#"{"kind":"Widget","spec":{"known":"a","known":"b"}}"#;
    let decoded = decode(twice, &schema, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, [r#"duplicate field "spec.known""#]);
}

#[test]
fn defaults_fill_what_is_missing_or_wrongly_null() {
    let schema = structural(json!({
        "type": "object",
        "default": {},
        "properties": {
            "size": {"type": "integer", "default": 3},
            "nullable": {"type": "integer", "nullable": true, "default": 3},
            "plain": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"q": {"type": "integer", "default": 1}}}},
        },
    }));
    let cases = [
        (json!({}), json!({"spec": {"size": 3, "nullable": 3}})),
        (
            json!({"spec": {"size": null, "nullable": null, "plain": null, "list": [{}, {"p": "UDP"}], "map": {"a": {}}}}),
            json!({"spec": {"size": 3, "nullable": null, "list": [{"p": "TCP"}, {"p": "UDP"}], "map": {"a": {"q": 1}}}}),
        ),
        (json!({"spec": {"size": 0}}), json!({"spec": {"size": 0, "nullable": 3}})),
    ];
    for (mut value, expected) in cases {
        schema.default(&mut value);
        assert_eq!(value, expected);
    }
}

#[test]
fn wrong_values_are_explained_as_upstream_does() {
    let field = |schema: Value| json!({"type": "object", "properties": {"x": schema}});
    let cases = [
        (
            json!({"type": "integer"}),
            json!("1"),
            r#"spec.x: Invalid value: "string": spec.x in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "integer"}),
            json!(1.5),
            r#"spec.x: Invalid value: "number": spec.x in body must be of type integer: "number""#,
        ),
        (
            json!({"type": "string"}),
            json!(null),
            r#"spec.x: Invalid value: "null": spec.x in body must be of type string: "null""#,
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            r#"spec.x: Invalid value: "boolean": spec.x in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            r#"spec.x: Unsupported value: "c": supported values: "a", "b""#,
        ),
        (
            json!({"type": "integer", "maximum": 10}),
            json!(11),
            "spec.x: Invalid value: 11: spec.x in body should be less than or equal to 10",
        ),
        (
            json!({"type": "integer", "maximum": 10, "exclusiveMaximum": true}),
            json!(10),
            "spec.x: Invalid value: 10: spec.x in body should be less than 10",
        ),
        (
            json!({"type": "number", "minimum": 0.5}),
            json!(0.25),
            "spec.x: Invalid value: 0.25: spec.x in body should be greater than or equal to 0.5",
        ),
        (
            json!({"type": "integer", "multipleOf": 5}),
            json!(7),
            "spec.x: Invalid value: 7: spec.x in body should be a multiple of 5",
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            "spec.x: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            r#"spec.x: Invalid value: "a": spec.x in body should be at least 2 chars long"#,
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            r#"spec.x: Invalid value: "b": spec.x in body should match '^a+$'"#,
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("b"),
            r#"spec.x: Invalid value: "b": spec.x in body must be of type ipv4: "b""#,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 1]),
            r#"spec.x[1]: Invalid value: "integer": spec.x[1] in body must be of type string: "integer""#,
        ),
        (
            json!({"type": "array", "maxItems": 1}),
            json!([1, 2]),
            "spec.x: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "minItems": 1}),
            json!([]),
            "spec.x: Invalid value: 0: spec.x in body should have at least 1 items",
        ),
        (json!({"type": "object", "required": ["y"]}), json!({}), "spec.x.y: Required value"),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set"}),
            json!(["a", "b", "a"]),
            r#"spec.x[2]: Duplicate value: "a""#,
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object"}}),
            json!([{"k": 1, "v": 1}, {"k": 1, "v": 2}]),
            r#"spec.x[1]: Duplicate value: {"k":1}"#,
        ),
        (
            json!({"not": {"enum": ["a"]}}),
            json!("a"),
            r#"<nil>: Invalid value: "": "spec.x" must not validate the schema (not)"#,
        ),
        (
            json!({"oneOf": [{"minimum": 1}, {"minimum": 2}]}),
            json!(3),
            r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
        ),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(errors(field(schema.clone()), json!({"x": value})), [expected], "{schema}");
    }
    let any = json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(
        errors(any, json!({})),
        [
            r#"<nil>: Invalid value: "": "spec" must validate at least one schema (anyOf)"#,
            "spec.a: Required value"
        ]
    );
}

#[test]
fn right_values_pass() {
    let schema = json!({
        "type": "object", "required": ["a"],
        "properties": {
            "a": {"type": "number", "minimum": 1},
            "b": {"x-kubernetes-int-or-string": true},
            "c": {"type": "string", "nullable": true, "pattern": "x"},
            "d": {"type": "object", "additionalProperties": {"type": "boolean"}},
            "e": {"type": "integer", "enum": [1, 2]},
        },
    });
    for value in [json!({"a": 1}), json!({"a": 1.5, "b": "x", "c": null, "d": {"k": true}, "e": 2})] {
        assert_eq!(errors(schema.clone(), value), Vec::<String>::new());
    }
}

#[test]
fn schemas_that_cannot_be_read() {
    let kind = || GroupVersionKind::new("g", "v", "K");
    let error = Structural::parse(kind(), &json!({"properties": {"a": {"items": 1}}})).unwrap_err();
    assert_eq!(error.to_string(), "openAPIV3Schema.properties[a].items: must be a schema");
    let error = Structural::parse(kind(), &json!({"properties": {"a": {"pattern": "("}}})).unwrap_err();
    assert!(error.to_string().starts_with("openAPIV3Schema.properties[a].pattern: "), "{error}");
}

#[test]
fn what_was_wrong_before_stands_in_nobodys_way() {
    let kind = GroupVersionKind::new("example.com", "v1", "Widget");
    let schema = json!({"type": "object", "properties": {
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "size": {"type": "integer", "maximum": 3}}}},
        "kind": {"type": "string", "enum": ["A"]},
        "plain": {"type": "array", "items": {"type": "integer", "maximum": 3}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "by.name/x": {"type": "object", "additionalProperties": {"type": "integer", "maximum": 3}},
        "union": {"type": "object", "properties": {"type": {"type": "string"}, "n": {"type": "integer"}},
            "oneOf": [{"properties": {"type": {"enum": ["A"]}}}, {"properties": {"type": {"enum": ["B"]}}}],
            "not": {"properties": {"type": {"enum": ["C"]}}}},
        "atomic": {"type": "object", "x-kubernetes-map-type": "atomic",
            "properties": {"size": {"type": "integer", "maximum": 3}, "other": {"type": "string"}}},
    }});
    let schema = Structural::parse(kind, &schema).unwrap();
    let found = |new: Value, old: Value| -> Vec<String> {
        let wrong = schema.validate_update(&new, &old);
        wrong.iter().map(|error| error.field.to_string()).collect()
    };
    let entry = |name: &str, size: i64| json!({"name": name, "size": size});
    for (new, old, expected) in [
        // By its keys an element is known wherever it stands now.
        (json!({"map": [entry("b", 1), entry("a", 9)]}), json!({"map": [entry("a", 9)]}), vec![]),
        (json!({"map": [entry("a", 8)]}), json!({"map": [entry("a", 9)]}), vec!["map[0].size"]),
        (json!({"map": [entry("b", 9)]}), json!({"map": [entry("a", 9)]}), vec!["map[0].size"]),
        // Which of several schemas fits is judged by the whole value.
        (json!({"union": {"type": "A", "n": 2}}), json!({"union": {"type": "A", "n": 1}}), vec![]),
        // Nothing tells the elements of other lists apart.
        (json!({"plain": [9, 1]}), json!({"plain": [9]}), vec!["plain[0]"]),
        (json!({"plain": [9], "set": ["a"]}), json!({"plain": [9]}), vec![]),
        (json!({"set": ["a", "a", "b"]}), json!({"set": ["a", "a"]}), vec![]),
        (json!({"set": ["a", "a"]}), json!({"set": ["a"]}), vec!["set[1]"]),
        (json!({"by.name/x": {"a.b/c": 9, "d": 1}}), json!({"by.name/x": {"a.b/c": 9}}), vec![]),
        (json!({"atomic": {"size": 9, "other": "x"}}), json!({"atomic": {"size": 9}}), vec!["atomic.size"]),
        // What an object is, is always held against the schema.
        (json!({"kind": "B", "plain": [1]}), json!({"kind": "B"}), vec!["kind"]),
    ] {
        assert_eq!(found(new.clone(), old), expected, "{new}");
    }
}
