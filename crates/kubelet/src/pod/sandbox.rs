//! The configuration of a pod's sandbox.
//! Upstream: `pkg/kubelet/kuberuntime/kuberuntime_sandbox*.go`, `labels.go`.

use std::collections::HashMap;

use api::types::core::v1::Pod;
use cri::v1::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};

use super::network::{Resolver, dns, sandbox_hostname};
use super::{cgroup, resources, security, spec, sysctls};

/// Labels that every sandbox and container carries, by which they are found again.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// See [`POD_NAME`].
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// See [`POD_NAME`].
pub const POD_UID: &str = "io.kubernetes.pod.uid";

/// What the node adds to a pod's sandbox.
pub struct Node<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Where the logs of pods are.
    pub logs: &'a std::path::Path,
    /// The kubelet's directory.
    pub root: &'a str,
    /// The control group below which all pods are.
    pub cgroup_root: &'a str,
    /// Names.
    pub resolver: &'a Resolver,
}

/// `<namespace>_<name>_<uid>`: the pod's directory of logs.
pub fn log_directory(pod: &Pod) -> String {
    format!("{}_{}_{}", super::namespace(pod), super::name(pod), super::uid(pod))
}

/// The pod's own labels and those by which it is found.
pub fn labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.insert(POD_NAME.into(), super::name(pod).into());
    labels.insert(POD_NAMESPACE.into(), super::namespace(pod).into());
    labels.insert(POD_UID.into(), super::uid(pod).into());
    labels
}

/// The sandbox's configuration for its `attempt`-th life.
pub fn config(pod: &Pod, attempt: u32, node: &Node<'_>) -> PodSandboxConfig {
    let spec = spec(pod);
    let mut ports = Vec::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for port in container.ports.iter().flatten() {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            ports.push(PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port: port.host_port.unwrap_or(0),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            });
        }
    }
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    let overhead = spec.overhead.as_ref().map(|_| cri::v1::LinuxContainerResources {
        cpu_shares: resources::amount(spec.overhead.as_ref(), "cpu").unwrap_or(0) * 1024 / 1000,
        memory_limit_in_bytes: resources::amount(spec.overhead.as_ref(), "memory").unwrap_or(0),
        ..Default::default()
    });
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: super::name(pod).into(),
            uid: super::uid(pod).into(),
            namespace: super::namespace(pod).into(),
            attempt,
        }),
        hostname: sandbox_hostname(pod, node.name, &node.resolver.cluster_domain),
        log_directory: node.logs.join(log_directory(pod)).to_string_lossy().into_owned(),
        dns_config: Some(dns(pod, node.resolver)),
        port_mappings: if super::host_network(pod) { Vec::new() } else { ports },
        labels: labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup::of_pod(node.cgroup_root, pod),
            security_context: Some(security::of_sandbox(pod, node.root)),
            sysctls: sysctls
                .iter()
                .flat_map(|s| s.iter())
                .map(|s| (sysctls::dotted(&s.name), s.value.clone()))
                .collect(),
            overhead,
            resources: Some(resources::of_pod(pod)),
        }),
        windows: None,
    }
}
