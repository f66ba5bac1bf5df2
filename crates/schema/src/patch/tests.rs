//! JSON and merge patches: the examples of their RFCs, and the bounds.

use serde_json::json;

use super::*;

fn patched(document: Value, patch: Value) -> Result<Value, u16> {
    json_patch(document, &patch).map_err(|status| status.code)
}

#[test]
fn json_patches() {
    let cases = [
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            Ok(json!({"baz": "qux", "foo": "bar"})),
        ),
        (
            json!({"foo": ["a", "c"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "b"}]),
            Ok(json!({"foo": ["a", "b", "c"]})),
        ),
        (
            json!({"foo": ["a"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["b"]}]),
            Ok(json!({"foo": ["a", ["b"]]})),
        ),
        (
            json!({"foo": ["a"]}),
            json!([{"op": "add", "path": "/foo/1", "value": 1}]),
            Ok(json!({"foo": ["a", 1]})),
        ),
        (json!({"foo": ["a"]}), json!([{"op": "add", "path": "/foo/2", "value": 1}]), Err(422)),
        (json!({"foo": 1}), json!([{"op": "add", "path": "/a/b", "value": 1}]), Err(422)),
        (json!({"foo": 1}), json!([{"op": "add", "path": "/foo", "value": null}]), Ok(json!({"foo": null}))),
        (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), Ok(json!({"b": 2}))),
        (json!({"a": 1}), json!([{"op": "remove", "path": "/b"}]), Err(422)),
        (json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/-1"}]), Ok(json!({"a": [1, 2]}))),
        (json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/3"}]), Err(422)),
        (
            json!({"a": 1}),
            json!([{"op": "replace", "path": "/a", "value": {"b": 1}}]),
            Ok(json!({"a": {"b": 1}})),
        ),
        (json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 1}]), Err(422)),
        (
            json!({"a": {"x": 1}, "b": {}}),
            json!([{"op": "move", "from": "/a/x", "path": "/b/y"}]),
            Ok(json!({"a": {}, "b": {"y": 1}})),
        ),
        (
            json!({"a": [1, 2]}),
            json!([{"op": "move", "from": "/a/0", "path": "/a/1"}]),
            Ok(json!({"a": [2, 1]})),
        ),
        (
            json!({"a": {"x": 1}}),
            json!([{"op": "copy", "from": "/a", "path": "/b"}]),
            Ok(json!({"a": {"x": 1}, "b": {"x": 1}})),
        ),
        (json!({"a": 1}), json!([{"op": "copy", "from": "/x", "path": "/b"}]), Err(422)),
        (
            json!({"a": {"b": [1]}}),
            json!([{"op": "test", "path": "/a", "value": {"b": [1]}}]),
            Ok(json!({"a": {"b": [1]}})),
        ),
        (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), Err(422)),
        (json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), Ok(json!({"a": 1}))),
        (
            json!({"a/b": 1, "m~n": 2}),
            json!([{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}]),
            Ok(json!({})),
        ),
        (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": {"b": 1}}]), Ok(json!({"b": 1}))),
        (json!({"a": 1}), json!([{"op": "merge", "path": "/a"}]), Err(422)),
        (json!({"a": 1}), json!([{"op": "remove", "path": "a"}]), Err(422)),
        (json!({"a": 1}), json!([{"op": "remove"}]), Err(422)),
        (json!({"a": 1}), json!({"op": "remove"}), Err(400)),
        // A failing operation leaves nothing of those before it.
        (
            json!({"a": 1}),
            json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/a", "value": 1}]),
            Err(422),
        ),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(patched(document, patch.clone()), expected, "{patch}");
    }
}

#[test]
fn json_patches_are_bounded() {
    let many: Vec<Value> =
        (0..=MAX_OPERATIONS).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
    let status = json_patch(json!({"a": 1}), &Value::Array(many)).unwrap_err();
    assert_eq!(status.code, 413);
    assert!(status.message.contains("The allowed maximum operations in a JSON patch is 10000, got 10001"));

    let copies: Vec<Value> =
        (0..100).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")})).collect();
    assert_eq!(patched(json!({"a": {"text": "x".repeat(1000)}}), Value::Array(copies)), Err(422));

    let nests: Vec<Value> =
        (1..200).map(|n| json!({"op": "add", "path": "/a".repeat(n), "value": {}})).collect();
    assert_eq!(patched(json!({}), Value::Array(nests)), Err(422));
}

#[test]
fn merge_patches() {
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({"a": "text"}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}})),
        (json!({"a": [null]}), json!({"a": [null, 1]}), json!({"a": [null, 1]})),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(merge_patch(document, &patch), Ok(expected), "{patch}");
    }
    assert_eq!(merge_patch(json!({}), &json!([1])).unwrap_err().code, 400);
}

#[test]
fn bodies_are_parsed_strictly() {
    let parsed = parse(br#"{"a":1,"b":{"c":1,"c":2},"a":3}"#, FieldValidation::Warn).unwrap();
    assert_eq!(parsed.0, json!({"a": 3, "b": {"c": 2}}));
    assert_eq!(parsed.1, [r#"duplicate field "b.c""#, r#"duplicate field "a""#]);
    let parsed = parse(br#"[{"op":"a","op":"b"}]"#, FieldValidation::Warn).unwrap();
    assert_eq!(parsed.1, [r#"json patch duplicate field "[0].op""#]);
    let status = parse(br#"{"a":1,"a":1}"#, FieldValidation::Strict).unwrap_err();
    assert_eq!(status.code, 422);
    let status = parse(b"{", FieldValidation::Ignore).unwrap_err();
    assert_eq!((status.code, &*status.message), (400, "error decoding patch: unexpected end of JSON input"));
}

#[test]
fn patched_documents_are_checked() {
    let schema = Schema::built_in("io.k8s.api.core.v1.ConfigMap").unwrap();
    let status = decode(&json!({"dat": {}}), &schema, FieldValidation::Strict).unwrap_err();
    assert_eq!(status.code, 422);
    assert!(
        status
            .message
            .contains(r#"patch: Invalid value: "{\"dat\":{}}": strict decoding error: unknown field "dat""#),
        "{}",
        status.message
    );
    let status = decode(&json!({"data": {"a": 1}}), &schema, FieldValidation::Ignore).unwrap_err();
    assert!(
        status
            .message
            .contains("json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
        "{}",
        status.message
    );
    let decoded = decode(&json!({"data": {"a": "1"}, "x": 1}), &schema, FieldValidation::Warn).unwrap();
    assert_eq!(
        (decoded.value, decoded.warnings),
        (json!({"data": {"a": "1"}}), vec![r#"unknown field "x""#.to_owned()])
    );
}

#[test]
fn what_a_strategic_patch_spoils_is_shown_as_the_patch_alone() {
    let secret = Schema::built_in("io.k8s.api.core.v1.Secret").unwrap();
    let patch = json!({"metadata": {"finalizers": {"a": 1}}, "x": [null, "b", true, {"c": 1.5}]});
    let patched = json!({"metadata": {"finalizers": {"a": 1}}, "data": {"password": "aGlkZGVu"}});
    for mode in [FieldValidation::Ignore, FieldValidation::Strict] {
        let refused = decode_strategic(&patched, &patch, &secret, mode).unwrap_err();
        assert_eq!(refused.code, 422);
        let shown = r#" "" is invalid: patch: Invalid value: "map[metadata:map[finalizers:map[a:1]] x:[<nil> b true map[c:1.5]]]": "#;
        assert!(refused.message.starts_with(shown), "{refused}");
        assert!(!refused.message.contains("aGlkZGVu"), "{refused}");
    }
    // The other patches show what they leave, as upstream.
    let refused = decode(&patched, &secret, FieldValidation::Ignore).unwrap_err();
    assert!(refused.message.contains("aGlkZGVu"), "{refused}");
}
