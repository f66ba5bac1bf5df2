//! Whether the node can take a pod that was bound to it: pure.
//!
//! The scheduler has asked the same before; this catches what changed meanwhile, and pods that were bound by hand.
//! Upstream: `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta::Quantity;
use api::types::core::v1::Pod;

use crate::pod::resources::{amount, pod_request};
use crate::pod::sysctls;

/// Why the node refuses a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As in `OutOfcpu`.
    pub reason: String,
    /// Details.
    pub message: String,
}

/// Whether the pod is new to the node: nothing of it has been reported yet.
pub fn undecided(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .as_ref()
            .is_none_or(|s| s.start_time.is_none() && matches!(s.phase.as_deref(), None | Some("Pending")))
}

/// Whether the pod counts: it has not come to its end.
fn active(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// What of the node a pod is checked against.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// What pods can have.
    pub allocatable: &'a BTreeMap<String, Quantity>,
    /// The node's own labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Kernel parameters that pods may set beside the safe ones.
    pub allowed_sysctls: &'a [String],
}

/// Checks the pod against what the node allows and what the others have taken.
pub fn check(pod: &Pod, others: &[Arc<Pod>], limits: Limits<'_>) -> Result<(), Refusal> {
    let Limits { allocatable, labels, allowed_sysctls } = limits;
    let refuse = |reason: String, message: String| Err(Refusal { reason, message });
    if let Err(message) = sysctls::admit(pod, allowed_sysctls) {
        return refuse("SysctlForbidden".to_owned(), message);
    }
    let others: Vec<&Arc<Pod>> = others.iter().filter(|other| active(other)).collect();
    let pods = amount(Some(allocatable), "pods").unwrap_or(i64::MAX);
    let taken = others.len() as i64;
    if taken + 1 > pods {
        let message =
            format!("Node didn't have enough resource: pods, requested: 1, used: {taken}, capacity: {pods}");
        return refuse("OutOfpods".to_owned(), message);
    }
    for resource in ["cpu", "memory", "ephemeral-storage"] {
        // Wide enough for any number of pods that each ask for the largest number.
        let capacity = i128::from(amount(Some(allocatable), resource).unwrap_or(0));
        let requested = i128::from(pod_request(pod, resource));
        let used: i128 = others.iter().map(|other| i128::from(pod_request(other, resource))).sum();
        if requested > 0 && used + requested > capacity {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return refuse(format!("OutOf{resource}"), message);
        }
    }
    let selector = pod.spec.iter().flat_map(|spec| spec.node_selector.iter().flatten());
    let matches = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    // Labels that others gave the node are not known here, so only its own can refuse.
    let own = |key: &str| {
        key == "kubernetes.io/hostname" || key == "kubernetes.io/os" || key == "kubernetes.io/arch"
    };
    if selector
        .into_iter()
        .filter(|(key, _)| own(key) && labels.contains_key(*key))
        .any(|pair| !matches(pair))
    {
        let message =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned();
        return refuse("NodeAffinity".to_owned(), message);
    }
    let ports = |pod: &Pod| -> Vec<(i32, String, String)> {
        let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
        containers
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|port| {
                Some((
                    port.host_port.filter(|p| *p > 0)?,
                    port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default(),
                ))
            })
            .collect()
    };
    let wanted = ports(pod);
    // A port on all addresses is in the way of the same port on any.
    let clash = |a: &(i32, String, String), b: &(i32, String, String)| {
        (a.0, &a.1) == (b.0, &b.1) && (a.2.is_empty() || b.2.is_empty() || a.2 == b.2)
    };
    if others.iter().any(|other| ports(other).iter().any(|port| wanted.iter().any(|own| clash(own, port)))) {
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .to_owned();
        return refuse("NodePorts".to_owned(), message);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str, port: i32) -> Arc<Pod> {
        let pod = json!({"spec": {"nodeSelector": {"kubernetes.io/os": if port < 0 { "plan9" } else { "linux" }}, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}, "ports": [{"containerPort": 1, "hostPort": port}]}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let quantity = |text: &str| Quantity(text.to_owned());
        let allocatable =
            BTreeMap::from([("cpu".to_owned(), quantity("1")), ("pods".to_owned(), quantity("2"))]);
        let labels = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
        let limits = Limits { allocatable: &allocatable, labels: &labels, allowed_sysctls: &[] };
        let at = |ip: &str| {
            let mut pod = (*pod("1m", 80)).clone();
            let container = &mut pod.spec.as_mut().unwrap().containers[0];
            container.ports.as_mut().unwrap()[0].host_ip = Some(ip.to_owned());
            Arc::new(pod)
        };
        let tuned: Pod = serde_json::from_value(json!({"spec": {"containers": [], "securityContext": {
            "sysctls": [{"name": "kernel.core_pattern", "value": "|/bin/sh"}]}}}))
        .unwrap();
        for (pod_, others, want) in [
            (Arc::new(tuned), vec![], Some("SysctlForbidden")),
            (at("10.0.0.1"), vec![at("10.0.0.2")], None),
            (at("10.0.0.1"), vec![at("0.0.0.0")], Some("NodePorts")),
            (at("10.0.0.1"), vec![at("10.0.0.1")], Some("NodePorts")),
            (pod("500m", 0), vec![pod("500m", 0)], None),
            (pod("600m", 0), vec![pod("500m", 0)], Some("OutOfcpu")),
            (pod("1m", 0), vec![pod("1m", 0), pod("1m", 0)], Some("OutOfpods")),
            (pod("1m", 80), vec![pod("1m", 80)], Some("NodePorts")),
            (pod("1m", -1), vec![], Some("NodeAffinity")),
        ] {
            let got = check(&pod_, &others, limits).err().map(|refusal| refusal.reason);
            assert_eq!(got.as_deref(), want);
        }
        let message = check(&pod("2", 0), &[], limits).unwrap_err().message;
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 2000, used: 0, capacity: 1000"
        );
    }
}
