//! What Go's types hold though JSON leaves it out: structs held by value, and fields without `omitempty`.
//! Reads the table; tells what a struct holds where JSON has nothing. Ownership is a matter of what the typed object has,
//! so that the `strategy` of a Deployment is nobody's, but a container's `resources` belong to whoever added the container.
//! Not here: defaults, which are values of the API.
//! Upstream: the Go types of k8s.io/api; structured-merge-diff `value` (structs by reflection).

use serde_json::{Map, Value};

use crate::table::{Definition, Field, Type, Zero, table};

impl Field {
    /// What Go's type holds when the field is absent; `None` if it holds nothing.
    pub(super) fn when_absent(&self) -> Option<&Value> {
        self.absent.get_or_init(|| empty(self).map(Box::new)).as_deref()
    }
}

impl Definition {
    /// The fields of which Go holds something even where they are absent, and what.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Field, &Value)> {
        let held = self.held.get_or_init(|| {
            let fields = self.fields.iter().enumerate();
            fields.filter(|(_, field)| field.when_absent().is_some()).map(|(index, _)| index).collect()
        });
        held.iter().filter_map(|index| {
            let field = &self.fields[*index];
            Some((field, field.when_absent()?))
        })
    }

    /// Whether an object with nothing in it holds something in Go.
    pub(super) fn is_never_empty(&self) -> bool {
        self.held().next().is_some()
    }
}

/// Whether two values that JSON tells apart are the same in Go.
pub(super) fn same(one: &Value, other: &Value, r#type: &Type) -> bool {
    let complete = |value: &Value| {
        let mut value = value.clone();
        below(&mut value, r#type);
        value
    };
    holds_structs(r#type) && complete(one) == complete(other)
}

fn holds_structs(r#type: &Type) -> bool {
    match r#type {
        Type::Definition(_) => true,
        Type::Array(element) | Type::Map(element) => holds_structs(element),
        _ => false,
    }
}

/// Adds what is not there. Bounded by the nesting of the value, and by that of structs held by value, which do not recur.
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

    use super::super::shape::{Difference, Shape};
    use super::*;

    #[test]
    fn structs_held_by_value_are_there() {
        let deployment = table().definition("io.k8s.api.apps.v1.Deployment").unwrap();
        let mut value = json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}});
        members(value.as_object_mut().unwrap(), deployment);
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
        assert!(deployment.is_never_empty());
        assert_eq!(deployment.field("status").unwrap().when_absent(), Some(&json!({})));
        assert_eq!(deployment.field("kind").unwrap().when_absent(), None);
    }

    #[test]
    fn what_json_leaves_out_makes_no_difference() {
        let template =
            table().definition("io.k8s.api.core.v1.PodTemplate").unwrap().field("template").unwrap();
        let container = |container: Value| json!({"metadata": {}, "spec": {"containers": [container]}});
        let (bare, full) =
            (container(json!({"name": "a"})), container(json!({"name": "a", "resources": {}})));
        assert!(same(&bare, &full, &template.r#type));
        assert!(!same(&bare, &container(json!({"name": "b"})), &template.r#type));
        assert!(!same(&json!("a"), &json!("b"), &Type::String));
    }

    /// A value of the type; of its parts some are there, as the numbers fall.
    fn sample(r#type: &Type, numbers: &mut impl Iterator<Item = u64>, depth: usize) -> Value {
        let mut below = |bound| numbers.next().unwrap_or_default() % bound;
        match r#type {
            Type::Array(element) => (0..below(3)).map(|_| sample(element, numbers, depth)).collect(),
            Type::Map(element) => {
                let keys = ["a", "b"].into_iter().take(below(3) as usize);
                keys.map(|key| (key.to_owned(), sample(element, numbers, depth))).collect()
            }
            Type::Definition(_) if depth == 0 => json!({}),
            Type::Definition(reference) => {
                let fields = &table().get(*reference).fields;
                let wanted = fields.len() as u64 / 2;
                let mut object = Map::new();
                for field in fields {
                    if numbers.next().unwrap_or_default() % (wanted + 2) < 2 {
                        object.insert(field.name.to_owned(), sample(&field.r#type, numbers, depth - 1));
                    }
                }
                object.into()
            }
            Type::Int32 | Type::Int64 | Type::IntOrString | Type::Number => below(2).into(),
            Type::Boolean => (below(2) == 1).into(),
            _ => below(2).to_string().into(),
        }
    }

    #[test]
    fn what_is_absent_counts_as_what_go_holds() {
        let mut numbers = std::iter::successors(Some(7_u64), |n| {
            Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        })
        .map(|number| number >> 33);
        for name in table().names() {
            let definition = table().definition(name).unwrap();
            let r#type = Type::Definition(table().reference(name).unwrap());
            for _ in 0..5 {
                let [old, new] = [(); 2].map(|()| sample(&r#type, &mut numbers, 5));
                let complete = |value: &Value| {
                    let mut value = value.clone();
                    below(&mut value, &r#type);
                    value
                };
                let found = Difference::between(&old, &new, Shape::Struct(definition));
                let expected =
                    Difference::between(&complete(&old), &complete(&new), Shape::Struct(definition));
                assert_eq!(found, expected, "{name}: {old} {new}");
            }
        }
    }
}
