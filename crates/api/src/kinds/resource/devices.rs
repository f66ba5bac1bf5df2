//! The devices of a ResourceSlice, and the counters they share.
//! Upstream: `validateDevice`, `validateCounterSet` and what they call, of pkg/apis/resource/validation.

use serde_json::Value;

use super::{names, taints};
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, each, json, quantity, unique};
use crate::kinds::core::pod::validation::scheduling::node_selector;
use crate::kinds::optional::items;
use crate::quantity::Quantity;
use crate::types::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, Counter, CounterSet, Device, DeviceAttribute,
    DeviceCapacity,
};

const VALUE_MAX: usize = 64;
const COUNTERS_MAX: usize = 32;

/// What is wrong with a device; `per_device` when each says itself on which nodes it is.
pub(super) fn device(
    errors: &mut ErrorList,
    path: &Path,
    device: &Device,
    old: Option<&Device>,
    per_device: bool,
) {
    const ATTRIBUTES_MAX: usize = 32;
    const TAINTS_MAX: usize = 16;
    const CONSUMPTIONS_MAX: usize = 2;
    dns_label(errors, &path.child("name"), &device.name);
    let count = device.attributes.as_ref().map_or(0, |attributes| attributes.len())
        + device.capacity.as_ref().map_or(0, |capacity| capacity.len());
    if count > ATTRIBUTES_MAX {
        let message =
            format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        errors.push(field::invalid(path, count, message));
    }
    for (name, attribute) in device.attributes.iter().flatten() {
        let path = path.child("attributes").key(name.as_str());
        names::qualified(errors, &path, name);
        value(errors, &path, attribute);
    }
    let shared = device.allow_multiple_allocations == Some(true);
    for (name, capacity) in device.capacity.iter().flatten() {
        let path = path.child("capacity").key(name.as_str());
        names::qualified(errors, &path, name);
        request_policy(errors, &path.child("requestPolicy"), capacity, shared);
    }
    if old.is_none_or(|old| old.taints != device.taints) {
        each(errors, &path.child("taints"), items(&device.taints), TAINTS_MAX, |errors, path, taint| {
            taints::taint(errors, path, taint, None);
        });
    }
    let consumed = items(&device.consumes_counters);
    let consumed_path = path.child("consumesCounters");
    each(errors, &consumed_path, consumed, CONSUMPTIONS_MAX, |errors, path, consumption| {
        let set_path = path.child("counterSet");
        if consumption.counter_set.is_empty() {
            errors.push(field::required(&set_path, ""));
        } else {
            dns_label(errors, &set_path, &consumption.counter_set);
        }
        counters(errors, &path.child("counters"), &consumption.counters);
    });
    unique(errors, &consumed_path, consumed, |consumption| consumption.counter_set.clone());
    nodes(errors, path, device, per_device);
    let failures = items(&device.binding_failure_conditions);
    taints::binding(errors, path, items(&device.binding_conditions), failures);
}

/// What is wrong with a set of counters.
pub(super) fn counter_set(errors: &mut ErrorList, path: &Path, set: &CounterSet) {
    let name_path = path.child("name");
    if set.name.is_empty() {
        errors.push(field::required(&name_path, ""));
    } else {
        dns_label(errors, &name_path, &set.name);
    }
    counters(errors, &path.child("counters"), &set.counters);
}

fn counters(errors: &mut ErrorList, path: &Path, counters: &std::collections::BTreeMap<String, Counter>) {
    if counters.is_empty() {
        errors.push(field::required(path, ""));
    } else if counters.len() > COUNTERS_MAX {
        errors.push(field::too_many(path, counters.len(), COUNTERS_MAX));
    } else {
        for name in counters.keys() {
            dns_label(errors, &path.key(name.as_str()), name);
        }
    }
}

/// Where a device is, when the slice leaves that to each device.
fn nodes(errors: &mut ErrorList, path: &Path, device: &Device, per_device: bool) {
    let any = device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some();
    if !per_device {
        if any {
            let message = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is \
                           set to true in the ResourceSlice spec";
            errors.push(field::invalid(path, Value::Null, message));
        }
        return;
    }
    let mut set = Vec::new();
    match device.node_name.as_deref() {
        None => {}
        Some("") => errors.push(field::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(name) => {
            set.push("`nodeName`");
            super::resource_slice::node_name(errors, &path.child("nodeName"), name);
        }
    }
    if let Some(selector) = &device.node_selector {
        set.push("`nodeSelector`");
        node_selector(errors, selector, &path.child("nodeSelector"));
    }
    match device.all_nodes {
        None => {}
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            let message = "must be either unset or set to true";
            errors.push(field::invalid(&path.child("allNodes"), false, message));
        }
    }
    let message = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                   `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set.len() {
        0 => errors.push(field::required(path, message)),
        1 => {}
        _ => errors.push(field::invalid(path, format!("{{{}}}", set.join(", ")), message)),
    }
}

fn value(errors: &mut ErrorList, path: &Path, attribute: &DeviceAttribute) {
    let text = |errors: &mut ErrorList, path: &Path, text: &str| {
        if text.len() > VALUE_MAX {
            errors.push(field::too_long(path, VALUE_MAX));
        }
    };
    let version = |errors: &mut ErrorList, path: &Path, version: &str| {
        if !is_semantic_version(version) {
            let message = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(field::invalid(path, version, message));
        }
        text(errors, path, version);
    };
    if let Some(value) = &attribute.string {
        text(errors, &path.child("string"), value);
    }
    if let Some(value) = &attribute.version {
        version(errors, &path.child("version"), value);
    }
    for (index, value) in items(&attribute.strings).iter().enumerate() {
        text(errors, &path.child("strings").index(index), value);
    }
    for (index, value) in items(&attribute.versions).iter().enumerate() {
        version(errors, &path.child("versions").index(index), value);
    }
    let set = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
        attribute.bools.is_some(),
        attribute.ints.is_some(),
        attribute.strings.is_some(),
        attribute.versions.is_some(),
    ];
    match set.into_iter().filter(|set| *set).count() {
        0 => errors.push(field::invalid(path, "", "exactly one value must be specified")),
        1 => {}
        _ => errors.push(field::invalid(path, json(attribute), "exactly one value must be specified")),
    }
}

/// Whether a text is a version as semver.org 2.0.0 has it: three numbers, then optional parts after `-` and `+`.
fn is_semantic_version(version: &str) -> bool {
    let (version, build) = version.split_once('+').map_or((version, None), |(v, build)| (v, Some(build)));
    let (core, before) = version.split_once('-').map_or((version, None), |(core, pre)| (core, Some(pre)));
    let characters = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|before| {
            before.split('.').all(|part| characters(part) && (!digits(part) || number(part)))
        })
        && build.is_none_or(|build| build.split('.').all(characters))
}

fn request_policy(errors: &mut ErrorList, path: &Path, capacity: &DeviceCapacity, shared: bool) {
    let Some(policy) = &capacity.request_policy else { return };
    if !shared {
        errors.push(field::forbidden(path, "allowMultipleAllocations must be true"));
        return;
    }
    let whole = quantity(&capacity.value);
    match (items(&policy.valid_values), &policy.valid_range) {
        ([_, ..], Some(_)) => errors.push(field::forbidden(
            path,
            r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#,
        )),
        ([_, ..], None) => valid_values(errors, path, policy, whole),
        ([], Some(range)) => match &policy.default {
            None => {
                errors.push(field::required(&path.child("default"), "required when validRange is defined"));
            }
            Some(default) => {
                valid_range(errors, &path.child("validRange"), range, quantity(default), whole);
            }
        },
        ([], None) => {}
    }
}

fn valid_values(errors: &mut ErrorList, path: &Path, policy: &CapacityRequestPolicy, whole: Quantity) {
    const VALUES_MAX: usize = 10;
    let Some(default) = policy.default.as_ref().map(quantity) else {
        errors.push(field::required(&path.child("default"), "required when validValues is defined"));
        return;
    };
    let path = path.child("validValues");
    let values: Vec<Quantity> = items(&policy.valid_values).iter().map(quantity).collect();
    for (index, pair) in values.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let message = "values must be sorted in ascending order";
            errors.push(field::invalid(&path.index(index + 1), pair[1].to_string(), message));
        }
    }
    each(errors, &path, &values, VALUES_MAX, |errors, path, value| {
        if *value > whole {
            let message = format!("option is larger than capacity value: {whole}");
            errors.push(field::invalid(path, value.to_string(), message));
        }
    });
    unique(errors, &path, &values, |value| value.value().to_string());
    if !values.contains(&default) {
        let message = "default value is not valid according to the requestPolicy";
        errors.push(field::invalid(&path, default.to_string(), message));
    }
}

fn valid_range(
    errors: &mut ErrorList,
    path: &Path,
    range: &CapacityRequestPolicyRange,
    default: Quantity,
    whole: Quantity,
) {
    let least = quantity(&range.min);
    let mut refuse = |name: &'static str, value: Quantity, message: String| {
        errors.push(field::invalid(&path.child(name), value.to_string(), message));
    };
    if least > whole {
        refuse("min", least, format!("min is larger than capacity value: {whole}"));
    }
    if default < least {
        refuse("min", default, format!("default is less than min: {least}"));
    }
    let most = range.max.as_ref().map(quantity);
    if let Some(most) = most {
        if least > most {
            refuse("max", least, format!("min is larger than max: {most}"));
        }
        if most > whole {
            refuse("max", most, format!("max is larger than capacity value: {whole}"));
        }
        if default > most {
            refuse("max", default, format!("default is more than max: {most}"));
        }
    }
    let Some(step) = range.step.as_ref().map(quantity) else { return };
    let one_step = least + step;
    if one_step > whole {
        refuse("step", step, format!("one step {one_step} is larger than capacity value: {whole}"));
    }
    for value in [Some(default), most].into_iter().flatten() {
        // A step of nothing divides nothing.
        let distance = value.value().saturating_sub(least.value());
        if distance.checked_rem(step.value()) != Some(0) {
            refuse("step", value, format!("value is not a multiple of a given step ({step}) from ({least})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(value: serde_json::Value, per_device: bool) -> Vec<String> {
        let mut errors = ErrorList::new();
        device(&mut errors, &Path::new("d"), &serde_json::from_value(value).unwrap(), None, per_device);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn devices_are_checked() {
        let policy = |shared: bool, policy: Value| {
            json!({"name": "a", "allowMultipleAllocations": shared,
                   "capacity": {"memory": {"value": "10Gi", "requestPolicy": policy}}})
        };
        for (value, expected) in [
            (
                json!({"name": "gpu-0", "attributes": {"model": {"string": "x"}, "gpu.example.com/v": {"version": "1.2.3-rc.1+b"}},
                       "capacity": {"memory": {"value": "1Gi"}}}),
                vec![],
            ),
            (
                json!({"name": "gpu-0", "attributes": {"a": {}, "b": {"version": "1.2"}, "c": {"int": 1, "bool": true}}}),
                vec![
                    r#"d.attributes[a]: Invalid value: "": exactly one value must be specified"#,
                    r#"d.attributes[b].version: Invalid value: "1.2": must be a string compatible with semver.org spec 2.0.0"#,
                    r#"d.attributes[c]: Invalid value: {"bool":true,"int":1}: exactly one value must be specified"#,
                ],
            ),
            (
                policy(false, json!({})),
                vec!["d.capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
            ),
            (policy(true, json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]})), vec![]),
            (
                policy(true, json!({"default": "3Gi", "validValues": ["2Gi", "1Gi", "20Gi"]})),
                vec![
                    r#"d.capacity[memory].requestPolicy.validValues[1]: Invalid value: "1Gi": values must be sorted in ascending order"#,
                    r#"d.capacity[memory].requestPolicy.validValues[2]: Invalid value: "20Gi": option is larger than capacity value: 10Gi"#,
                    r#"d.capacity[memory].requestPolicy.validValues: Invalid value: "3Gi": default value is not valid according to the requestPolicy"#,
                ],
            ),
            (
                policy(
                    true,
                    json!({"default": "3Gi", "validRange": {"min": "1Gi", "max": "20Gi", "step": "5Gi"}}),
                ),
                vec![
                    r#"d.capacity[memory].requestPolicy.validRange.max: Invalid value: "20Gi": max is larger than capacity value: 10Gi"#,
                    r#"d.capacity[memory].requestPolicy.validRange.step: Invalid value: "3Gi": value is not a multiple of a given step (5Gi) from (1Gi)"#,
                    r#"d.capacity[memory].requestPolicy.validRange.step: Invalid value: "20Gi": value is not a multiple of a given step (5Gi) from (1Gi)"#,
                ],
            ),
            (
                json!({"name": "a", "consumesCounters": [{"counterSet": "", "counters": {}}]}),
                vec![
                    "d.consumesCounters[0].counterSet: Required value",
                    "d.consumesCounters[0].counters: Required value",
                ],
            ),
            (
                json!({"name": "a", "nodeName": "n"}),
                vec![
                    "d: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                ],
            ),
        ] {
            assert_eq!(texts(value, false), expected);
        }
        assert!(texts(json!({"name": "a", "allNodes": true}), true).is_empty());
        assert_eq!(texts(json!({"name": "a"}), true).len(), 1);
    }

    #[test]
    fn versions() {
        for (version, is) in [
            ("1.2.3", true),
            ("0.0.0", true),
            ("1.2.3-alpha.1+build.7", true),
            ("1.2.3+exp-sha", true),
            ("01.2.3", false),
            ("1.2", false),
            ("1.2.3-", false),
            ("1.2.3-01", false),
            ("v1.2.3", false),
        ] {
            assert_eq!(is_semantic_version(version), is, "{version}");
        }
    }
}
