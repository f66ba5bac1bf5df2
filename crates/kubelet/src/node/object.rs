//! What the Node object says: pure, but for the conditions' measurements that are passed in.
//! Upstream: `pkg/kubelet/nodestatus/setters.go`.

use std::collections::BTreeMap;

use api::meta::{ObjectMeta, Quantity, Time};
use api::types::core::v1::Node as NodeObject;
use api::types::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus,
};
use jiff::Timestamp;

use super::info::Machine;

/// All that the object is made from.
pub(crate) struct Facts<'a> {
    pub name: &'a str,
    pub ips: &'a [String],
    pub labels: &'a BTreeMap<String, String>,
    pub machine: &'a Machine,
    pub capacity: &'a BTreeMap<String, Quantity>,
    pub runtime: String,
    pub version: &'a str,
    pub port: Option<u16>,
    pub images: Vec<ContainerImage>,
    pub handlers: Vec<cri::v1::RuntimeHandler>,
    /// Why the node is not ready, if it is not.
    pub unready: Option<String>,
    pub now: Timestamp,
}

/// The labels that every node has, and those it was given.
pub(crate) fn labels(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let architecture = facts.machine.system.architecture.as_str();
    let own = [
        ("beta.kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("kubernetes.io/hostname", facts.name),
        ("kubernetes.io/os", "linux"),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(facts.labels.clone()).collect()
}

/// The object as it is registered.
pub(crate) fn object(facts: &Facts<'_>) -> NodeObject {
    NodeObject {
        metadata: ObjectMeta {
            name: Some(facts.name.to_owned()),
            labels: Some(labels(facts)),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(status(facts, &NodeStatus::default())),
    }
}

/// The status, given the one before.
pub(crate) fn status(facts: &Facts<'_>, old: &NodeStatus) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> = facts
        .ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.clone() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: facts.name.to_owned() });
    let handlers = facts.handlers.iter().map(|handler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(
                handler.features.is_some_and(|features| features.recursive_read_only_mounts),
            ),
            // Whatever the runtime can do: this node gives out no ranges of user IDs.
            user_namespaces: Some(false),
        }),
    });
    let mut info = facts.machine.system.clone();
    info.container_runtime_version = facts.runtime.clone();
    info.kubelet_version = facts.version.to_owned();
    info.kube_proxy_version = String::new();
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(facts.capacity.clone()),
        allocatable: Some(facts.capacity.clone()),
        conditions: Some(conditions(facts, old)),
        daemon_endpoints: facts.port.map(|port| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        images: Some(facts.images.clone()).filter(|images| !images.is_empty()),
        node_info: Some(info),
        runtime_handlers: Some(handlers.collect::<Vec<_>>()).filter(|handlers| !handlers.is_empty()),
        volumes_attached: old.volumes_attached.clone(),
        ..NodeStatus::default()
    }
}

fn conditions(facts: &Facts<'_>, old: &NodeStatus) -> Vec<NodeCondition> {
    let not_ready = facts.unready.clone();
    let rows: [(&str, bool, &str, String); 4] = [
        (
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available".into(),
        ),
        ("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".into()),
        ("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".into()),
        match not_ready {
            None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".into()),
            Some(why) => ("Ready", false, "KubeletNotReady", why),
        },
    ];
    let mut result: Vec<NodeCondition> = old
        .conditions
        .iter()
        .flatten()
        .filter(|condition| rows.iter().all(|row| row.0 != condition.type_))
        .cloned()
        .collect();
    for (kind, ok, reason, message) in rows {
        let status = if ok { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
        result.push(NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(facts.now)),
            last_transition_time: Some(
                before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(facts.now)),
            ),
        });
    }
    result
}

/// Whether two statuses say the same but for the times of heartbeats.
pub(crate) fn same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let strip = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    strip(one) == strip(other)
}
