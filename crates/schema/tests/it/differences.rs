//! A patch made of the difference between two documents makes the one into the other, and twice is once.

use proptest::prelude::*;
use schema::{Schema, patch};
use serde_json::{Map, Value, json};

/// Containers in any order, with lists that merge inside of them.
fn pod() -> impl Strategy<Value = Value> {
    let names = || Just(vec!["a", "b", "c", "d", "e"]).prop_shuffle();
    let env = (names(), 0..4_usize, any::<u8>()).prop_map(|(names, length, seed)| {
        let entries = names.into_iter().take(length);
        entries.map(|name| json!({"name": name, "value": format!("{}", seed % 3)})).collect::<Vec<_>>()
    });
    let container = (env, proptest::option::of(0..3), proptest::collection::vec(0..3, 0..3));
    let containers = (names(), proptest::collection::vec(container, 0..5)).prop_map(|(names, list)| {
        let containers = names.into_iter().zip(list).map(|(name, (env, image, args))| {
            let mut container = json!({"name": name, "env": env, "args": args});
            if let Some(image) = image {
                container["image"] = json!(format!("image-{image}"));
            }
            container
        });
        containers.collect::<Vec<_>>()
    });
    let labels = proptest::collection::btree_map("[a-c]", "[a-c]", 0..3);
    let finalizers = (names(), 0..4_usize);
    (containers, labels, finalizers).prop_map(|(containers, labels, (finalizers, length))| {
        json!({
            "metadata": {"labels": labels, "finalizers": finalizers[..length]},
            "spec": {"containers": containers},
        })
    })
}

/// The JSON merge patch from one document to the other.
fn merge_difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        match from.get(name) {
            Some(old) if old == value => {}
            Some(old) if old.is_object() => {
                patch.insert(name.clone(), merge_difference(old, value));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    patch.into()
}

/// The JSON patch from one document to the other, member by member.
fn operations(from: &Value, to: &Value, at: &str, out: &mut Vec<Value>) {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        if from != to {
            out.push(json!({"op": "test", "path": at, "value": from}));
            out.push(json!({"op": "replace", "path": at, "value": to}));
        }
        return;
    };
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        out.push(json!({"op": "remove", "path": format!("{at}/{name}")}));
    }
    for (name, value) in to {
        let at = format!("{at}/{name}");
        match from.get(name) {
            Some(old) => operations(old, value, &at, out),
            None => out.push(json!({"op": "add", "path": at, "value": value})),
        }
    }
}

/// The strategic merge patch between two lists whose elements have names, as clients make it.
fn list_difference(from: &Value, to: &Value, merging: &[&str]) -> Vec<Value> {
    let (from, to) = (from.as_array().unwrap(), to.as_array().unwrap());
    let named = |list: &[Value], name: &Value| list.iter().find(|item| item["name"] == *name).cloned();
    let mut patch: Vec<Value> = to
        .iter()
        .map(|item| match named(from, &item["name"]) {
            None => item.clone(),
            Some(old) => {
                let mut change = merge_difference(&old, item);
                for member in merging.iter().filter(|member| old[**member] != item[**member]) {
                    change[format!("$setElementOrder/{member}")] = order(&item[*member]);
                    change[*member] = list_difference(&old[*member], &item[*member], &[]).into();
                }
                change["name"] = item["name"].clone();
                change
            }
        })
        .collect();
    for gone in from.iter().filter(|item| named(to, &item["name"]).is_none()) {
        patch.push(json!({"$patch": "delete", "name": gone["name"]}));
    }
    patch
}

fn order(list: &Value) -> Value {
    list.as_array().unwrap().iter().map(|item| json!({"name": item["name"]})).collect()
}

fn strategic_difference(from: &Value, to: &Value) -> Value {
    let (old, new) = (&from["spec"]["containers"], &to["spec"]["containers"]);
    let finalizers = |value: &Value| value["metadata"]["finalizers"].as_array().unwrap().clone();
    let (had, wanted) = (finalizers(from), finalizers(to));
    let gone: Vec<&Value> = had.iter().filter(|one| !wanted.contains(one)).collect();
    json!({
        "metadata": {
            "labels": merge_difference(&from["metadata"]["labels"], &to["metadata"]["labels"]),
            "$setElementOrder/finalizers": wanted,
            "$deleteFromPrimitiveList/finalizers": gone,
            "finalizers": wanted,
        },
        "spec": {
            "$setElementOrder/containers": order(new),
            "containers": list_difference(old, new, &["env"]),
        },
    })
}

/// What the server writes nothing of: empty maps and lists.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let members = object.iter().map(|(name, value)| (name.clone(), without_empty(value)));
            let empty = |value: &Value| value == &json!({}) || value == &json!([]);
            Value::Object(members.filter(|(_, value)| !empty(value)).collect())
        }
        Value::Array(list) => list.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merge_patches_lead_from_one_to_the_other(from in pod(), to in pod()) {
        let patch = merge_difference(&from, &to);
        prop_assert_eq!(patch::merge_patch(from, &patch), Ok(to.clone()));
        prop_assert_eq!(patch::merge_patch(to.clone(), &patch), Ok(to));
    }

    #[test]
    fn json_patches_lead_from_one_to_the_other(from in pod(), to in pod()) {
        let mut patch = Vec::new();
        operations(&from, &to, "", &mut patch);
        prop_assert_eq!(patch::json_patch(from, &patch.into()), Ok(to));
    }

    #[test]
    fn strategic_patches_lead_from_one_to_the_other(from in pod(), to in pod()) {
        let schema = Schema::built_in("io.k8s.api.core.v1.Pod").unwrap();
        let patch = strategic_difference(&from, &to);
        let once = patch::strategic::apply(from, &patch, &schema).unwrap();
        prop_assert_eq!(without_empty(&once), without_empty(&to), "{}", patch);
        let twice = patch::strategic::apply(once.clone(), &patch, &schema).unwrap();
        prop_assert_eq!(without_empty(&twice), without_empty(&once), "{}", patch);
    }
}
