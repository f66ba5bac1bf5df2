//! Whether a configuration has the types that the schema asks for, in upstream's words.
//! Upstream: structured-merge-diff `typed/validate.go`.

use serde_json::Value;

use super::shape::Shape;
use crate::Schema;
use crate::table::{Type, table};

/// Checks a configuration; the error names every field that is not declared or of another type.
pub(super) fn check(config: &Value, schema: &Schema) -> Result<(), String> {
    let mut errors = Vec::new();
    walk(config, Shape::of(schema), &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        all => Err(all.iter().fold("errors:".to_owned(), |text, error| format!("{text}\n  {error}"))),
    }
}

/// Bounded by the nesting of the configuration, which parsing bounds.
fn walk(value: &Value, shape: Shape<'_>, path: &mut String, errors: &mut Vec<String>) {
    let Shape::Struct(definition) = shape else {
        if let Shape::Custom(node) = shape {
            custom(value, node, path, errors);
        }
        return;
    };
    let Some(object) = value.as_object() else {
        if !value.is_null() {
            errors.push(format!("{path}: expected map, got &{{{}}}", go(value)));
        }
        return;
    };
    for (name, member) in object {
        let length = path.len();
        path.push('.');
        path.push_str(name);
        match definition.field(name) {
            Some(field) => of_type(member, &field.r#type, shape.member(name).1, path, errors),
            None => errors.push(format!("{path}: field not declared in schema")),
        }
        path.truncate(length);
    }
}

fn of_type(value: &Value, r#type: &Type, shape: Shape<'_>, path: &mut String, errors: &mut Vec<String>) {
    let kind = match value {
        Value::Null => return,
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    let mut refuse = |wanted: &str, got: String| errors.push(format!("{path}: expected {wanted}, got {got}"));
    match (r#type, value) {
        (Type::String | Type::Bytes | Type::Time | Type::MicroTime, Value::String(_))
        | (Type::Boolean, Value::Bool(_))
        | (Type::Int32 | Type::Int64 | Type::Number, Value::Number(_)) => {}
        (Type::String | Type::Bytes | Type::Time | Type::MicroTime, _) => {
            refuse("string", format!("&value.valueUnstructured{{Value:{}}}", go(value)));
        }
        (Type::Boolean, _) => refuse("boolean", format!("&{{{}}}", go(value))),
        (Type::Int32 | Type::Int64 | Type::Number, _) => {
            refuse("numeric (int or float)", kind.to_owned());
        }
        (Type::Array(element), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                let length = path.len();
                let at = shape.identity(item).map_or_else(|| format!("[{index}]"), |at| at.to_string());
                path.push_str(&at);
                let below = match **element {
                    Type::Definition(reference) => Shape::Struct(table().get(reference)),
                    _ => Shape::Leaf(None),
                };
                of_type(item, element, below, path, errors);
                path.truncate(length);
            }
        }
        (Type::Array(_), _) => refuse("list", format!("&{{{}}}", go(value))),
        (Type::Map(element), Value::Object(map)) => {
            for (key, item) in map {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                let below = match **element {
                    Type::Definition(reference) => Shape::Struct(table().get(reference)),
                    _ => Shape::Leaf(None),
                };
                of_type(item, element, below, path, errors);
                path.truncate(length);
            }
        }
        (Type::Map(_), _) => refuse("map", format!("&{{{}}}", go(value))),
        (Type::Definition(reference), _) => {
            walk(value, Shape::Struct(table().get(*reference)), path, errors);
        }
        _ => {}
    }
}

/// Of custom resources only the names are checked: their types are validation's.
fn custom(value: &Value, node: &crate::structural::Node, path: &mut String, errors: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, member) in object {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                match node.member(name) {
                    Some(below) => custom(member, below, path, errors),
                    None if node.keeps(name) => {}
                    None => errors.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        Value::Array(list) => {
            let Some(items) = node.items() else { return };
            for (index, item) in list.iter().enumerate() {
                let length = path.len();
                let shape = Shape::Custom(node);
                let at = shape.identity(item).map_or_else(|| format!("[{index}]"), |at| at.to_string());
                path.push_str(&at);
                custom(item, items, path, errors);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// A value as Go prints it.
fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Array(list) => {
            format!("[{}]", list.iter().map(go).collect::<Vec<_>>().join(" "))
        }
        Value::Object(object) => {
            let members: Vec<String> =
                object.iter().map(|(key, value)| format!("{key}:{}", go(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
