//! DeviceTaintRule: taints devices that match.
//! Upstream: pkg/registry/resource/devicetaintrule, pkg/apis/resource/validation.

use std::sync::Arc;

use serde_json::json;

use super::{names, taints};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{conditions, dns_label, driver_name};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::types::resource::v1::DeviceTaintRule;

/// The most conditions of a rule.
const CONDITIONS_MAX: usize = 8;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![Column::object_name(), Column::age()],
        hooks: Arc::new(
            Typed::<DeviceTaintRule>::new()
                .status(|| Some(json!({})))
                .validate(|rule| check(rule, None))
                .validate_update(|new, old| check(new, Some(old)))
                .validate_status_update(validate_status_update)
                .cells(|rule, now| vec![row::name(&rule.metadata), row::age(&rule.metadata, now)]),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules", Scope::Cluster)
    }
}

fn check(rule: &DeviceTaintRule, old: Option<&DeviceTaintRule>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    if let Some(selector) = &rule.spec.device_selector {
        let path = path.child("deviceSelector");
        if let Some(driver) = &selector.driver {
            driver_name(&mut errors, &path.child("driver"), driver);
        }
        if let Some(pool) = &selector.pool {
            names::pool(&mut errors, &path.child("pool"), pool);
        }
        if let Some(device) = &selector.device {
            dns_label(&mut errors, &path.child("device"), device);
        }
    }
    taints::taint(&mut errors, &path.child("taint"), &rule.spec.taint, old.map(|old| &old.spec.taint));
    errors
}

fn validate_status_update(new: &DeviceTaintRule, _: &DeviceTaintRule) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    let list = new.status.as_ref().map(|status| items(&status.conditions)).unwrap_or_default();
    conditions(&mut errors, &path, list);
    if list.len() > CONDITIONS_MAX {
        errors.push(field::too_many(&path, list.len(), CONDITIONS_MAX));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(spec: serde_json::Value) -> DeviceTaintRule {
        serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": spec})).unwrap()
    }

    #[test]
    fn rules_are_checked() {
        let good = json!({"deviceSelector": {"driver": "gpu.example.com", "pool": "a/b", "device": "gpu-0"},
                          "taint": {"key": "example.com/broken", "effect": "NoExecute"}});
        assert_eq!(check(&rule(good.clone()), None), []);
        let texts = |spec| {
            check(&rule(spec), Some(&rule(good.clone()))).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(json!({"taint": {"key": "k", "effect": ""}})),
            ["spec.taint.effect: Required value"]
        );
        assert_eq!(
            texts(json!({"deviceSelector": {"pool": ""}, "taint": {"key": "k", "effect": "Evict"}})),
            [
                "spec.deviceSelector.pool: Required value",
                r#"spec.taint.effect: Unsupported value: "Evict": supported values: "NoExecute", "NoSchedule", "None""#
            ]
        );
    }
}
