//! The smallest strategic merge patch from one status to another.
//!
//! Pure. Conditions merge by type and addresses by value on the server, so only what changed is sent, and conditions
//! that others write are never touched.
//! Upstream: `pkg/util/pod` (`PatchPodStatus`).

use api::types::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// The patch of the object's `status`, or `None` if nothing changed. The UID makes it fail for a namesake.
pub fn between(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut patch = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let changed = match key.as_str() {
            "conditions" => conditions(old.get(key), value),
            "podIPs" | "hostIPs"
                if old.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty()) =>
            {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(value.as_array().into_iter().flatten().cloned());
                Some(Value::Array(list))
            }
            _ => Some(value.clone()),
        };
        if let Some(changed) = changed {
            patch.insert(key.clone(), changed);
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": patch}))
}

/// The conditions that are new or different; with explicit nulls for what a condition no longer has.
fn conditions(old: Option<&Value>, new: &Value) -> Option<Value> {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut changed = Vec::new();
    for condition in new.as_array().into_iter().flatten() {
        let before = old.iter().find(|other| other["type"] == condition["type"]);
        if before == Some(condition) {
            continue;
        }
        let mut condition = condition.clone();
        if let (Some(Value::Object(before)), Value::Object(now)) = (before, &mut condition) {
            for key in before.keys() {
                now.entry(key).or_insert(Value::Null);
            }
        }
        changed.push(condition);
    }
    (!changed.is_empty()).then_some(Value::Array(changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn sends_only_what_changed() {
        let ready =
            |value: &str, reason: Option<&str>| json!({"type": "Ready", "status": value, "reason": reason});
        let other = json!({"type": "example.com/x", "status": "True"});
        let old = status(json!({"phase": "Pending", "podIPs": [{"ip": "1"}], "reason": "r",
            "conditions": [other, ready("False", Some("no"))]}));
        let new = status(
            json!({"phase": "Pending", "podIPs": [{"ip": "2"}], "conditions": [other, ready("True", None)]}),
        );
        assert_eq!(
            between("u", &old, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
                "podIPs": [{"$patch": "replace"}, {"ip": "2"}], "reason": null}}))
        );
        assert_eq!(between("u", &new, &new), None);
    }
}
