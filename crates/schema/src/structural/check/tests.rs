//! What is said of schemas that are not accepted, and that others are.

use serde_json::json;

use super::*;

fn found(schema: Value, status: bool) -> Vec<String> {
    let path = Path::new("s");
    check(&schema, &path, status, Tolerated::default()).iter().map(ToString::to_string).collect()
}

/// The errors of a schema in the place of a field `a`.
fn of_field(field: Value) -> Vec<String> {
    found(json!({"type": "object", "properties": {"a": field}}), false)
}

#[test]
fn good_schemas_are_accepted() {
    for field in [
        json!({"type": "string", "pattern": "^a$", "default": "a"}),
        json!({"x-kubernetes-int-or-string": true}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "default": 1}),
        json!({"x-kubernetes-int-or-string": true,
            "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 1}]}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "additionalProperties": {"type": "string"}, "default": {"x": "y"}}),
        json!({"type": "object", "additionalProperties": true, "properties": {"b": {"type": "string"}}}),
        json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "l"],
            "items": {"type": "object", "required": ["k"],
                "properties": {"k": {"type": "string"}, "l": {"type": "string", "default": "x"}}}}),
        json!({"type": "object", "properties": {"b": {"type": "object", "properties": {"c": {"type": "string"}}}},
            "anyOf": [{"required": ["b"]}, {"properties": {"b": {"required": ["c"]}}}]}),
        json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != ''"}], "default": "x"}),
    ] {
        assert_eq!(of_field(field.clone()), [""; 0], "{field}");
    }
    let root = json!({"type": "object", "description": "d", "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}},
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}}});
    assert_eq!(found(root, true), [""; 0]);
}

#[test]
fn types_are_said_once_and_outside() {
    for (field, wanted) in [
        (json!({}), "s.properties[a].type: Required value: must not be empty for specified object fields"),
        (json!({"type": "array"}), "s.properties[a].items: Required value: must be specified"),
        (
            json!({"type": "array", "items": {}}),
            "s.properties[a].items.type: Required value: must not be empty for specified array items",
        ),
        (
            json!({"type": "array", "items": [{"type": "string"}]}),
            "s.properties[a].items: Forbidden: items must be a schema object and not an array",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            "s.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true \
             without x-kubernetes-preserve-unknown-fields",
        ),
        (
            json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            "s.properties[a].type: Required value: must be object if x-kubernetes-embedded-resource is true",
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}),
            "s.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if \
             x-kubernetes-int-or-string is true",
        ),
        (
            json!({"type": "string", "pattern": "("}),
            "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error \
             parsing regexp: unclosed group",
        ),
    ] {
        assert_eq!(of_field(field), [wanted]);
    }
    for (key, value, wanted) in [
        ("type", json!("string"), "must be empty to be structural"),
        ("title", json!("t"), "must be empty to be structural"),
        ("description", json!("d"), "must be empty to be structural"),
        ("default", json!("d"), "must be undefined to be structural"),
        ("additionalProperties", json!(true), "must be undefined to be structural"),
        ("nullable", json!(true), "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", json!(true), "must be false to be structural"),
        ("x-kubernetes-int-or-string", json!(true), "must be false to be structural"),
        ("x-kubernetes-validations", json!([{"rule": "true"}]), "must be empty to be structural"),
    ] {
        for (place, at) in
            [("anyOf", "anyOf[0]"), ("allOf", "allOf[0]"), ("oneOf", "oneOf[0]"), ("not", "not")]
        {
            let inner = json!({ key: value });
            let inner = if place == "not" { inner } else { json!([inner]) };
            let wanted = format!("s.properties[a].{at}.{key}: Forbidden: {wanted}");
            assert_eq!(of_field(json!({"type": "string", place: inner})), [wanted]);
        }
    }
}

#[test]
fn the_root_is_a_resource() {
    for (root, wanted) in [
        (json!({}), "s.type: Required value: must not be empty at the root"),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "s.type: Invalid value: \"array\": must be object at the root",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "s.additionalProperties: Forbidden: must not be used at the root",
        ),
        (
            json!({"type": "object", "nullable": true}),
            "s.nullable: Forbidden: nullable cannot be true at the root",
        ),
        (
            json!({"type": "object", "properties": {"kind": {"type": "integer"}}}),
            "s.properties[kind].type: Invalid value: \"integer\": must be string",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but \
             metadata is implicitly specified",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
            "s.properties[metadata].default: Forbidden: must not be set in top-level metadata",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}),
            "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
        ),
        (
            json!({"type": "object", "allOf": [{"properties": {"metadata": {}}}], "properties": {"metadata": {"type": "object"}}}),
            "s.allOf[0].properties[metadata]: Forbidden: must not be specified in a nested context",
        ),
    ] {
        assert_eq!(found(root, false), [wanted]);
    }
    let enumerated = found(json!({"type": "object", "enum": [{}]}), true);
    assert!(enumerated[0].ends_with(
        "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength \
         Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
         XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource \
         is enabled"
    ));
}

#[test]
fn keywords_are_those_of_definitions() {
    for (field, wanted) in [
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            "uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (json!({"type": "string", "$ref": "#/x"}), "$ref: Forbidden: $ref is not supported"),
        (json!({"type": "string", "id": "x"}), "id: Forbidden: id is not supported"),
        (
            json!({"type": "object", "patternProperties": {"a": {}}}),
            "patternProperties: Forbidden: patternProperties is not supported",
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            "additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"type": "decimal"}),
            "type: Unsupported value: \"decimal\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \
             \"object\", \"string\"",
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            "x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "string", "x-kubernetes-map-type": "atomic"}),
            "type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified",
        ),
        (
            json!({"type": "object", "x-kubernetes-map-type": "loose"}),
            "x-kubernetes-map-type: Unsupported value: \"loose\": supported values: \"atomic\", \"granular\"",
        ),
    ] {
        assert_eq!(of_field(field), [format!("s.properties[a].{wanted}")]);
    }
}

#[test]
fn lists_have_keys_that_every_element_has() {
    let list = |list_type: Value, keys: Value, items: Value| {
        let mut list = json!({"type": "array", "items": items});
        for (key, value) in [("x-kubernetes-list-type", list_type), ("x-kubernetes-list-map-keys", keys)] {
            if !value.is_null() {
                list[key] = value;
            }
        }
        of_field(list)
    };
    let element = |key: Value| json!({"type": "object", "required": ["k"], "properties": {"k": key}});
    let name = || element(json!({"type": "string"}));
    for (list_type, keys, items, wanted) in [
        (
            json!("bag"),
            json!(null),
            name(),
            "x-kubernetes-list-type: Unsupported value: \"bag\": supported values: \"atomic\", \"set\", \"map\"",
        ),
        (
            json!(null),
            json!(["k"]),
            name(),
            "x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
        ),
        (
            json!("atomic"),
            json!(["k"]),
            name(),
            "x-kubernetes-list-type: Invalid value: \"atomic\": must be map if x-kubernetes-list-map-keys is non-empty",
        ),
        (
            json!("map"),
            json!(null),
            name(),
            "x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!("map"),
            json!(["k"]),
            json!({"type": "string"}),
            "items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
        ),
        (
            json!("map"),
            json!(["k", "z"]),
            name(),
            "x-kubernetes-list-map-keys: Invalid value: [\"k\",\"z\"]: entries must all be names of item properties",
        ),
        (
            json!("map"),
            json!(["k", "k"]),
            name(),
            "x-kubernetes-list-map-keys: Invalid value: [\"k\",\"k\"]: must not contain duplicate entries",
        ),
        (
            json!("map"),
            json!(["k"]),
            element(json!({"type": "object"})),
            "items.properties[k].type: Invalid value: \"object\": must be a scalar type if parent array's x-kubernetes-list-type is map",
        ),
        (
            json!("map"),
            json!(["k"]),
            element(json!({"type": "string", "nullable": true})),
            "items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
        ),
        (
            json!("map"),
            json!(["k"]),
            json!({"type": "object", "properties": {"k": {"type": "string"}}}),
            "items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have \
             a default or be a required property",
        ),
        (
            json!("set"),
            json!(null),
            json!({"type": "string", "nullable": true}),
            "items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is set",
        ),
        (
            json!("set"),
            json!(null),
            name(),
            "items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
    ] {
        assert_eq!(list(list_type, keys, items), [format!("s.properties[a].{wanted}")]);
    }
}

#[test]
fn defaults_are_values_of_their_schema() {
    for (field, wanted) in [
        (
            json!({"type": "integer", "default": "x"}),
            "s.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "integer", "minimum": 3}}, "default": {"b": 1}}),
            "s.properties[a].default.b: Invalid value: 1: b in body should be greater than or equal to 3",
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "integer"}}, "default": {"c": 1}}),
            "s.properties[a].default: Invalid value: {\"c\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "string", "default": "x", "x-kubernetes-validations": [{"rule": "self == 'y'"}]}),
            "s.properties[a].default: Invalid value: \"string\": failed rule: self == 'y'",
        ),
    ] {
        assert_eq!(of_field(field), [wanted]);
    }
}

#[test]
fn defaults_make_metadata_what_metadata_may_be() {
    let text = json!({"type": "string"});
    // A resource in the resource, whose metadata is as told.
    let resource = |metadata: Value| {
        json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"apiVersion": text, "kind": text, "metadata": metadata, "spec": {"type": "object"}}})
    };
    let labels = |label: Value| json!({"type": "object", "properties": {"labels": {"type": "object", "properties": {"?": label}}}});
    let at = "s.properties[a].properties[metadata]";
    let valid_labels = json!({"type": "object", "properties": {"labels": {"type": "object", "properties": {
        "a/b": {"type": "string", "default": "c"}}, "default": {"e": "f"}}}});
    let finalizers = json!({"type": "object", "properties": {"finalizers": {"type": "array", "items": {"type": "string", "default": "?"}}}});
    let mut whole = resource(json!({"type": "object"}));
    whole["default"] = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}});
    let mut good = whole.clone();
    good["default"]["metadata"]["name"] = "a".into();
    let mut kind = resource(json!({"type": "object"}));
    kind["properties"]["kind"]["default"] = "_".into();
    for (field, wanted) in [
        (resource(valid_labels), None),
        (good, None),
        (
            resource(labels(json!({"type": "string", "default": "v"}))),
            Some((
                format!("{at}.properties[labels].properties[?].default: Invalid value: \"v\": must result in valid metadata: "),
                "metadata.labels: Invalid value: \"?\": name part must consist of",
            )),
        ),
        (
            resource(finalizers),
            Some((
                format!("{at}.properties[finalizers].items.default: Invalid value: \"?\": must result in valid metadata: "),
                "metadata.finalizers: Invalid value: \"?\": ",
            )),
        ),
        (
            resource(json!({"type": "object", "properties": {"name": {"type": "string", "default": "a/b"}}})),
            Some((
                format!("{at}.properties[name].default: Invalid value: \"a/b\": must result in valid metadata: "),
                "metadata.name: Invalid value: \"a/b\": may not contain '/'",
            )),
        ),
        (
            kind,
            Some((
                "s.properties[a].properties[kind].default: Invalid value: \"_\": must result in valid metadata: ".to_owned(),
                "kind: Invalid value: \"_\": may have mixed case",
            )),
        ),
        (whole, Some(("s.properties[a].default.metadata.name: Invalid value: \"a/b\": ".to_owned(), "may not contain '/'"))),
    ] {
        let found = of_field(field);
        match wanted {
            None => assert_eq!(found, [""; 0]),
            Some((begin, then)) => {
                let [one] = &found[..] else { panic!("{begin}: {found:?}") };
                assert!(one.strip_prefix(&begin).is_some_and(|rest| rest.contains(then)), "{begin}{then}: {one}");
            }
        }
    }
}

#[test]
fn what_is_stored_may_stay_as_it_is() {
    let schema = |field: Value| json!({"type": "object", "properties": {"a": field}});
    for field in [
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string", "nullable": true}}),
        json!({"type": "object", "default": {"x": 1}, "properties": {"b": {"type": "string"}}}),
    ] {
        let schema = schema(field);
        let path = Path::new("s");
        assert_eq!(check(&schema, &path, false, Tolerated::default()).len(), 1);
        let tolerated = Tolerated::by([&schema].into_iter(), false);
        assert_eq!(check(&schema, &path, false, tolerated), []);
    }
    // A schema need not be structural while unknown fields are kept anyway, unless it wants what only such ones do.
    let loose = schema(json!({"description": "of any type"}));
    let path = Path::new("s");
    assert_eq!(check(&loose, &path, false, Tolerated::by([&loose].into_iter(), true)), []);
    assert_eq!(check(&loose, &path, false, Tolerated::by([&loose].into_iter(), false)).len(), 1);
    assert_eq!(violations(&loose, &path).unwrap().len(), 1);
    assert_eq!(
        violations(&json!({"type": "object", "$ref": "x"}), &path),
        Err("OpenAPIV3Schema '$ref' is not supported")
    );
}
