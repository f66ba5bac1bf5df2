//! How much of what quotas bound an object uses.
//! Pure functions over objects.
//! Upstream: pkg/quota/v1/evaluator/core, apiserver/pkg/quota/v1/generic.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::pod_resources::{self, Resources, of_container, of_pod};
use crate::quantity::{Format, Quantity};
use crate::types::core::v1 as core;
use crate::{GroupResource, Object, Status};

/// Amounts by the names that quotas give them: `pods`, `requests.cpu`, `count/deployments.apps`.
pub type Usage = BTreeMap<String, Quantity>;

const ONE: i64 = 1;
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const DEVICES_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// How many devices a claim for all of them may be given.
const ALL_DEVICES: i64 = 32;
/// The resources of the core group that quotas may name without `count/`.
const PLAIN: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What every container of a pod must give once a quota bounds it: otherwise it could not be counted.
const GIVEN: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// The text at a pointer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the array at a pointer; none where there is none.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn typed<T: DeserializeOwned>(object: &Object) -> Result<T, Status> {
    crate::json::typed(&object.0).map_err(|error| Status::bad_request(error.to_string()))
}

fn one() -> Quantity {
    Quantity::new(ONE, Format::DecimalSi)
}

/// Whether this is the resource `pods`.
pub fn is_pod(resource: &GroupResource) -> bool {
    resource.group.is_empty() && resource.resource == "pods"
}

/// Whether a quota on this name wants every container to give the amount.
pub fn must_be_given(name: &str) -> bool {
    GIVEN.contains(&name)
}

/// Whether an update can change what the object uses.
pub fn changes_with_updates(resource: &GroupResource) -> bool {
    resource.group.is_empty() && matches!(resource.resource.as_str(), "services" | "persistentvolumeclaims")
}

/// Whether the object uses nothing any more at `now`, though it is still there: a pod that has ended, or one that is being
/// deleted and whose grace period is over (its node may be gone, and its namespace should not pay for that).
pub fn is_over(resource: &GroupResource, object: &Object, now: Timestamp) -> bool {
    is_pod(resource)
        && (matches!(text(&object.0, "/status/phase"), "Succeeded" | "Failed")
            || ends_at(object).is_some_and(|end| end < now))
}

/// When the grace period of a pod that is being deleted is over.
pub fn ends_at(object: &Object) -> Option<Timestamp> {
    let grace = object.0["metadata"]["deletionGracePeriodSeconds"].as_i64()?;
    let asked: Timestamp = text(&object.0, "/metadata/deletionTimestamp").parse().ok()?;
    asked.checked_add(SignedDuration::from_secs(grace)).ok()
}

/// What an object uses.
///
/// # Errors
/// 400 where the object is not of its type.
pub fn of(resource: &GroupResource, object: &Object) -> Result<Usage, Status> {
    if is_pod(resource) {
        return Ok(of_pod_object(&typed(object)?));
    }
    let mut usage = counted(resource);
    if resource.group.is_empty() {
        match resource.resource.as_str() {
            "services" => service(object, &mut usage),
            "persistentvolumeclaims" => claim(object, &mut usage),
            _ => {}
        }
    }
    if resource.group == "resource.k8s.io" && resource.resource == "resourceclaims" {
        devices(object, &mut usage);
    }
    Ok(usage)
}

/// What any object of a resource uses: one by number.
pub fn counted(resource: &GroupResource) -> Usage {
    let mut usage = Usage::from([(format!("count/{resource}"), one())]);
    if resource.group.is_empty() && PLAIN.contains(&resource.resource.as_str()) {
        usage.insert(resource.resource.clone(), one());
    }
    usage
}

/// What a pod uses.
pub fn of_pod_object(object: &core::Pod) -> Usage {
    let mut usage = counted(&GroupResource::new("", "pods"));
    pod(object, &mut usage);
    usage
}

fn pod(pod: &core::Pod, usage: &mut Usage) {
    let Some(spec) = &pod.spec else { return };
    let (mut requests, mut limits) = of_pod(spec);
    if let Some(overhead) = &spec.overhead {
        pod_resources::add(&mut requests, overhead);
        // A limit that is not there stays unlimited.
        let bounded: Resources = overhead
            .iter()
            .filter(|(name, _)| limits.contains_key(*name))
            .map(|(n, q)| (n.clone(), q.clone()))
            .collect();
        pod_resources::add(&mut limits, &bounded);
    }
    for (name, wire) in &requests {
        let Ok(amount) = Quantity::from_wire(wire) else { continue };
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, wire) in &limits {
        let Ok(amount) = Quantity::from_wire(wire) else { continue };
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(service: &Object, usage: &mut Usage) {
    let ports = items(&service.0, "/spec/ports").count() as i64;
    let count = |n: i64| Quantity::new(n, Format::DecimalSi);
    let kind = text(&service.0, "/spec/type");
    let node_ports = match kind {
        "NodePort" => ports,
        "LoadBalancer" if service.0["spec"]["allocateLoadBalancerNodePorts"] != false => ports,
        "LoadBalancer" => {
            let given =
                items(&service.0, "/spec/ports").filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0);
            given.count() as i64
        }
        _ => 0,
    };
    usage.insert("services.nodeports".into(), count(node_ports));
    usage.insert("services.loadbalancers".into(), count(i64::from(kind == "LoadBalancer")));
}

fn claim(claim: &Object, usage: &mut Usage) {
    let class = match claim.annotation("volume.beta.kubernetes.io/storage-class") {
        Some(class) => class,
        None => text(&claim.0, "/spec/storageClassName"),
    };
    let asked = Quantity::parse(text(&claim.0, "/spec/resources/requests/storage")).ok();
    // A claim that is growing already has what it was given.
    let given = Quantity::parse(text(&claim.0, "/status/allocatedResources/storage")).ok();
    let storage = asked.max(given);
    if !class.is_empty() {
        usage.insert(format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), one());
    }
    if let Some(storage) = storage {
        usage.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), storage);
        }
    }
}

/// Counts the devices that a claim may be given, by their classes; of alternatives the most that one of them takes.
fn devices(claim: &Object, usage: &mut Usage) {
    let wanted = |request: &Value| {
        let number = match text(request, "/allocationMode") {
            "All" => ALL_DEVICES,
            "ExactCount" | "" => request["count"].as_i64().unwrap_or(ONE),
            // Nobody knows how many another mode takes.
            _ => 0,
        };
        let name = format!("{}{DEVICES_SUFFIX}", text(request, "/deviceClassName"));
        (name, Quantity::new(number, Format::DecimalSi))
    };
    for request in items(&claim.0, "/spec/devices/requests") {
        let mut most = Usage::new();
        let exactly = request.get("exactly").filter(|exactly| exactly.is_object());
        for (name, number) in exactly.into_iter().chain(items(request, "/firstAvailable")).map(wanted) {
            let held = most.entry(name).or_insert(number);
            *held = (*held).max(number);
        }
        for (name, number) in most {
            let held = usage.get(&name).copied().unwrap_or_default();
            usage.insert(name, held + number);
        }
    }
}

/// How much more `new` is than `old`, name by name.
pub fn difference(new: Usage, old: Usage) -> Usage {
    let mut out = new;
    for (name, before) in old {
        let after = out.get(&name).copied().unwrap_or_default();
        out.insert(name, after - before);
    }
    out
}

/// The resources whose objects have to be looked at to count these names.
pub fn resources_behind<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<GroupResource> {
    names
        .map(|name| {
            if let Some(counted) = name.strip_prefix("count/") {
                let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
                return GroupResource::new(group, resource);
            }
            if name.ends_with(DEVICES_SUFFIX) {
                return GroupResource::new("resource.k8s.io", "resourceclaims");
            }
            let resource = match name {
                "services.nodeports" | "services.loadbalancers" => "services",
                "requests.storage" => "persistentvolumeclaims",
                name if name.contains(CLASS_SUFFIX) => "persistentvolumeclaims",
                name if PLAIN.contains(&name) => name,
                _ => "pods",
            };
            GroupResource::new("", resource)
        })
        .collect()
}

/// What containers do not give though a quota bounds it: `limits.cpu for: a,b; memory for: a`.
///
/// # Errors
/// 400 where the pod is not of its type.
pub fn missing(resource: &GroupResource, object: &Object, hard: &Usage) -> Result<Option<String>, Status> {
    if !is_pod(resource) {
        return Ok(None);
    }
    let pod: core::Pod = typed(object)?;
    let Some(spec) = pod.spec else { return Ok(None) };
    let whole = spec.resources.clone().unwrap_or_default();
    let mut lacking: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let (requests, limits) = of_container(container);
        for name in GIVEN.iter().filter(|name| hard.contains_key(**name)) {
            let (own, pod, resource) = match name.split_once('.') {
                Some(("limits", resource)) => (&limits, &whole.limits, resource),
                Some((_, resource)) => (&requests, &whole.requests, resource),
                None => (&requests, &whole.requests, *name),
            };
            let given =
                own.contains_key(resource) || pod.as_ref().is_some_and(|pod| pod.contains_key(resource));
            if !given {
                lacking.entry(name).or_default().insert(&container.name);
            }
        }
    }
    if lacking.is_empty() {
        return Ok(None);
    }
    let parts: Vec<String> = lacking
        .into_iter()
        .map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    Ok(Some(parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_use_devices_of_classes() {
        let exactly = |class: &str, mode: &str, count: i64| json!({ "deviceClassName": class, "allocationMode": mode, "count": count });
        let claim = Object(json!({ "spec": { "devices": { "requests": [
            { "name": "a", "exactly": exactly("gpu", "ExactCount", 2) },
            { "name": "b", "exactly": exactly("nic", "All", 0) },
            { "name": "c", "firstAvailable": [exactly("gpu", "ExactCount", 1), exactly("gpu", "ExactCount", 4),
                exactly("tpu", "ExactCount", 1)] },
            { "name": "d", "exactly": exactly("new", "Some", 7) },
        ] } } }));
        let usage = of(&GroupResource::new("resource.k8s.io", "resourceclaims"), &claim).unwrap();
        let shown: Vec<String> = usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        assert_eq!(
            shown,
            [
                "count/resourceclaims.resource.k8s.io=1",
                "gpu.deviceclass.resource.k8s.io/devices=6",
                "new.deviceclass.resource.k8s.io/devices=0",
                "nic.deviceclass.resource.k8s.io/devices=32",
                "tpu.deviceclass.resource.k8s.io/devices=1",
            ]
        );
        let behind = resources_behind(["gpu.deviceclass.resource.k8s.io/devices"].into_iter());
        assert_eq!(
            behind.first().map(ToString::to_string).as_deref(),
            Some("resourceclaims.resource.k8s.io")
        );
    }
}
