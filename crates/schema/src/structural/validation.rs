//! Validation of custom resources by their schema, with upstream's wording.
//! Upstream: kube-openapi `pkg/validation`, apiextensions-apiserver `ValidateCustomResource` and `listtype`.

use std::collections::{HashMap, HashSet};

use api::field::{self, ErrorList};
use serde_json::{Map, Value};

use super::{List, Node, Type, at, format};

/// What a schema itself says against a value.
pub(super) fn by_schema(schema: &Node, value: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check(schema, value, None, "", &mut errors);
    errors
}

/// Everything that is wrong with a value, but for what was as wrong in the old one: a schema that has become stricter must
/// not stand in the way of changes elsewhere (upstream calls it ratcheting).
pub(super) fn validate(schema: &Node, value: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    check(schema, value, old, "", &mut errors);
    let repeats = |value: &Value| {
        let mut errors = ErrorList::new();
        lists(schema, value, "", &mut errors);
        errors
    };
    let repeated = repeats(value);
    if !repeated.is_empty() && old.is_none_or(|old| repeats(old).is_empty()) {
        errors.extend(repeated);
    }
    errors
}

/// `old` is what stood in the same place: under the same name, or, in a list of type map, with the same keys. Recursion is
/// bounded by the nesting of the value, which decoding bounds.
fn check(schema: &Node, value: &Value, old: Option<&Value>, path: &str, errors: &mut ErrorList) {
    if old == Some(value) {
        return;
    }
    if !check_type(schema, value, path, errors) {
        return;
    }
    check_enum(schema, value, path, errors);
    match value {
        Value::String(text) => check_text(schema, text, path, errors),
        Value::Number(_) => check_number(schema, value, path, errors),
        Value::Array(list) => check_list(schema, list, old, path, errors),
        Value::Object(object) => check_object(schema, object, old, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
    check_combinations(schema, value, path, errors);
}

fn invalid(path: &str, value: &Value, rule: std::fmt::Arguments<'_>) -> field::Error {
    field::invalid(&at(path), value.clone(), format!("{path} in body {rule}"))
}

/// What a value is called in errors of type.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number)
            if number.is_f64() && number.as_f64().is_some_and(|float| float.fract() != 0.0) =>
        {
            "number"
        }
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(schema: &Node, value: &Value, path: &str, errors: &mut ErrorList) -> bool {
    let actual = type_of(value);
    let expected = if schema.int_or_string {
        if matches!(actual, "integer" | "string") {
            return true;
        }
        "integer,string"
    } else {
        match schema.r#type {
            None => return true,
            Some(Type::Object) => "object",
            Some(Type::Array) => "array",
            Some(Type::String) => "string",
            Some(Type::Integer) => "integer",
            Some(Type::Number) => "number",
            Some(Type::Boolean) => "boolean",
        }
    };
    let right = actual == expected
        || (expected == "number" && actual == "integer")
        || (actual == "null" && schema.nullable);
    if !right {
        let detail = format!("{path} in body must be of type {expected}: {}", field::quote(actual));
        errors.push(field::type_invalid(&at(path), actual, detail));
    }
    right
}

fn check_enum(schema: &Node, value: &Value, path: &str, errors: &mut ErrorList) {
    let Some(allowed) = &schema.limits.r#enum else { return };
    if value.is_null() && schema.nullable || allowed.iter().any(|one| equal(one, value)) {
        return;
    }
    let texts: Vec<String> =
        allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), String::from)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    errors.push(field::not_supported(&at(path), value.clone(), &texts));
}

/// Equality in which 1 and 1.0 are one number.
fn equal(left: &Value, right: &Value) -> bool {
    left == right || (left.is_number() && right.is_number() && left.as_f64() == right.as_f64())
}

fn check_text(schema: &Node, text: &str, path: &str, errors: &mut ErrorList) {
    let limits = &schema.limits;
    let value = || Value::String(text.to_owned());
    let length = text.chars().count() as u64;
    if let Some(max) = limits.max_length.filter(|max| length > *max) {
        errors.push(field::too_long(&at(path), usize::try_from(max).unwrap_or(usize::MAX)));
    }
    if let Some(min) = limits.min_length.filter(|min| length < *min) {
        errors.push(invalid(path, &value(), format_args!("should be at least {min} chars long")));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        errors.push(invalid(path, &value(), format_args!("should match '{pattern}'")));
    }
    if let Some(format) = limits.format.as_ref().filter(|format| !format::matches(format, text)) {
        let detail = format!("{path} in body must be of type {format}: {}", field::quote(text));
        errors.push(field::type_invalid(&at(path), text, detail));
    }
}

/// A number as Go's `%v` prints a float.
fn float(number: f64) -> String {
    let exponent = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    if (-4..21).contains(&exponent) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
            format!("{digits}e{sign}{size:0>2}")
        }
        None => text,
    }
}

fn check_number(schema: &Node, value: &Value, path: &str, errors: &mut ErrorList) {
    let limits = &schema.limits;
    let number = value.as_f64().unwrap_or_default();
    if let Some((max, exclusive)) = limits.maximum {
        if exclusive && number >= max {
            errors.push(invalid(path, value, format_args!("should be less than {}", float(max))));
        } else if number > max {
            errors.push(invalid(path, value, format_args!("should be less than or equal to {}", float(max))));
        }
    }
    if let Some((min, exclusive)) = limits.minimum {
        if exclusive && number <= min {
            errors.push(invalid(path, value, format_args!("should be greater than {}", float(min))));
        } else if number < min {
            errors.push(invalid(
                path,
                value,
                format_args!("should be greater than or equal to {}", float(min)),
            ));
        }
    }
    if let Some(factor) = limits.multiple_of.filter(|factor| (number / factor).fract() != 0.0) {
        errors.push(invalid(path, value, format_args!("should be a multiple of {}", float(factor))));
    }
    let (low, high) = match limits.format.as_deref() {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => return,
    };
    if number < low || number > high {
        let detail = format!("Checked value must be of type integer with format int32 in {path}");
        errors.push(field::invalid(&at(path), value.clone(), detail));
    }
}

fn check_list(schema: &Node, list: &[Value], old: Option<&Value>, path: &str, errors: &mut ErrorList) {
    let limits = &schema.limits;
    let count = list.len() as u64;
    if let Some(items) = &schema.items {
        let by_keys = matches!(schema.list, Some(List::Map(_)));
        let old = old.and_then(Value::as_array).filter(|_| by_keys).into_iter().flatten();
        // The first of each, as there may have been more.
        let mut past = HashMap::new();
        for element in old {
            past.entry(identity(schema, element)).or_insert(element);
        }
        for (index, element) in list.iter().enumerate() {
            let past = if past.is_empty() { None } else { past.get(&identity(schema, element)).copied() };
            check(items, element, past, &format!("{path}[{index}]"), errors);
        }
    }
    if let Some(min) = limits.min_items.filter(|min| count < *min) {
        let value = Value::from(count);
        errors.push(invalid(path, &value, format_args!("should have at least {min} items")));
    }
    if let Some(max) = limits.max_items.filter(|max| count > *max) {
        errors.push(field::too_many(&at(path), list.len(), usize::try_from(max).unwrap_or(usize::MAX)));
    }
    let mut seen = HashSet::new();
    if limits.unique_items && !list.iter().all(|element| seen.insert(element.to_string())) {
        errors.push(invalid(
            path,
            &Value::String(String::new()),
            format_args!("shouldn't contain duplicates"),
        ));
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check_object(
    schema: &Node,
    object: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    errors: &mut ErrorList,
) {
    let limits = &schema.limits;
    let count = object.len() as u64;
    for name in limits.required.iter().filter(|name| !object.contains_key(*name)) {
        errors.push(field::required(&at(&below(path, name)), ""));
    }
    if let Some(min) = limits.min_properties.filter(|min| count < *min) {
        let value = Value::from(count);
        errors.push(invalid(path, &value, format_args!("should have at least {min} properties")));
    }
    if let Some(max) = limits.max_properties.filter(|max| count > *max) {
        errors.push(field::too_many(&at(path), object.len(), usize::try_from(max).unwrap_or(usize::MAX)));
    }
    // What is atomic is one value.
    let old = old.and_then(Value::as_object).filter(|_| !schema.atomic);
    for (name, member) in object {
        if let Some(schema) = schema.member(name) {
            // What an object is, is held against the schema whether it has changed or not, as upstream does.
            let is_type = path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind");
            let old = old.filter(|_| !is_type).and_then(|old| old.get(name));
            check(schema, member, old, &below(path, name), errors);
        }
    }
}

/// Whether a value fits one of several schemas depends on all of it, so nothing is left out as unchanged here.
fn check_combinations(schema: &Node, value: &Value, path: &str, errors: &mut ErrorList) {
    let outcomes = |schemas: &[Node]| -> Vec<ErrorList> {
        schemas
            .iter()
            .map(|schema| {
                let mut errors = ErrorList::new();
                check(schema, value, None, path, &mut errors);
                errors
            })
            .collect()
    };
    // Upstream has no path to give for these.
    let composite = |rule: String| {
        field::invalid(&field::Path::new("<nil>"), "", format!("{} {rule}", field::quote(path)))
    };
    let fewest = |outcomes: Vec<ErrorList>| outcomes.into_iter().min_by_key(Vec::len).unwrap_or_default();
    if !schema.any_of.is_empty() {
        let outcomes = outcomes(&schema.any_of);
        if !outcomes.iter().any(Vec::is_empty) {
            errors.push(composite("must validate at least one schema (anyOf)".into()));
            errors.extend(fewest(outcomes));
        }
    }
    if !schema.one_of.is_empty() {
        let outcomes = outcomes(&schema.one_of);
        match outcomes.iter().filter(|errors| errors.is_empty()).count() {
            1 => {}
            0 => {
                let found = "Found none valid";
                errors.push(composite(format!("must validate one and only one schema (oneOf). {found}")));
                errors.extend(fewest(outcomes));
            }
            valid => errors.push(composite(format!(
                "must validate one and only one schema (oneOf). Found {valid} valid alternatives"
            ))),
        }
    }
    if !schema.all_of.is_empty() {
        let failed: ErrorList = outcomes(&schema.all_of).into_iter().flatten().collect();
        if !failed.is_empty() {
            errors.extend(failed);
            errors.push(composite("must validate all the schemas (allOf)".into()));
        }
    }
    if let Some(not) = &schema.not
        && outcomes(std::slice::from_ref(not)).iter().all(Vec::is_empty)
    {
        errors.push(composite("must not validate the schema (not)".into()));
    }
}

/// Lists of type set and map must not repeat themselves.
fn lists(schema: &Node, value: &Value, path: &str, errors: &mut ErrorList) {
    match value {
        Value::Object(object) => {
            for (name, member) in object {
                if let Some(schema) = schema.member(name) {
                    lists(schema, member, &below(path, name), errors);
                }
            }
        }
        Value::Array(list) => {
            if schema.list.is_some() {
                let mut seen = HashSet::new();
                for (index, element) in list.iter().enumerate() {
                    if !seen.insert(identity(schema, element)) {
                        let path = at(&format!("{path}[{index}]"));
                        errors.push(field::duplicate(&path, told_apart(schema, element)));
                    }
                }
            }
            if let Some(items) = &schema.items {
                for (index, element) in list.iter().enumerate() {
                    lists(items, element, &format!("{path}[{index}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// What tells an element of a list apart, as a text, which is one for equal values: members are sorted.
fn identity(schema: &Node, element: &Value) -> String {
    match &schema.list {
        Some(List::Map(_)) => told_apart(schema, element).to_string(),
        _ => element.to_string(),
    }
}

/// What tells an element of a list apart: its keys, or all of it.
fn told_apart(schema: &Node, element: &Value) -> Value {
    let (Some(List::Map(keys)), Value::Object(object)) = (&schema.list, element) else {
        return element.clone();
    };
    let default = |key: &str| schema.items.as_ref()?.properties.get(key)?.default.clone();
    keys.iter()
        .filter_map(|key| Some((key.clone(), object.get(key).cloned().or_else(|| default(key))?)))
        .collect()
}
