//! What Go's types hold though JSON leaves it out: structs held by value, and fields without `omitempty`.
//! Reads the table; gives a value with those parts added, empty. Ownership is a matter of what the typed object has, so
//! that the `strategy` of a Deployment is nobody's, but a container's `resources` belong to whoever added the container.
//! Not here: defaults, which are values of the API.
//! Upstream: the Go types of k8s.io/api; structured-merge-diff `value` (structs by reflection).

use serde_json::{Map, Value};

use crate::Schema;
use crate::table::{Definition, Field, Type, Zero, table};

/// The value as Go's type of the schema holds it. Custom resources have no such type.
pub(super) fn complete(value: &mut Value, schema: &Schema) {
    if let (Schema::BuiltIn(definition), Value::Object(object)) = (schema, value) {
        members(object, definition);
    }
}

/// Bounded by the nesting of the value, and by that of structs held by value, which do not recur.
fn members(object: &mut Map<String, Value>, definition: &Definition) {
    for field in &definition.fields {
        if let Some(value) = object.get_mut(field.name) {
            below(value, &field.r#type);
        } else if let Some(empty) = empty(field) {
            object.insert(field.name.to_owned(), empty);
        }
    }
}

fn below(value: &mut Value, r#type: &Type) {
    match (value, r#type) {
        (Value::Object(object), Type::Definition(reference)) => members(object, table().get(*reference)),
        (Value::Object(object), Type::Map(element)) => {
            object.values_mut().for_each(|value| below(value, element));
        }
        (Value::Array(list), Type::Array(element)) => {
            list.iter_mut().for_each(|value| below(value, element));
        }
        _ => {}
    }
}

/// What an absent field holds; `None` if it is absent in Go too.
fn empty(field: &Field) -> Option<Value> {
    let written = match field.zero {
        Zero::Kept => return None,
        Zero::Null => return Some(Value::Null),
        Zero::Written => true,
        Zero::Omitted => false,
    };
    match &field.r#type {
        Type::Definition(reference) => {
            let mut object = Map::new();
            members(&mut object, table().get(*reference));
            Some(object.into())
        }
        // Structs too, which write themselves.
        Type::Time | Type::MicroTime | Type::Object(_) | Type::Any => Some(Value::Null),
        Type::IntOrString => Some(0.into()),
        Type::Quantity => Some("0".into()),
        Type::String => written.then(|| "".into()),
        Type::Int32 | Type::Int64 => written.then(|| 0.into()),
        Type::Number => written.then(|| 0.0.into()),
        Type::Boolean => written.then(|| false.into()),
        Type::Bytes | Type::Array(_) | Type::Map(_) | Type::SchemaOr(_) => written.then_some(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn structs_held_by_value_are_there() {
        let schema = Schema::built_in("io.k8s.api.apps.v1.Deployment").unwrap();
        let mut value = json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}});
        complete(&mut value, &schema);
        assert_eq!(
            value,
            json!({
                "metadata": {}, "status": {},
                "spec": {
                    "selector": null, "strategy": {},
                    "template": {"metadata": {}, "spec": {"containers": [{"name": "a", "resources": {}}]}},
                },
            })
        );
    }

    #[test]
    fn every_definition_can_be_completed() {
        for name in table().names() {
            let mut value = json!({});
            complete(&mut value, &Schema::built_in(name).unwrap());
        }
    }
}
