//! Building blocks of the kinds' validation. Each adds what it finds to a list.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::Value;

use crate::addresses;
use crate::field::{self, ErrorList, Path};
use crate::meta::{Condition, IntOrString, Quantity};
use crate::meta_validation::{NOT_NEGATIVE, push_invalid};
use crate::names;
use crate::quantity;

/// A value as JSON, for an error to show.
pub(crate) fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Refuses a negative number.
pub(crate) fn not_negative(errors: &mut ErrorList, path: &Path, number: impl Into<i64>) {
    let number = number.into();
    if number < 0 {
        errors.push(field::invalid(path, number, NOT_NEGATIVE));
    }
}

/// Refuses a negative number where one is given.
pub(crate) fn not_negative_if_set(errors: &mut ErrorList, path: &Path, number: Option<impl Into<i64>>) {
    if let Some(number) = number {
        not_negative(errors, path, number);
    }
}

/// Refuses a text that is none of `values` (sorted as upstream lists them); with `required`, also an empty one.
pub(crate) fn one_of(errors: &mut ErrorList, path: &Path, value: &str, values: &[&str]) {
    if value.is_empty() {
        errors.push(field::required(path, ""));
    } else if !values.contains(&value) {
        errors.push(field::not_supported(path, value, values));
    }
}

/// Refuses a text that is given and none of `values`.
pub(crate) fn one_of_if_set(errors: &mut ErrorList, path: &Path, value: &Option<String>, values: &[&str]) {
    if let Some(value) = value
        && !values.contains(&value.as_str())
    {
        errors.push(field::not_supported(path, value.as_str(), values));
    }
}

/// Refuses what is no DNS label.
pub(crate) fn dns_label(errors: &mut ErrorList, path: &Path, value: &str) {
    push_invalid(errors, path, value, names::is_dns1123_label(value));
}

/// Refuses what is no DNS subdomain.
pub(crate) fn dns_subdomain(errors: &mut ErrorList, path: &Path, value: &str) {
    push_invalid(errors, path, value, names::is_dns1123_subdomain(value));
}

/// Refuses what is no qualified name.
pub(crate) fn qualified_name(errors: &mut ErrorList, path: &Path, value: &str) {
    push_invalid(errors, path, value, names::is_qualified_name(value));
}

/// Refuses what is no IP address. What the object before an update had is let pass later ([`addresses::keep`]).
pub(crate) fn ip(errors: &mut ErrorList, path: &Path, value: &str) {
    push_invalid(errors, path, value, addresses::is_ip(value));
}

/// Refuses what is no CIDR, as [`ip`].
pub(crate) fn cidr(errors: &mut ErrorList, path: &Path, value: &str) {
    push_invalid(errors, path, value, addresses::is_cidr(value));
}

/// Refuses conditions that are ill-formed or of a type that another has.
/// Upstream: apimachinery pkg/apis/meta/v1/validation.
pub(crate) fn conditions(errors: &mut ErrorList, path: &Path, conditions: &[Condition]) {
    const REASON_MAX: usize = 1024;
    const MESSAGE_MAX: usize = 32 * 1024;
    let mut types = HashSet::with_capacity(conditions.len());
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if !types.insert(&condition.type_) {
            errors.push(field::duplicate(&path.child("type"), &*condition.type_));
        }
        qualified_name(errors, &path.child("type"), &condition.type_);
        if !["False", "True", "Unknown"].contains(&&*condition.status) {
            let values = ["False", "True", "Unknown"];
            errors.push(field::not_supported(&path.child("status"), condition.status.as_str(), &values));
        }
        if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
            let path = path.child("observedGeneration");
            errors.push(field::invalid(&path, generation, "must be greater than or equal to zero"));
        }
        if condition.last_transition_time.0 == jiff::Timestamp::UNIX_EPOCH {
            // The zero time of the wire: decoding makes it of a missing one.
            errors.push(field::required(&path.child("lastTransitionTime"), "must be set"));
        }
        let (reason_path, reason) = (path.child("reason"), &condition.reason);
        if reason.is_empty() {
            errors.push(field::required(&reason_path, "must be set"));
        } else {
            push_invalid(errors, &reason_path, reason, names::is_condition_reason(reason));
            if reason.len() > REASON_MAX {
                errors.push(field::too_long(&reason_path, REASON_MAX));
            }
        }
        if condition.message.len() > MESSAGE_MAX {
            errors.push(field::too_long(&path.child("message"), MESSAGE_MAX));
        }
    }
}

/// Refuses what cannot be the name of a driver of volumes or devices.
pub(crate) fn driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    const MAX: usize = 63;
    if name.is_empty() {
        errors.push(field::required(path, ""));
    }
    if name.len() > MAX {
        errors.push(field::too_long(path, MAX));
    }
    push_invalid(errors, path, name, names::is_dns1123_subdomain(&name.to_lowercase()));
}

/// Refuses what cannot be the value of a label.
pub(crate) fn label_value(errors: &mut ErrorList, path: &Path, value: &str) {
    push_invalid(errors, path, value, names::is_label_value(value));
}

/// Refuses the elements from the second one on that another before them equals by `key`.
pub(crate) fn unique<T, K: Serialize>(
    errors: &mut ErrorList,
    path: &Path,
    list: &[T],
    key: impl Fn(&T) -> K,
) {
    let mut seen = HashSet::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        let key = json(&key(item));
        if !seen.insert(key.to_string()) {
            errors.push(field::duplicate(&path.index(index), key));
        }
    }
}

/// Refuses a list that is too long, and then does not look at it: the limit is also there to bound the work.
/// Otherwise runs `check` on every element.
pub(crate) fn each<T>(
    errors: &mut ErrorList,
    path: &Path,
    list: &[T],
    max: usize,
    mut check: impl FnMut(&mut ErrorList, &Path, &T),
) {
    if list.len() > max {
        errors.push(field::too_many(path, list.len(), max));
        return;
    }
    for (index, item) in list.iter().enumerate() {
        check(errors, &path.index(index), item);
    }
}

/// Refuses a missing text.
pub(crate) fn required(errors: &mut ErrorList, path: &Path, value: &str) {
    if value.is_empty() {
        errors.push(field::required(path, ""));
    }
}

/// Refuses what is no port number.
pub(crate) fn port_number(errors: &mut ErrorList, path: &Path, port: i32) {
    errors.extend(
        names::is_port_number(port.into()).into_iter().map(|message| field::invalid(path, port, message)),
    );
}

/// Refuses what is neither a port number nor the name of a port.
pub(crate) fn port(errors: &mut ErrorList, path: &Path, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => port_number(errors, path, *number),
        IntOrString::String(name) => push_invalid(errors, path, name, names::is_port_name(name)),
    }
}

/// A quantity of the wire; an ill-formed one counts as nothing, because decoding refuses it before.
pub(crate) fn quantity(wire: &Quantity) -> quantity::Quantity {
    quantity::Quantity::from_wire(wire).unwrap_or_default()
}

/// Refuses what is neither a non-negative number nor a percentage of at most 100 %.
pub(crate) fn count_or_percent(errors: &mut ErrorList, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(number) => not_negative(errors, path, *number),
        IntOrString::String(text) => push_invalid(errors, path, text, names::is_percent(text)),
    }
}

/// Refuses more than 100 %.
pub(crate) fn at_most_hundred_percent(errors: &mut ErrorList, path: &Path, value: &IntOrString) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errors.push(field::invalid(path, json(value), "must not be greater than 100%"));
    }
}

/// The number before the `%`.
pub(crate) fn percent(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
        IntOrString::Int(_) => None,
    }
}

/// Whether every pair of `selector` is among `labels`.
pub(crate) fn labels_match(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Refuses a path with `..` elements.
pub(crate) fn no_backsteps(errors: &mut ErrorList, path: &Path, target: &str) {
    if target.split('/').any(|element| element == "..") {
        errors.push(field::invalid(path, target, "must not contain '..'"));
    }
}

/// Refuses an absolute path, and one with `..` elements.
pub(crate) fn local_path(errors: &mut ErrorList, path: &Path, target: &str) {
    if target.starts_with('/') {
        errors.push(field::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(errors, path, target);
}

/// Refuses a spec that changed; `rest` and `old` are without what may change.
pub(crate) fn immutable_spec<T: PartialEq + Serialize>(
    errors: &mut ErrorList,
    rest: &T,
    old: &T,
    message: &str,
) {
    if rest != old {
        errors.push(field::forbidden(&Path::new("spec"), format!("{message}\n{}", difference(old, rest))));
    }
}

/// The fields that differ between two values, for people: old and new, one line each.
pub(crate) fn difference<T: Serialize>(old: &T, new: &T) -> String {
    let (old, new) = (json(old), json(new));
    let field = |value: &Value, name: &str| value.get(name).cloned().unwrap_or_default();
    let mut names: Vec<&String> =
        [&old, &new].into_iter().filter_map(Value::as_object).flat_map(|object| object.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| field(&old, name) != field(&new, name))
        .map(|name| format!("- {name}: {}\n+ {name}: {}\n", field(&old, name), field(&new, name)))
        .collect()
}
