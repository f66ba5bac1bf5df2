//! Taints and tolerations of devices, and the conditions that bind them.
//! Upstream: pkg/apis/resource/validation.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{each, json, label_value, qualified_name, unique};
use crate::kinds::optional::{default_text, is_unset, items_mut, text};
use crate::types::resource::v1::{DeviceTaint, DeviceToleration};

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Sets how tolerations compare that do not say it.
pub(super) fn default_tolerations(list: &mut Option<Vec<DeviceToleration>>) {
    for toleration in items_mut(list) {
        default_text(&mut toleration.operator, "Equal");
    }
}

/// Sets since when a taint is there, from which `tolerationSeconds` counts, where it does not say.
pub(super) fn set_time(taint: &mut Value, now: Timestamp) {
    if let Some(taint) = taint.as_object_mut()
        && taint.get("timeAdded").is_none_or(Value::is_null)
    {
        taint.insert("timeAdded".to_owned(), seconds(now));
    }
}

/// The present as objects have it.
pub(super) fn seconds(now: Timestamp) -> Value {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

/// What is wrong with a taint. An effect that the object had before is let be.
pub(super) fn taint(errors: &mut ErrorList, path: &Path, taint: &DeviceTaint, old: Option<&DeviceTaint>) {
    qualified_name(errors, &path.child("key"), &taint.key);
    label_value(errors, &path.child("value"), text(&taint.value));
    let effect_path = path.child("effect");
    if old.is_some_and(|old| old.effect == taint.effect) {
        return;
    }
    if taint.effect.is_empty() {
        errors.push(field::required(&effect_path, ""));
    } else if !EFFECTS.contains(&taint.effect.as_str()) {
        errors.push(field::not_supported(&effect_path, taint.effect.as_str(), EFFECTS));
    }
}

/// What is wrong with a toleration.
pub(super) fn toleration(errors: &mut ErrorList, path: &Path, toleration: &DeviceToleration) {
    if !is_unset(&toleration.key) {
        qualified_name(errors, &path.child("key"), text(&toleration.key));
    }
    let (value_path, value) = (path.child("value"), text(&toleration.value));
    match text(&toleration.operator) {
        "Exists" if !value.is_empty() => {
            errors.push(field::invalid(&value_path, value, "must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" => label_value(errors, &value_path, value),
        "" => errors.push(field::required(&path.child("operator"), "")),
        other => {
            errors.push(field::not_supported(&path.child("operator"), other, &["Equal", "Exists"]));
        }
    }
    let effect = text(&toleration.effect);
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(field::not_supported(&path.child("effect"), effect, EFFECTS));
    }
}

/// What is wrong with the conditions that a device waits for, and those that end the wait.
pub(super) fn binding(errors: &mut ErrorList, path: &Path, conditions: &[String], failures: &[String]) {
    const MAX: usize = 4;
    let (conditions_path, failures_path) =
        (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    let name = |errors: &mut ErrorList, path: &Path, name: &String| qualified_name(errors, path, name);
    each(errors, &conditions_path, conditions, MAX, name);
    each(errors, &failures_path, failures, MAX, name);
    unique(errors, &conditions_path, conditions, String::clone);
    unique(errors, &failures_path, failures, String::clone);
    for (index, failure) in failures.iter().enumerate().filter(|(_, failure)| conditions.contains(failure)) {
        let message = "bindingFailureConditions must not overlap with bindingConditions";
        errors.push(field::invalid(&failures_path.index(index), failure.as_str(), message));
    }
    if conditions.is_empty() && !failures.is_empty() {
        let message = "bindingConditions are required to use bindingFailureConditions";
        errors.push(field::invalid(&conditions_path, json(&conditions), message));
    }
    if failures.is_empty() && !conditions.is_empty() {
        let message = "bindingFailureConditions are required to use bindingConditions";
        errors.push(field::invalid(&failures_path, json(&failures), message));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_are_checked() {
        for (value, expected) in [
            (json!({"operator": "Exists"}), vec![]),
            (json!({"key": "a", "operator": "Equal", "value": "b", "effect": "None"}), vec![]),
            (json!({}), vec!["t.operator: Required value"]),
            (
                json!({"operator": "Exists", "value": "v"}),
                vec![r#"t.value: Invalid value: "v": must be empty for operator `Exists`"#],
            ),
            (
                json!({"operator": "Lt", "effect": "X"}),
                vec![
                    r#"t.operator: Unsupported value: "Lt": supported values: "Equal", "Exists""#,
                    r#"t.effect: Unsupported value: "X": supported values: "NoExecute", "NoSchedule", "None""#,
                ],
            ),
        ] {
            let mut errors = ErrorList::new();
            toleration(&mut errors, &Path::new("t"), &serde_json::from_value(value).unwrap());
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn binding_conditions_come_in_pairs() {
        let of = |conditions: &[&str], failures: &[&str]| {
            let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let mut errors = ErrorList::new();
            binding(&mut errors, &Path::new("d"), &own(conditions), &own(failures));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(of(&[], &[]).is_empty());
        assert!(of(&["a"], &["b"]).is_empty());
        assert_eq!(
            of(&["a"], &[]),
            [
                "d.bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions"
            ]
        );
        assert_eq!(
            of(&["a", "a"], &["a"]),
            [
                r#"d.bindingConditions[1]: Duplicate value: "a""#,
                r#"d.bindingFailureConditions[0]: Invalid value: "a": bindingFailureConditions must not overlap with bindingConditions"#
            ]
        );
    }
}
