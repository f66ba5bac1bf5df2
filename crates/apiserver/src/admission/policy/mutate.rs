//! Evaluates the mutations of a policy over one object: apply configurations and JSON patches.
//! Pure, like `evaluate`.
//! Upstream: apiserver `pkg/admission/plugin/policy/mutating/patch`.

use schema::Schema;
use schema::cel::authorizer::Check;
use schema::cel::value::List;
use schema::cel::{Map, REQUEST_BUDGET, Value};
use serde_json::{Value as Json, json};

use super::compile::{Mutation, Policy};
use super::evaluate::{Lazy, value};
use crate::admission::dynamic::expressions::{Data, Decided, to_json};

/// The object after one mutation; the inner error is in upstream's words.
pub(super) fn mutated(
    policy: &Policy,
    mutation: &Mutation,
    data: &Data,
    known: &Decided,
    schema: Option<&Schema>,
) -> Result<Result<Json, String>, Box<Check>> {
    let lazy = Lazy::new(policy, data, known);
    let mut budget = REQUEST_BUDGET;
    let found = match value(&lazy, &mutation.expression, &mutation.program, &mut budget)? {
        Ok(found) => found,
        Err(message) => return Ok(Err(message)),
    };
    Ok(if mutation.applies { applied(&found, &data.object, schema) } else { patched(&found, &data.object) })
}

/// The types inside an object must be named by their place in it: `Object.spec` in the field `spec`.
fn check_names(value: &Value<'_>, path: &str) -> Result<(), String> {
    match value {
        Value::Map(Map::Struct(object)) => {
            let (name, fields) = &**object;
            if name != path {
                return Err(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            fields.iter().try_for_each(|(field, value)| check_names(value, &format!("{path}.{field}")))
        }
        Value::List(List::Made(elements)) => {
            elements.iter().try_for_each(|element| check_names(element, path))
        }
        Value::Map(Map::Made(entries)) => entries.iter().try_for_each(|(_, value)| {
            check_names(value, &format!("{path}.@values")).or_else(|_| check_names(value, path))
        }),
        Value::Optional(Some(inner)) => check_names(inner, path),
        _ => Ok(()),
    }
}

fn applied(found: &Value<'_>, object: &Json, schema: Option<&Schema>) -> Result<Json, String> {
    if !matches!(found, Value::Map(Map::Struct(_))) {
        return Err(format!("must evaluate to Object but got {}", found.type_name()));
    }
    check_names(found, "Object").map_err(|error| format!("type mismatch: {error}"))?;
    let mut config = to_json(found).ok_or("the applied object cannot be converted")?;
    let schema = schema.ok_or("no schema is known of the object to apply to")?;
    for member in ["apiVersion", "kind"] {
        config[member] = object[member].clone();
    }
    Ok(schema::patch::apply::combine(object, &config, schema))
}

fn patched(found: &Value<'_>, object: &Json) -> Result<Json, String> {
    let Value::List(list) = found else {
        return Err(format!(
            "type mismatch: JSONPatchType.expression must evaluate to array but got {}",
            found.type_name()
        ));
    };
    let mut operations = Vec::new();
    for element in list.elements().map_err(|error| error.to_string())? {
        let Value::Map(map) = &element else { return Err("type mismatch: expected JSONPatch".to_owned()) };
        let field = |name: &str| map.field(name).map_err(|error| error.to_string());
        let mut operation = json!({});
        for name in ["op", "path", "from"] {
            if let Some(Value::String(text)) = field(name)? {
                operation[name] = (*text).into();
            }
        }
        if let Some(value) = field("value")? {
            operation["value"] = to_json(&value).ok_or("the value of a JSON patch cannot be converted")?;
        }
        operations.push(operation);
    }
    schema::patch::json_patch(object.clone(), &Json::Array(operations)).map_err(|error| error.message)
}
