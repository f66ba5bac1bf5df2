//! ResourceSlice: devices that a driver offers.
//! Upstream: pkg/registry/resource/resourceslice, pkg/apis/resource/validation.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::{devices, names, taints};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Typed};
use crate::kinds::check::{dns_subdomain, driver_name, each, json, unique};
use crate::kinds::core::pod::validation::scheduling::node_selector;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::resource::v1::{Device, ResourceSlice, ResourceSliceSpec};

const DEVICES_MAX: usize = 128;
/// Where a device has taints or consumes counters, which cost the scheduler more.
const COSTLY_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        selectable_fields: vec![
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
            SelectableField::new("spec.driver", "/spec/driver"),
            SelectableField::new("spec.pool.name", "/spec/pool/name"),
        ],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Node", "string", "The node of the devices, when they are of one node"),
            Column::new("Driver", "string", "The driver that offers the devices"),
            Column::new("Pool", "string", "The pool that the devices belong to"),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ResourceSlice>::new()
                .set_times(set_times)
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", Scope::Cluster)
    }
}

/// Since when taints are there that do not say it.
fn set_times(new: &mut Value, _: Option<&Value>, now: Timestamp) {
    let devices = new.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        let taints = device.get_mut("taints").and_then(Value::as_array_mut);
        taints.into_iter().flatten().for_each(|taint| taints::set_time(taint, now));
    }
}

fn validate(slice: &ResourceSlice) -> ErrorList {
    check(&slice.spec, None)
}

fn validate_update(new: &ResourceSlice, old: &ResourceSlice) -> ErrorList {
    check(&new.spec, Some(&old.spec))
}

fn check(spec: &ResourceSliceSpec, old: Option<&ResourceSliceSpec>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    driver_name(&mut errors, &path.child("driver"), &spec.driver);
    let pool_path = path.child("pool");
    names::pool(&mut errors, &pool_path.child("name"), &spec.pool.name);
    if spec.pool.resource_slice_count <= 0 {
        let path = pool_path.child("resourceSliceCount");
        errors.push(field::invalid(&path, spec.pool.resource_slice_count, "must be greater than zero"));
    }
    if spec.pool.generation < 0 {
        let message = "must be greater than or equal to zero";
        errors.push(field::invalid(&pool_path.child("generation"), spec.pool.generation, message));
    }
    if let Some(old) = old {
        immutable(&mut errors, &pool_path.child("name"), &spec.pool.name, &old.pool.name);
        immutable(&mut errors, &path.child("driver"), &spec.driver, &old.driver);
        immutable(&mut errors, &path.child("nodeName"), &spec.node_name, &old.node_name);
    }
    nodes(&mut errors, &path, spec);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.push(field::invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = items(&spec.devices);
    let costly =
        |device: &Device| !items(&device.taints).is_empty() || !items(&device.consumes_counters).is_empty();
    let most = if devices.iter().any(costly) { COSTLY_DEVICES_MAX } else { DEVICES_MAX };
    let per_device = spec.per_device_node_selection == Some(true);
    let old_devices = old.map(|old| items(&old.devices)).unwrap_or_default();
    let devices_path = path.child("devices");
    each(&mut errors, &devices_path, devices, most, |errors, path, device| {
        let old = old_devices.iter().find(|old| old.name == device.name);
        devices::device(errors, path, device, old, per_device);
    });
    if devices.len() <= most {
        unique(&mut errors, &devices_path, devices, |device| device.name.clone());
    }
    let counters_path = path.child("sharedCounters");
    let counters = items(&spec.shared_counters);
    each(&mut errors, &counters_path, counters, COUNTER_SETS_MAX, devices::counter_set);
    unique(&mut errors, &counters_path, counters, |set| set.name.clone());
    errors
}

/// On which nodes the devices are: said in exactly one way.
fn nodes(errors: &mut ErrorList, path: &Path, spec: &ResourceSliceSpec) {
    let mut set = Vec::new();
    match spec.node_name.as_deref() {
        None => {}
        Some("") => {
            let message = "must be either unset or set to a non-empty string";
            errors.push(field::invalid(&path.child("nodeName"), "", message));
        }
        Some(name) => {
            set.push("`nodeName`");
            node_name(errors, &path.child("nodeName"), name);
        }
    }
    if let Some(selector) = &spec.node_selector {
        set.push("`nodeSelector`");
        let path = path.child("nodeSelector");
        node_selector(errors, selector, &path);
        if selector.node_selector_terms.len() != 1 {
            let terms = json(&selector.node_selector_terms);
            let message = "must have exactly one node selector term";
            errors.push(field::invalid(&path.child("nodeSelectorTerms"), terms, message));
        }
    }
    for (name, quoted, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection),
    ] {
        match value {
            None => {}
            Some(true) => set.push(quoted),
            Some(false) => {
                let message = "must be either unset or set to true";
                errors.push(field::invalid(&path.child(name), false, message));
            }
        }
    }
    let message =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.push(field::required(path, message)),
        1 => {}
        _ => {
            let message = format!("{message}, but multiple fields are set");
            errors.push(field::invalid(path, format!("{{{}}}", set.join(", ")), message));
        }
    }
}

/// Refuses what cannot be the name of a node.
pub(super) fn node_name(errors: &mut ErrorList, path: &Path, name: &str) {
    dns_subdomain(errors, path, name);
}

fn cells(slice: &ResourceSlice, now: Timestamp) -> Vec<Value> {
    vec![
        row::name(&slice.metadata),
        row::or_none(text(&slice.spec.node_name)),
        slice.spec.driver.clone().into(),
        slice.spec.pool.name.clone().into(),
        row::age(&slice.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(change: fn(&mut Value)) -> ResourceSliceSpec {
        let mut spec = json!({"driver": "gpu.example.com", "nodeName": "a",
            "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "gpu-0"}]});
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn taints_tell_since_when() {
        let mut slice = json!({"spec": {"devices": [
            {"name": "a"},
            {"name": "b", "taints": [{"key": "k", "effect": "None"}, {"key": "l", "timeAdded": "2025-01-01T00:00:00Z"}]},
        ]}});
        descriptor().hooks.set_times(&mut slice, None, "2026-01-02T00:00:00.7Z".parse().unwrap());
        let taints = &slice["spec"]["devices"][1]["taints"];
        assert_eq!(taints[0]["timeAdded"], "2026-01-02T00:00:00Z");
        assert_eq!(taints[1]["timeAdded"], "2025-01-01T00:00:00Z");
    }

    #[test]
    fn slices_are_checked() {
        let table: [(fn(&mut Value), &[&str]); 7] = [
            (|_| {}, &[]),
            (
                |spec| spec["nodeName"] = Value::Null,
                &[
                    "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
                ],
            ),
            (
                |spec| spec["allNodes"] = true.into(),
                &[
                    r#"spec: Invalid value: "{`nodeName`, `allNodes`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"#,
                ],
            ),
            (
                |spec| spec["pool"] = json!({"name": "", "generation": -1, "resourceSliceCount": 0}),
                &[
                    "spec.pool.name: Required value",
                    "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                    "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
                ],
            ),
            (
                |spec| spec["devices"] = json!([{"name": "a"}, {"name": "a"}]),
                &[r#"spec.devices[1]: Duplicate value: "a""#],
            ),
            (
                |spec| {
                    let taints = json!([{"key": "k", "effect": "NoSchedule"}]);
                    let device = |index: usize| json!({"name": format!("d{index}"), "taints": taints});
                    spec["devices"] = (0..65).map(device).collect();
                },
                &["spec.devices: Too many: 65: must have at most 64 items"],
            ),
            (
                |spec| spec["sharedCounters"] = json!([{"name": "c", "counters": {"m": {"value": "1"}}}]),
                &[r#"spec: Invalid value: "": only one of `sharedCounters` or `devices` is allowed"#],
            ),
        ];
        for (change, expected) in table {
            assert_eq!(texts(&check(&spec(change), None)), expected);
        }
    }

    #[test]
    fn where_they_are_and_whose_is_final() {
        let new = spec(|spec| {
            spec["driver"] = "other.example.com".into();
            spec["nodeName"] = "b".into();
            spec["pool"]["generation"] = 2.into();
        });
        assert_eq!(
            texts(&check(&new, Some(&spec(|_| {})))),
            [
                r#"spec.driver: Invalid value: "other.example.com": field is immutable"#,
                r#"spec.nodeName: Invalid value: "b": field is immutable"#
            ]
        );
    }
}
