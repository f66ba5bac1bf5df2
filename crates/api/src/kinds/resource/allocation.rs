//! The status of a ResourceClaim: what was allocated, for whom it is reserved, and how the devices are.
//! Upstream: `ValidateResourceClaimStatusUpdate` of pkg/apis/resource/validation.

use serde_json::json;

use super::names::{self, RequestNames, configuration};
use super::requests::references;
use super::taints;
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{conditions, dns_label, driver_name, each, unique};
use crate::kinds::core::pod::validation::scheduling::node_selector;
use crate::kinds::optional::{items, text};
use crate::meta_validation::immutable;
use crate::names::parse_cidr;
use crate::types::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, NetworkDeviceData, ResourceClaim,
    ResourceClaimConsumerReference, ResourceClaimStatus,
};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
/// Of the claim and of the class.
const CONFIG_MAX: usize = 64;
const CONDITIONS_MAX: usize = 8;
const DATA_MAX: usize = 10 * 1024;

/// The name of a device, or of a share of one: driver, pool, device, share.
type DeviceId<'a> = (&'a str, &'a str, &'a str, &'a str);

/// What is wrong with an update of the status.
pub(super) fn validate_status_update(new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let empty = ResourceClaimStatus::default();
    let (status, old) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let requests = RequestNames::of(new.spec.as_ref().and_then(|spec| spec.devices.as_ref()));

    let reserved = items(&status.reserved_for);
    let reserved_path = path.child("reservedFor");
    each(&mut errors, &reserved_path, reserved, RESERVED_MAX, consumer);
    if reserved.len() <= RESERVED_MAX {
        unique(&mut errors, &reserved_path, reserved, |consumer| consumer.uid.clone());
    }

    let results = status.allocation.as_ref().and_then(|allocation| allocation.devices.as_ref());
    let results = results.map(|devices| items(&devices.results)).unwrap_or_default();
    let allocated: Vec<DeviceId<'_>> =
        results.iter().map(|one| (&*one.driver, &*one.pool, &*one.device, text(&one.share_id))).collect();
    let devices_path = path.child("devices");
    for (index, device) in items(&status.devices).iter().enumerate() {
        device_status(&mut errors, &devices_path.index(index), device, &allocated);
    }
    unique(&mut errors, &devices_path, items(&status.devices), |device| shown(id_of(device)));

    if !reserved.is_empty() {
        let added = |consumer: &&ResourceClaimConsumerReference| !items(&old.reserved_for).contains(consumer);
        if status.allocation.is_none() {
            let message = "may not be specified when `allocated` is not set";
            errors.push(field::forbidden(&reserved_path, message));
        } else if new.metadata.deletion_timestamp.is_some() && reserved.iter().any(|one| added(&one)) {
            let message =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(field::forbidden(&reserved_path, message));
        }
    }
    match (&status.allocation, &old.allocation) {
        (Some(_), Some(_)) => {
            immutable(&mut errors, &path.child("allocation"), &status.allocation, &old.allocation);
        }
        (Some(new), None) => allocation(&mut errors, &path.child("allocation"), new, &requests),
        (None, _) => {}
    }
    errors
}

fn consumer(errors: &mut ErrorList, path: &Path, consumer: &ResourceClaimConsumerReference) {
    for (name, value) in [("resource", &consumer.resource), ("name", &consumer.name), ("uid", &consumer.uid)]
    {
        if value.is_empty() {
            errors.push(field::required(&path.child(name), ""));
        }
    }
}

fn allocation(
    errors: &mut ErrorList,
    path: &Path,
    allocation: &AllocationResult,
    requests: &RequestNames<'_>,
) {
    if let Some(devices) = &allocation.devices {
        let path = path.child("devices");
        each(errors, &path.child("results"), items(&devices.results), RESULTS_MAX, |errors, path, result| {
            requests.reference(errors, &path.child("request"), &result.request);
            driver_name(errors, &path.child("driver"), &result.driver);
            names::pool(errors, &path.child("pool"), &result.pool);
            dns_label(errors, &path.child("device"), &result.device);
            let failures = items(&result.binding_failure_conditions);
            taints::binding(errors, path, items(&result.binding_conditions), failures);
            if let Some(share) = &result.share_id {
                names::uid(errors, &path.child("shareID"), share);
            }
        });
        each(errors, &path.child("config"), items(&devices.config), CONFIG_MAX, |errors, path, config| {
            let source_path = path.child("source");
            match config.source.as_str() {
                "" => errors.push(field::required(&source_path, "")),
                "FromClaim" | "FromClass" => {}
                other => {
                    errors.push(field::not_supported(&source_path, other, &["FromClaim", "FromClass"]));
                }
            }
            references(errors, &path.child("requests"), items(&config.requests), requests);
            configuration(errors, path, config.opaque.as_ref());
        });
    }
    if let Some(selector) = &allocation.node_selector {
        node_selector(errors, selector, &path.child("nodeSelector"));
    }
}

fn id_of(device: &AllocatedDeviceStatus) -> DeviceId<'_> {
    (&device.driver, &device.pool, &device.device, text(&device.share_id))
}

/// A device as errors show it.
fn shown((driver, pool, device, share): DeviceId<'_>) -> serde_json::Value {
    json!({"Driver": driver, "Pool": pool, "Device": device, "ShareID": share})
}

fn device_status(
    errors: &mut ErrorList,
    path: &Path,
    device: &AllocatedDeviceStatus,
    allocated: &[DeviceId<'_>],
) {
    driver_name(errors, &path.child("driver"), &device.driver);
    names::pool(errors, &path.child("pool"), &device.pool);
    dns_label(errors, &path.child("device"), &device.device);
    if let Some(share) = &device.share_id {
        names::uid(errors, &path.child("shareID"), share);
    }
    if !allocated.contains(&id_of(device)) {
        let message = "must be an allocated device in the claim";
        errors.push(field::invalid(path, shown(id_of(device)), message));
    }
    let conditions_path = path.child("conditions");
    let list = items(&device.conditions);
    if list.len() > CONDITIONS_MAX {
        errors.push(field::too_many(&conditions_path, list.len(), CONDITIONS_MAX));
    }
    conditions(errors, &conditions_path, list);
    if let Some(data) = device.data.as_ref().filter(|data| !data.0.is_null()) {
        names::raw(errors, &path.child("data"), data, DATA_MAX);
    }
    if let Some(network) = &device.network_data {
        network_data(errors, &path.child("networkData"), network);
    }
}

fn network_data(errors: &mut ErrorList, path: &Path, network: &NetworkDeviceData) {
    const ADDRESSES_MAX: usize = 16;
    for (name, value, max) in
        [("interfaceName", &network.interface_name, 256), ("hardwareAddress", &network.hardware_address, 128)]
    {
        if text(value).len() > max {
            errors.push(field::too_long(&path.child(name), max));
        }
    }
    let path = path.child("ips");
    let addresses = items(&network.ips);
    each(errors, &path, addresses, ADDRESSES_MAX, |errors, path, address| match parse_cidr(address) {
        None => {
            let message = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.push(field::invalid(path, address.as_str(), message));
        }
        Some((ip, length)) => {
            let canonical = format!("{ip}/{length}");
            if canonical != *address {
                let message = format!("must be in canonical form (\"{canonical}\")");
                errors.push(field::invalid(path, address.as_str(), message));
            }
        }
    });
    unique(errors, &path, addresses, String::clone);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn claim(status: Value) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "status": status,
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}}))
        .unwrap()
    }

    fn errors(new: &Value, old: &Value) -> Vec<String> {
        validate_status_update(&claim(new.clone()), &claim(old.clone()))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn result(request: &str) -> Value {
        json!({"request": request, "driver": "gpu.example.com", "pool": "node-a", "device": "gpu-0"})
    }

    #[test]
    fn what_is_allocated_is_of_the_claim_and_stays() {
        let allocated = json!({"allocation": {"devices": {"results": [result("gpu")]}}});
        assert_eq!(errors(&allocated, &json!({})), Vec::<String>::new());
        assert_eq!(
            errors(&json!({"allocation": {"devices": {"results": [result("other")]}}}), &json!({})),
            [
                r#"status.allocation.devices.results[0].request: Invalid value: "other": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#
            ]
        );
        let changed = json!({"allocation": {"devices": {"results": []}}});
        let found = errors(&changed, &allocated);
        assert!(found.len() == 1 && found[0].ends_with("field is immutable"), "{found:?}");
        assert!(errors(&json!({}), &allocated).is_empty());
    }

    #[test]
    fn reservations_need_an_allocation_and_are_unique() {
        let consumer = json!({"resource": "pods", "name": "p", "uid": "u"});
        assert_eq!(
            errors(&json!({"reservedFor": [consumer]}), &json!({})),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        let allocated = json!({"devices": {"results": [result("gpu")]}});
        assert_eq!(
            errors(
                &json!({"allocation": allocated, "reservedFor": [consumer, consumer, {"resource": "", "name": "n", "uid": "v"}]}),
                &json!({"allocation": allocated})
            ),
            [
                "status.reservedFor[2].resource: Required value",
                r#"status.reservedFor[1]: Duplicate value: "u""#
            ]
        );
    }

    #[test]
    fn statuses_are_of_allocated_devices() {
        let allocation = json!({"devices": {"results": [result("gpu")]}});
        let device = |name: &str| {
            json!({"driver": "gpu.example.com", "pool": "node-a", "device": name,
                   "networkData": {"ips": ["10.0.0.1/24", "10.0.0.1"]}})
        };
        let old = json!({"allocation": allocation});
        assert_eq!(
            errors(&json!({"allocation": allocation, "devices": [device("gpu-1")]}), &old),
            [
                r#"status.devices[0]: Invalid value: {"Device":"gpu-1","Driver":"gpu.example.com","Pool":"node-a","ShareID":""}: must be an allocated device in the claim"#,
                r#"status.devices[0].networkData.ips[1]: Invalid value: "10.0.0.1": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"#
            ]
        );
        assert_eq!(errors(&json!({"allocation": allocation, "devices": [device("gpu-0")]}), &old).len(), 1);
    }
}
