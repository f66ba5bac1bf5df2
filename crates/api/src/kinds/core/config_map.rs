//! ConfigMap: configuration as text and bytes.
//! Upstream: pkg/registry/core/configmap, pkg/apis/core.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::row;
use crate::meta_validation::push_invalid;
use crate::names::is_config_map_key;
use crate::types::core::v1::ConfigMap;

/// The most bytes all values of a ConfigMap or Secret may have together.
pub(super) const SIZE_MAX: usize = 1024 * 1024;
pub(super) const SEALED: &str = "field is immutable when `immutable` is set";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["cm".into()],
        columns: vec![
            Column::object_name(),
            Column::new("Data", "string", "Number of entries, of text and of bytes."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ConfigMap>::new().validate(validate).validate_update(validate_update).cells(cells),
        ),
        ..Descriptor::new("", "v1", "ConfigMap", "configmaps", Scope::Namespaced)
    }
}

fn validate(map: &ConfigMap) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in map.data.iter().flatten() {
        push_invalid(&mut errors, &path.key(key), key, is_config_map_key(key));
        if map.binary_data.as_ref().is_some_and(|data| data.contains_key(key)) {
            errors.push(field::invalid(&path.key(key), &**key, "duplicate of key present in binaryData"));
        }
        size += value.len();
    }
    for (key, value) in map.binary_data.iter().flatten() {
        push_invalid(&mut errors, &Path::new("binaryData").key(key), key, is_config_map_key(key));
        size += value.0.len();
    }
    if size > SIZE_MAX {
        errors.push(field::too_long(&Path::root(), SIZE_MAX));
    }
    errors
}

fn validate_update(new: &ConfigMap, old: &ConfigMap) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.immutable == Some(true) {
        for (name, changed) in [
            ("immutable", new.immutable != Some(true)),
            ("data", new.data.clone().unwrap_or_default() != old.data.clone().unwrap_or_default()),
            (
                "binaryData",
                new.binary_data.clone().unwrap_or_default() != old.binary_data.clone().unwrap_or_default(),
            ),
        ] {
            if changed {
                errors.push(field::forbidden(&Path::new(name), SEALED));
            }
        }
    }
    errors.extend(validate(new));
    errors
}

fn cells(map: &ConfigMap, now: Timestamp) -> Vec<Value> {
    let entries = map.data.as_ref().map_or(0, |data| data.len())
        + map.binary_data.as_ref().map_or(0, |data| data.len());
    vec![row::name(&map.metadata), entries.into(), row::age(&map.metadata, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> ConfigMap {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn checks() {
        assert_eq!(validate(&map(json!({"data": {"a.b": ""}}))), []);
        assert_eq!(validate(&map(json!({"data": {"a b": ""}}))).len(), 1);
        assert_eq!(validate(&map(json!({"data": {"a": ""}, "binaryData": {"a": ""}}))).len(), 1);
        assert_eq!(validate(&map(json!({"data": {"a": "x".repeat(SIZE_MAX + 1)}}))).len(), 1);
    }

    #[test]
    fn what_is_sealed_stays() {
        let sealed = map(json!({"data": {"a": "1"}, "immutable": true}));
        assert_eq!(validate_update(&sealed, &sealed), []);
        assert_eq!(validate_update(&map(json!({"data": {"a": "2"}})), &sealed).len(), 2);
    }
}
