//! What Go's types hold though JSON leaves it out: structs held by value, and fields without `omitempty`.
//! Reads the table; gives a value with those parts added, empty. Ownership is a matter of what the typed object has, so
//! that the `strategy` of a Deployment is nobody's, but a container's `resources` belong to whoever added the container.
//! Not here: defaults, which are values of the API.
//! Upstream: the Go types of k8s.io/api; structured-merge-diff `value` (structs by reflection).

use serde_json::{Map, Value};

use crate::Schema;
use crate::table::{Definition, Type, table};

/// Structs held by value of which the published definitions only say that they may be left out. Beside these it is
/// every `metadata`, `spec` and `status`.
const BY_VALUE: [(&str, &str); 21] = [
    ("Container", "resources"),
    ("ContainerStatus", "lastState"),
    ("ContainerStatus", "state"),
    ("CronJobSpec", "jobTemplate"),
    ("DaemonSetSpec", "updateStrategy"),
    ("DeploymentSpec", "strategy"),
    ("EphemeralContainer", "resources"),
    ("Event", "deprecatedSource"),
    ("Event", "regarding"),
    ("Event", "source"),
    ("IngressStatus", "loadBalancer"),
    ("NetworkPolicySpec", "podSelector"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeStatus", "nodeInfo"),
    ("PersistentVolumeClaimSpec", "resources"),
    ("ReplicaSetSpec", "template"),
    ("ServiceStatus", "loadBalancer"),
    ("StatefulSetSpec", "updateStrategy"),
    ("ValidatingWebhook", "clientConfig"),
    ("MutatingWebhook", "clientConfig"),
];

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
        } else if let Some(empty) = empty(definition, field.name, field.required, &field.r#type) {
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
fn empty(definition: &Definition, name: &str, required: bool, r#type: &Type) -> Option<Value> {
    if let Type::Definition(reference) = r#type {
        let by_value = matches!(name, "metadata" | "spec" | "status")
            || BY_VALUE.contains(&(definition.short_name(), name));
        if by_value || required {
            let below = table().get(*reference);
            if below.atomic && !by_value {
                return Some(Value::Null);
            }
            let mut object = Map::new();
            members(&mut object, below);
            return Some(Value::Object(object));
        }
        return None;
    }
    // apiVersion and kind are required of some options and never owned.
    required.then_some(match r#type {
        Type::String => "".into(),
        Type::Int32 | Type::Int64 => 0.into(),
        Type::Boolean => false.into(),
        _ => Value::Null,
    })
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
        for (kind, field) in BY_VALUE {
            let known = table().names().filter(|name| name.rsplit('.').next() == Some(kind));
            let mut fields = known.filter_map(|name| table().definition(name)?.field(field));
            assert!(fields.next().is_some(), "{kind}.{field}");
        }
    }
}
