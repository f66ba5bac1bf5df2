//! Random documents, patches and bytes against the decoders and patches.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use schema::patch::apply::Writer;
use schema::{FieldValidation, Schema, decode, decode_value, patch, yaml_to_json};
use serde_json::{Map, Value, json};

/// Names that mean something to some schema or patch, so that random documents reach deep.
const NAMES: [&str; 28] = [
    "spec",
    "metadata",
    "name",
    "labels",
    "finalizers",
    "template",
    "containers",
    "ports",
    "containerPort",
    "env",
    "value",
    "image",
    "replicas",
    "selector",
    "matchLabels",
    "resources",
    "limits",
    "cpu",
    "creationTimestamp",
    "strategy",
    "type",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$setElementOrder/finalizers",
    "$deleteFromPrimitiveList/finalizers",
    "op",
    "path",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => proptest::sample::select(&NAMES[..]).prop_map(String::from), 1 => "[a-z~/]{0,3}"]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        proptest::sample::select(
            &["replace", "delete", "merge", "a", "b", "100m", "1Gi", "2024-01-01T00:00:00Z", "/spec"][..]
        )
        .prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ]
}

fn document() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map(name(), inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A document of the shape that workloads have, with random parts.
fn workload() -> impl Strategy<Value = Value> {
    let container = (proptest::sample::select(&["a", "b", "c"][..]), document(), document())
        .prop_map(|(name, env, ports)| json!({"name": name, "env": env, "ports": ports, "$patch": null}));
    (vec(container, 0..4), document(), document()).prop_map(|(containers, spec, metadata)| {
        json!({"metadata": metadata, "spec": {"template": {"spec": {"containers": containers, "volumes": spec}}}})
    })
}

/// A configuration that can be applied: parts of a deployment, with lists of every kind.
fn configuration() -> impl Strategy<Value = Value> {
    let name = || proptest::sample::select(&["a", "b", "c"][..]);
    let env = btree_map(name(), proptest::option::of(name()), 0..3).prop_map(|env| {
        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()
    });
    let containers = btree_map(name(), (proptest::option::of(name()), env, vec(name(), 0..3)), 0..4)
        .prop_map(|list| {
            list.into_iter()
            .map(|(name, (image, env, args))| json!({"name": name, "image": image, "env": env, "args": args}))
            .collect::<Vec<_>>()
        });
    let labels = || btree_map(name(), name(), 0..3);
    let finalizers = proptest::collection::btree_set(name(), 0..3);
    (proptest::option::of(0..3), containers, labels(), labels(), finalizers).prop_map(
        |(replicas, containers, labels, node_selector, finalizers)| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"uid": "u", "labels": labels, "finalizers": finalizers},
                "spec": {"replicas": replicas, "template": {"spec": {
                    "containers": containers, "nodeSelector": node_selector,
                }}},
            })
        },
    )
}

/// Something like the schema of a CustomResourceDefinition.
fn structural_schema() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(
        &["object", "array", "string", "integer", "set", "map", "atomic", "a", "b", "metadata", "("][..],
    )
    .prop_map(Value::from);
    let leaf = prop_oneof![4 => word, 1 => any::<bool>().prop_map(Value::from), 1 => scalar()];
    let keyword = proptest::sample::select(
        &[
            "type",
            "properties",
            "items",
            "additionalProperties",
            "default",
            "nullable",
            "pattern",
            "required",
            "allOf",
            "anyOf",
            "not",
            "enum",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-map-type",
            "x-kubernetes-int-or-string",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-preserve-unknown-fields",
            "a",
            "b",
            "metadata",
        ][..],
    )
    .prop_map(String::from);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            1 => vec(inner.clone(), 0..3).prop_map(Value::Array),
            4 => btree_map(keyword.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn operations() -> impl Strategy<Value = Value> {
    let operation = (
        proptest::sample::select(&["add", "remove", "replace", "move", "copy", "test", "x"][..]),
        "(/(spec|metadata|0|1|-|-1|template)){0,4}",
        "(/(spec|metadata|0|1|template)){0,4}",
        document(),
    )
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}));
    vec(operation, 0..8).prop_map(Value::Array)
}

fn deployment() -> Schema {
    Schema::built_in("io.k8s.api.apps.v1.Deployment").expect("the table has deployments")
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(has_null),
        Value::Object(object) => object.values().any(has_null),
        _ => false,
    }
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in vec(any::<u8>(), 0..256)) {
        for mode in [FieldValidation::Ignore, FieldValidation::Strict] {
            if let Err(status) = decode(&bytes, &deployment(), mode) {
                prop_assert_eq!(status.code, 400);
            }
        }
        let _ = patch::parse(&bytes, FieldValidation::Warn);
        let _ = yaml_to_json(&bytes);
    }

    #[test]
    fn truncated_json_is_refused(value in workload(), cut in any::<prop::sample::Index>()) {
        let text = value.to_string();
        let cut = cut.index(text.len());
        prop_assert!(decode(&text.as_bytes()[..cut], &deployment(), FieldValidation::Ignore).is_err());
    }

    #[test]
    fn what_is_decoded_is_canonical(value in prop_oneof![document(), workload()]) {
        if let Ok(decoded) = decode_value(&value, &deployment(), FieldValidation::Ignore) {
            prop_assert!(!has_null(&decoded.value), "{}", decoded.value);
            let again = decode_value(&decoded.value, &deployment(), FieldValidation::Strict);
            prop_assert_eq!(again.map(|again| again.value), Ok(decoded.value));
        }
    }

    #[test]
    fn modes_differ_only_in_what_they_say(value in workload()) {
        let ignored = decode_value(&value, &deployment(), FieldValidation::Ignore);
        let warned = decode_value(&value, &deployment(), FieldValidation::Warn);
        let strict = decode_value(&value, &deployment(), FieldValidation::Strict);
        match (ignored, warned) {
            (Ok(ignored), Ok(warned)) => {
                prop_assert_eq!(ignored.value, warned.value);
                prop_assert_eq!(strict.is_ok(), warned.warnings.is_empty());
            }
            (Err(ignored), Err(warned)) => prop_assert_eq!(ignored.message, warned.message),
            (ignored, warned) => prop_assert!(false, "{ignored:?} {warned:?}"),
        }
    }

    #[test]
    fn merge_patches_can_be_repeated(value in document(), patch in document()) {
        if let Ok(once) = patch::merge_patch(value, &patch) {
            prop_assert_eq!(patch::merge_patch(once.clone(), &patch), Ok(once));
        }
    }

    #[test]
    fn an_empty_strategic_patch_changes_nothing(value in workload()) {
        prop_assert_eq!(patch::strategic::apply(value.clone(), &json!({}), &deployment()), Ok(value));
    }

    #[test]
    fn strategic_patches_never_panic_and_do_not_grow_deeper(value in workload(), patch in workload()) {
        if let Ok(patched) = patch::strategic::apply(value.clone(), &patch, &deployment()) {
            prop_assert!(depth(&patched) <= depth(&value).max(depth(&patch)));
        }
    }

    #[test]
    fn json_patches_never_panic_and_stay_bounded(value in workload(), patch in operations()) {
        if let Ok(patched) = patch::json_patch(value, &patch) {
            prop_assert!(depth(&patched) <= schema::json::MAX_KEPT_DEPTH);
        }
    }

    #[test]
    fn applying_twice_is_applying_once(first in configuration(), second in configuration()) {
        let schema = deployment();
        let writer = |manager| Writer { manager, subresource: "", ignored: &[&["status"]],
            now: "2024-01-01T00:00:00Z", versions: &patch::apply::Single };
        let decoded = |value: &Value| decode_value(value, &schema, FieldValidation::Strict).map(|decoded| decoded.value);
        let (first, second) = (decoded(&first).unwrap(), decoded(&second).unwrap());
        let new = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"uid": "u"}});
        let live = patch::apply::apply(&new, &first, &schema, &writer("one"), false).unwrap();
        let again = patch::apply::apply(&live, &first, &schema, &writer("one"), false);
        prop_assert_eq!(again, Ok(live.clone()));
        // A second manager by force holds all it applies, and is then in no conflict.
        let forced = patch::apply::apply(&live, &second, &schema, &writer("two"), true).unwrap();
        let again = patch::apply::apply(&forced, &second, &schema, &writer("two"), false);
        prop_assert_eq!(again, Ok(forced.clone()));
        // Alone, changing from one configuration to the other leaves just the other.
        let changed = patch::apply::apply(&live, &second, &schema, &writer("one"), false).unwrap();
        let bare = decoded(&changed).unwrap();
        prop_assert_eq!(&bare["spec"]["template"]["spec"]["nodeSelector"], &second["spec"]["template"]["spec"]["nodeSelector"]);
        prop_assert_eq!(&bare["spec"]["replicas"], &second["spec"]["replicas"]);
        prop_assert_eq!(&bare["metadata"]["labels"], &second["metadata"]["labels"]);
    }

    #[test]
    fn schemas_are_refused_or_can_be_served(mut schema in structural_schema(), value in document()) {
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("type".into(), "object".into());
        }
        let path = api::field::Path::new("schema");
        let errors = schema::structural::check(&schema, &path, false, Default::default());
        let kind = api::GroupVersionKind::new("example.com", "v1", "Thing");
        if errors.is_empty() && schema.is_object() {
            let structural = schema::Structural::parse(kind, &schema);
            prop_assert!(structural.is_ok(), "{schema} {structural:?}");
            let structural = structural.unwrap();
            let mut value = value;
            structural.default(&mut value);
            structural.validate(&value);
        }
        // What is stored may stay: its own schema is the worst that a definition can be changed to.
        let tolerated = schema::structural::Tolerated::by([&schema].into_iter(), true);
        schema::structural::check(&schema, &path, true, tolerated);
    }
}
