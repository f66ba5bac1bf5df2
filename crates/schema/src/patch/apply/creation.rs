//! What whoever creates an object owns of it: its `fieldsV1`, made in one walk.
//! Creation is the most frequent write of the largest objects, and [`Difference`](super::shape::Difference) between
//! nothing and the object, which says the same, makes sets only to be written down. Reads the object and the table.
//! Not here: custom resources, and lists in which two elements cannot be told apart; those take the general way.
//! Upstream: the same as for `shape`.

use serde_json::{Map, Value};

use super::UNOWNED_METADATA;
use super::presence;
use super::shape::{MANAGED_FIELDS, OBJECT_META, Shape, shape_of};
use crate::Schema;
use crate::table::{Definition, Field};

/// What is owned of a value, seen from where it stands.
#[derive(Default)]
struct Owned {
    /// Whether the value itself is.
    member: bool,
    /// By element in wire form, what is owned of the values below.
    below: Map<String, Value>,
}

impl Owned {
    fn put(&mut self, name: &str, below: Owned) {
        if let Some(fields) = below.into_json() {
            self.below.insert(field(name), fields);
        }
    }

    /// Nothing where nothing is owned.
    fn into_json(mut self) -> Option<Value> {
        if self.member && !self.below.is_empty() {
            self.below.insert(".".to_owned(), Value::Object(Map::new()));
        }
        (self.member || !self.below.is_empty()).then_some(Value::Object(self.below))
    }
}

/// The `fieldsV1` of who creates `object`, without the fields in `ignored` (the paths of which are one name long); empty if
/// nothing is owned, and `None` if this must be found out in the general way.
pub(super) fn fields(object: &Value, schema: &Schema, ignored: &[&[&str]]) -> Option<Map<String, Value>> {
    let Shape::Struct(definition) = Shape::of(schema) else { return None };
    if ignored.iter().any(|path| path.len() != 1) {
        return None;
    }
    let mut whole = Owned::default();
    for member in members(object.as_object()?, definition) {
        if matches!(member.name, "apiVersion" | "kind") || ignored.contains(&&[member.name][..]) {
            continue;
        }
        // A new object is compared with one of which Go holds what no field can be without.
        let mut owned = match member.absent {
            Some(absent) => changed(absent, member.value, member.shape)?,
            None => added(member.value, member.shape)?,
        };
        if member.name == "metadata" {
            owned.member = false;
            for name in UNOWNED_METADATA {
                let below = owned.below.remove(&field(name));
                if below.is_some_and(|below| below.as_object().is_some_and(|below| !below.is_empty())) {
                    return None;
                }
            }
        }
        whole.put(member.name, owned);
    }
    Some(whole.below)
}

fn field(name: &str) -> String {
    let mut text = String::with_capacity(2 + name.len());
    text.push_str("f:");
    text.push_str(name);
    text
}

/// A member of a struct as Go holds it.
struct Member<'a> {
    name: &'a str,
    value: &'a Value,
    shape: Shape<'a>,
    /// What Go would hold if the member were absent.
    absent: Option<&'a Value>,
}

/// The members that are there, and those that Go holds besides.
fn members<'a>(
    object: &'a Map<String, Value>,
    definition: &'a Definition,
) -> impl Iterator<Item = Member<'a>> {
    let is_metadata = definition.name == OBJECT_META;
    let present = object.iter().filter(move |(name, _)| !is_metadata || *name != MANAGED_FIELDS);
    let present = present.map(|(name, value)| {
        let field = definition.field(name);
        Member { name, value, shape: shape_of(field), absent: field.and_then(Field::when_absent) }
    });
    let held = definition.held().filter(|(field, _)| !object.contains_key(field.name));
    let held = held.map(|(field, absent)| Member {
        name: field.name,
        value: absent,
        shape: shape_of(Some(field)),
        absent: Some(absent),
    });
    present.chain(held)
}

/// Of a value where there was none.
fn added(value: &Value, shape: Shape<'_>) -> Option<Owned> {
    let mut owned = Owned { member: true, below: Map::new() };
    match (shape, shape.object(Some(value)), shape.list(Some(value))) {
        (Shape::Struct(definition), Some(object), _) => {
            for member in members(object, definition) {
                owned.put(member.name, added(member.value, member.shape)?);
            }
        }
        (_, Some(object), _) => {
            for (name, value) in object {
                owned.put(name, added(value, shape.member(name).1)?);
            }
        }
        (_, None, Some(list)) => owned.below = elements(list, shape)?,
        (_, None, None) => {}
    }
    Some(owned)
}

fn elements(list: &[Value], shape: Shape<'_>) -> Option<Map<String, Value>> {
    let mut below = Map::new();
    for (identity, value) in shape.identified_in_go(list) {
        let fields = added(value, shape.element())?.into_json()?;
        if below.insert(identity.into_text(), fields).is_some() {
            return None;
        }
    }
    Some(below)
}

/// Of a value where Go held `before`.
fn changed(before: &Value, after: &Value, shape: Shape<'_>) -> Option<Owned> {
    if before == after {
        return Some(Owned::default());
    }
    let both = |is: fn(&Value) -> bool| [before, after].into_iter().all(|value| value.is_null() || is(value));
    let never_empty = matches!(shape, Shape::Struct(definition) if definition.is_never_empty());
    let mut maps = [before, after].into_iter().filter_map(|side| shape.object(Some(side)));
    if both(Value::is_object) && maps.any(|map| never_empty || !map.is_empty()) {
        let (Shape::Struct(definition), Some(new)) = (shape, shape.object(Some(after))) else { return None };
        let old = shape.object(Some(before));
        let mut owned = Owned::default();
        for member in members(new, definition) {
            let before = old.and_then(|old| old.get(member.name).or(member.absent));
            let below = match before {
                Some(before) => changed(before, member.value, member.shape)?,
                None => added(member.value, member.shape)?,
            };
            owned.put(member.name, below);
        }
        return Some(owned);
    }
    let mut lists = [before, after].into_iter().filter_map(|side| shape.list(Some(side)));
    if both(Value::is_array) && lists.any(|list| !list.is_empty()) {
        if shape.list(Some(before)).is_some_and(|before| !before.is_empty()) {
            return None;
        }
        return Some(Owned { member: false, below: elements(shape.list(Some(after))?, shape)? });
    }
    let same = matches!(shape, Shape::Leaf(Some(r#type)) if presence::same(before, after, r#type));
    Some(Owned { member: !same, below: Map::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::shape::Difference;
    use super::super::{nothing, unstripped};
    use super::*;
    use crate::table::table;

    /// As [`super::super::track`] finds it without this module.
    fn generally(object: &Value, schema: &Schema, ignored: &[&[&str]]) -> Value {
        let mut difference = Difference::between(&nothing(object, schema), object, Shape::of(schema));
        difference.forget(ignored);
        unstripped(difference.into_parts().0, ignored).into_json()
    }

    #[test]
    fn both_ways_say_the_same() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "b", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": "web", "tier": ""}, "annotations": {}, "finalizers": ["x/y", "z"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "1"}]},
            "spec": {"containers": [
                    {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}, "args": ["a"],
                        "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
                        "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
                    {"name": "d", "resources": {}}],
                "nodeSelector": {"a": "b"}, "securityContext": {}, "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {"sources": []}}]},
            "status": {"phase": "Pending"}});
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod["spec"]});
        let cases = [
            ("io.k8s.api.core.v1.Pod", pod.clone()),
            ("io.k8s.api.core.v1.Pod", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})),
            ("io.k8s.api.core.v1.Pod", json!({"metadata": {"labels": {}}, "spec": {"containers": []}})),
            ("io.k8s.api.core.v1.Pod", json!({"metadata": {}, "unknown": {"a": 1}})),
            (
                "io.k8s.api.apps.v1.Deployment",
                json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "replicas": 0,
                    "strategy": {}, "template": template}}),
            ),
            (
                "io.k8s.api.core.v1.Service",
                json!({"metadata": {}, "spec": {"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}],
                    "clusterIPs": ["a", "b"]}, "status": {"loadBalancer": {}}}),
            ),
            ("io.k8s.api.core.v1.ConfigMap", json!({"metadata": {"name": "m"}, "data": {"a": "b", "c": ""}})),
            (
                "io.k8s.api.coordination.v1.Lease",
                json!({"metadata": {"name": "m"}, "spec": {"leaseTransitions": 0}}),
            ),
        ];
        for (name, object) in cases {
            let schema = Schema::built_in(name).unwrap();
            for ignored in [&[&["status"][..]][..], &[]] {
                let fields = fields(&object, &schema, ignored).map(Value::Object);
                assert_eq!(fields, Some(generally(&object, &schema, ignored)), "{object}");
            }
        }
    }

    /// Every field of every kind: with a value, with an empty one, with none.
    #[test]
    fn both_ways_say_the_same_of_every_kind() {
        let mut count = 0;
        for name in table().names() {
            let definition = table().definition(name).unwrap();
            if definition.kinds.is_empty() {
                continue;
            }
            let schema = Schema::built_in(name).unwrap();
            for filled in [true, false] {
                let object = example(definition, filled, 5);
                let Some(fields) = fields(&object, &schema, &[&["status"]]) else { continue };
                assert_eq!(
                    Value::Object(fields),
                    generally(&object, &schema, &[&["status"]]),
                    "{name}: {object}"
                );
                count += 1;
            }
        }
        assert!(count > 200, "{count}");
    }

    fn example(definition: &Definition, filled: bool, depth: usize) -> Value {
        let fields = definition.fields.iter().map(|field| (field.name, value(&field.r#type, filled, depth)));
        fields
            .filter(|(name, _)| *name != MANAGED_FIELDS)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn value(r#type: &crate::table::Type, filled: bool, depth: usize) -> Value {
        use crate::table::Type;
        match r#type {
            Type::Definition(_) if depth == 0 => json!({}),
            Type::Definition(reference) => example(table().get(*reference), filled, depth - 1),
            Type::Array(element) if filled => json!([value(element, filled, depth)]),
            Type::Array(_) => json!([]),
            Type::Map(element) if filled => json!({"k": value(element, filled, depth)}),
            Type::Map(_) => json!({}),
            Type::Int32 | Type::Int64 | Type::IntOrString => json!(i32::from(filled)),
            Type::Number => json!(if filled { 1.5 } else { 0.0 }),
            Type::Boolean => json!(filled),
            Type::Time | Type::MicroTime => json!("2026-01-01T00:00:00Z"),
            Type::Quantity => json!(if filled { "1" } else { "0" }),
            Type::Object(_) | Type::Any | Type::SchemaOr(_) => json!({"a": filled}),
            Type::String | Type::Bytes => json!(if filled { "a" } else { "" }),
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_left_to_the_general_way() {
        let schema = Schema::built_in("io.k8s.api.core.v1.Pod").unwrap();
        let twice =
            json!({"metadata": {}, "spec": {"containers": [{"name": "a"}, {"name": "a", "image": "i"}]}});
        assert!(fields(&twice, &schema, &[]).is_none());
        let once = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        assert!(fields(&once, &schema, &[&["spec", "containers"]]).is_none());
        assert!(fields(&once, &schema, &[&["status"]]).is_some());
    }
}
