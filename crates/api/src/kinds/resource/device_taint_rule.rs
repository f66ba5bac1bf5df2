//! DeviceTaintRule: taints devices that match.
//! Upstream: pkg/registry/resource/devicetaintrule, pkg/apis/resource/validation.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

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
        unconditional_update: false,
        columns: vec![Column::object_name(), Column::age()],
        hooks: Arc::new(
            Typed::<DeviceTaintRule>::new()
                .status(|| Some(json!({})))
                .set_times(set_times)
                .validate(|rule| check(rule, None))
                .validate_update(|new, old| check(new, Some(old)))
                .validate_status_update(validate_status_update)
                .cells(|rule, now| vec![row::name(&rule.metadata), row::age(&rule.metadata, now)]),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules", Scope::Cluster)
    }
}

/// Since when the taint is there: since its effect is.
fn set_times(new: &mut Value, old: Option<&Value>, now: Timestamp) {
    let Some(taint) = new.pointer_mut("/spec/taint") else { return };
    taints::set_time(taint, now);
    if let Some(old) = old.and_then(|old| old.pointer("/spec/taint"))
        && taint["effect"] != old["effect"]
        && taint["timeAdded"] == old["timeAdded"]
    {
        taint["timeAdded"] = taints::seconds(now);
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
    fn taints_are_as_old_as_their_effect() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let rule = |effect: &str, time: Option<&str>| {
            let mut taint = json!({"key": "k", "effect": effect});
            if let Some(time) = time {
                taint["timeAdded"] = time.into();
            }
            json!({"spec": {"taint": taint}})
        };
        let hooks = descriptor().hooks;
        for (what, old, new, expected) in [
            ("new", None, ("None", None), late),
            ("new and said", None, ("None", Some(early)), early),
            ("the same", Some("None"), ("None", Some(early)), early),
            ("another effect", Some("None"), ("NoExecute", Some(early)), late),
            (
                "another effect and time",
                Some("None"),
                ("NoExecute", Some("2025-01-01T00:00:00Z")),
                "2025-01-01T00:00:00Z",
            ),
        ] {
            let old = old.map(|effect| rule(effect, Some(early)));
            let mut new = rule(new.0, new.1);
            hooks.set_times(&mut new, old.as_ref(), "2026-01-02T00:00:00.7Z".parse().unwrap());
            assert_eq!(new["spec"]["taint"]["timeAdded"], expected, "{what}");
        }
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
