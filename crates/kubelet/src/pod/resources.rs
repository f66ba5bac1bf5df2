//! Requests and limits: quality of service, the sum over a pod, and what the kernel is told.
//! Upstream: `pkg/apis/core/v1/helper/qos`, `component-helpers/resource`, `pkg/kubelet/cm/helpers_linux.go`,
//! `pkg/kubelet/qos`.

use std::collections::BTreeMap;

use api::meta::Quantity as WireQuantity;
use api::quantity::Quantity;
use api::types::core::v1::{Container, Pod, ResourceRequirements};
use cri::v1::LinuxContainerResources;

use super::spec;

/// The kernel's smallest weight, and its default period in microseconds.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;

/// A pod's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits, and requests equal to them, of CPU and memory.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

type List = BTreeMap<String, WireQuantity>;

/// CPU in millicores, memory (and everything else) in its own unit. What does not parse counts as nothing.
pub fn amount(list: Option<&List>, resource: &str) -> Option<i64> {
    let quantity: Quantity = list?.get(resource)?.0.parse().ok()?;
    Some(if resource == "cpu" { quantity.milli_value() } else { quantity.value() })
}

fn requests_and_limits(
    resources: Option<&ResourceRequirements>,
    resource: &str,
) -> (Option<i64>, Option<i64>) {
    let limits = resources.and_then(|r| amount(r.limits.as_ref(), resource));
    (resources.and_then(|r| amount(r.requests.as_ref(), resource)).or(limits), limits)
}

/// The pod's quality of service, from its own resources where it has some, else from its containers'.
pub fn qos(pod: &Pod) -> Qos {
    let spec = spec(pod);
    let of_pod = spec.resources.as_ref().filter(|r| r.limits.is_some() || r.requests.is_some());
    let all: Vec<Option<&ResourceRequirements>> = match of_pod {
        Some(resources) => vec![Some(resources)],
        None => spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .map(|c| c.resources.as_ref())
            .collect(),
    };
    let mut asks = false;
    let mut guaranteed = true;
    for resources in all {
        for resource in ["cpu", "memory"] {
            let (request, limit) = requests_and_limits(resources, resource);
            let positive = |value: Option<i64>| value.filter(|value| *value > 0);
            asks |= positive(request).is_some() || positive(limit).is_some();
            guaranteed &= positive(limit).is_some() && request == limit;
        }
    }
    match (asks, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What the whole pod asks of `resource`: the larger of its containers together (with sidecars) and of any step of its
/// initialization, plus overhead; pod-level resources override.
pub fn pod_request(pod: &Pod, resource: &str) -> i64 {
    total(pod, resource, |resources, resource| requests_and_limits(resources, resource).0).unwrap_or(0)
}

/// The pod's limit of `resource`, if every container has one.
pub fn pod_limit(pod: &Pod, resource: &str) -> Option<i64> {
    let spec = spec(pod);
    let own = spec.resources.as_ref().and_then(|r| amount(r.limits.as_ref(), resource));
    let bounded =
        |c: &Container| requests_and_limits(c.resources.as_ref(), resource).1.is_some_and(|v| v > 0);
    if own.is_none() && !spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(bounded) {
        return None;
    }
    total(pod, resource, |resources, resource| requests_and_limits(resources, resource).1)
}

fn total(
    pod: &Pod,
    resource: &str,
    of: fn(Option<&ResourceRequirements>, &str) -> Option<i64>,
) -> Option<i64> {
    let spec = spec(pod);
    let overhead = amount(spec.overhead.as_ref(), resource).unwrap_or(0);
    if let Some(own) = of(spec.resources.as_ref(), resource) {
        return Some(own + overhead);
    }
    let of = |c: &Container| of(c.resources.as_ref(), resource).unwrap_or(0);
    let mut sidecars = 0;
    let mut init = 0;
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += of(container);
            init = init.max(sidecars);
        } else {
            init = init.max(sidecars + of(container));
        }
    }
    let regular: i64 = spec.containers.iter().map(of).sum();
    Some((regular + sidecars).max(init) + overhead)
}

fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota(milli: i64) -> i64 {
    (milli * PERIOD / 1000).max(MIN_QUOTA)
}

/// What the kernel is told about one container.
pub fn of_container(pod: &Pod, container: &Container, memory_capacity: i64) -> LinuxContainerResources {
    let (cpu_request, cpu_limit) = requests_and_limits(container.resources.as_ref(), "cpu");
    let memory_limit = requests_and_limits(container.resources.as_ref(), "memory").1;
    let mut resources = LinuxContainerResources {
        cpu_shares: shares(cpu_request.unwrap_or(0)),
        memory_limit_in_bytes: memory_limit.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        ..LinuxContainerResources::default()
    };
    if let Some(limit) = cpu_limit.filter(|limit| *limit > 0) {
        resources.cpu_period = PERIOD;
        resources.cpu_quota = quota(limit);
    }
    resources
}

/// What the kernel is told about the pod as a whole.
pub fn of_pod(pod: &Pod) -> LinuxContainerResources {
    let mut resources = LinuxContainerResources {
        cpu_shares: shares(pod_request(pod, "cpu")),
        ..LinuxContainerResources::default()
    };
    if let Some(limit) = pod_limit(pod, "cpu").filter(|limit| *limit > 0) {
        resources.cpu_period = PERIOD;
        resources.cpu_quota = quota(limit);
    }
    resources.memory_limit_in_bytes = pod_limit(pod, "memory").unwrap_or(0);
    resources
}

/// Who dies first when memory runs out: upstream's scale from -997 (guaranteed and critical) to 1000 (best effort).
fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    const CRITICAL_PRIORITY: i32 = 2_000_000_000;
    if spec(pod).priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = requests_and_limits(container.resources.as_ref(), "memory").0.unwrap_or(0);
            let share = 1000 - (1000 * i128::from(request) / i128::from(memory_capacity.max(1))) as i64;
            share.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn classes_sums_and_kernel_values() {
        let both = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}});
        for (spec, want_qos, cpu, limit) in [
            (json!({"containers": [{"name": "a"}]}), Qos::BestEffort, 0, None),
            (
                json!({"containers": [{"name": "a", "resources": both("1", "1Gi")}]}),
                Qos::Guaranteed,
                1000,
                Some(1000),
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}, {"name": "b"}]}),
                Qos::Burstable,
                100,
                None,
            ),
            (
                json!({"initContainers": [
                        {"name": "s", "restartPolicy": "Always", "resources": both("100m", "1Mi")},
                        {"name": "i", "resources": both("2", "1Mi")}],
                    "containers": [{"name": "a", "resources": both("1", "1Mi")}]}),
                Qos::Guaranteed,
                2100,
                Some(2100),
            ),
            (
                json!({"resources": {"requests": {"cpu": "3"}}, "containers": [{"name": "a"}]}),
                Qos::Burstable,
                3000,
                None,
            ),
        ] {
            let pod = pod(spec.clone());
            assert_eq!(
                (qos(&pod), pod_request(&pod, "cpu"), pod_limit(&pod, "cpu")),
                (want_qos, cpu, limit),
                "{spec}"
            );
        }
        let pod = pod(json!({"containers": [{"name": "a", "resources":
            {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "2Gi"}}}]}));
        let got = of_container(&pod, &pod.spec.as_ref().unwrap().containers[0], 4 << 30);
        assert_eq!(
            (got.cpu_shares, got.cpu_period, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj),
            (256, 100_000, 50_000, 2 << 30, 750)
        );
    }
}
