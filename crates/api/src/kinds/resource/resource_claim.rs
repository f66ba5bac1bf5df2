//! ResourceClaim: a request for devices.
//! Upstream: pkg/registry/resource/resourceclaim.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{allocation, requests, taints};
use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::optional::{items, items_mut};
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::resource::v1::{AllocatedDeviceStatus, DeviceRequestAllocationResult, ResourceClaim};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column::new(
                "State",
                "string",
                "A summary of the current state (allocated, pending, reserved, etc.).",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ResourceClaim>::new()
                .status(|| Some(json!({})))
                .default_with(|claim| requests::default(claim.spec.as_mut()))
                .validate(|claim| requests::validate(claim.spec.as_ref(), &Path::new("spec")))
                .prepare_for_status_update(prepare_for_status_update)
                .validate_update(validate_update)
                .validate_status_update(allocation::validate_status_update)
                .cells(cells),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", Scope::Namespaced)
    }
}

fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec);
    errors
}

fn prepare_for_status_update(new: &mut ResourceClaim, old: &ResourceClaim) {
    drop_deallocated(new, old);
    let allocation =
        |claim: &ResourceClaim| claim.status.as_ref().and_then(|status| status.allocation.clone());
    // What is there already does not change.
    if allocation(new) == allocation(old) {
        return;
    }
    let allocation = new.status.as_mut().and_then(|status| status.allocation.as_mut());
    let Some(devices) = allocation.and_then(|allocation| allocation.devices.as_mut()) else { return };
    for result in items_mut(&mut devices.results) {
        taints::default_tolerations(&mut result.tolerations);
    }
}

/// Takes what drivers told of devices out of the status once the devices are not the claim's any more: whoever
/// deallocates need not know of it, and may not change it.
/// Upstream: pkg/registry/resource/resourceclaim/strategy.go (dropDeallocatedStatusDevices).
fn drop_deallocated(new: &mut ResourceClaim, old: &ResourceClaim) {
    let allocated = |claim: &ResourceClaim| -> HashSet<Device> {
        let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
        let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
        let results = devices.and_then(|devices| devices.results.as_ref()).into_iter().flatten();
        let device = |result: &DeviceRequestAllocationResult| {
            let DeviceRequestAllocationResult { driver, pool, device, share_id, .. } = result;
            [driver, pool, device, share_id.as_ref().unwrap_or(&String::new())].map(Clone::clone)
        };
        results.map(device).collect()
    };
    let (before, now) = (allocated(old), allocated(new));
    let Some(status) = &mut new.status else { return };
    let Some(devices) = &mut status.devices else { return };
    devices.retain(|told| {
        let AllocatedDeviceStatus { driver, pool, device, share_id, .. } = told;
        let device = [driver, pool, device, share_id.as_ref().unwrap_or(&String::new())].map(Clone::clone);
        !before.contains(&device) || now.contains(&device)
    });
    if devices.is_empty() {
        status.devices = None;
    }
}

/// Driver, pool, device and share.
type Device = [String; 4];

fn cells(claim: &ResourceClaim, now: Timestamp) -> Vec<Value> {
    let deleted = claim.metadata.deletion_timestamp.is_some();
    let status = claim.status.as_ref();
    let allocated = status.is_some_and(|status| status.allocation.is_some());
    let reserved = status.is_some_and(|status| !items(&status.reserved_for).is_empty());
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (allocated && reserved, "reserved"),
    ];
    let states: Vec<_> = states.into_iter().filter(|(holds, _)| *holds).map(|(_, state)| state).collect();
    vec![row::name(&claim.metadata), states.join(",").into(), row::age(&claim.metadata, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_of_what_is_allocated_compare_when_they_do_not_say_how() {
        let hooks = descriptor().hooks;
        let claim = |tolerations: Value| {
            let result = json!({"driver": "d", "pool": "p", "device": "a", "request": "r", "tolerations": tolerations});
            json!({"spec": {}, "status": {"allocation": {"devices": {"results": [result]}}}})
        };
        let nothing = json!({"spec": {}, "status": {}});
        let unsaid = claim(json!([{"key": "k"}]));
        let said = claim(json!([{"key": "k", "operator": "Equal"}]));
        for (what, old, expected) in [
            ("new", &nothing, &said),
            ("sent again", &said, &said),
            ("of before there was a default", &unsaid, &unsaid),
        ] {
            let mut new = unsaid.clone();
            hooks.prepare_for_status_update(&mut new, old);
            assert_eq!(new["status"], expected["status"], "{what}");
        }
    }

    #[test]
    fn what_was_told_of_a_device_goes_with_it() {
        let device = |name: &str| json!({"driver": "d", "pool": "p", "device": name, "request": "r"});
        let claim = |allocated: &[&str], told: &[&str]| -> ResourceClaim {
            let list = |names: &[&str]| names.iter().map(|name| device(name)).collect::<Vec<_>>();
            let status =
                json!({"allocation": {"devices": {"results": list(allocated)}}, "devices": list(told)});
            serde_json::from_value(json!({"spec": {}, "status": status})).unwrap()
        };
        for (what, before, now, told, left) in [
            ("all are gone", &["a", "b"][..], &[][..], &["a", "b"][..], &[][..]),
            ("one is gone", &["a", "b"], &["b"], &["a", "b"], &["b"]),
            ("none is gone", &["a"], &["a", "b"], &["a", "b"], &["a", "b"]),
            ("one that never was there is left to validation", &[], &[], &["x"], &["x"]),
        ] {
            let mut new = claim(now, told);
            drop_deallocated(&mut new, &claim(before, told));
            let devices = new.status.unwrap().devices.unwrap_or_default();
            let names: Vec<_> = devices.iter().map(|told| told.device.as_str()).collect();
            assert_eq!(names, left, "{what}");
        }
    }
}
