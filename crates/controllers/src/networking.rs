//! What several controllers ask of nodes, services and the pods behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta::IntOrString;
use api::types::core::v1::{Node, NodeCondition, ObjectReference, Pod, Service, ServicePort};
use client::Change;
use reconcile::{Caches, Key};

use crate::{claim, object, pods};

/// The index of pods by the node they are on.
pub(crate) const BY_NODE: &str = "node";

/// Values of [`BY_NODE`].
pub(crate) fn by_node(pod: &Pod) -> Vec<String> {
    let node = pods::node(pod);
    if node.is_empty() { Vec::new() } else { vec![node.to_owned()] }
}

/// One condition of a node.
pub(crate) fn node_condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether a node's kubelet says that it works.
pub(crate) fn is_node_ready(node: &Node) -> bool {
    node_condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The label under which an object that belongs to a Service names it.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of what belongs to a Service without an address.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port of a Service as one pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) number: i32,
    pub(crate) app_protocol: Option<String>,
}

/// Wakes the Services that select a pod or did before it changed, if the change is one that endpoints show.
pub(crate) fn wake_services(caches: &Caches, change: &Change<Pod>, wake: &mut dyn FnMut(Key)) {
    let pod = &**change.object();
    if let Some(old) = change.old()
        && object::labels(&**old) == object::labels(pod)
        && shown(old) == shown(pod)
    {
        return;
    }
    for service in caches.list_namespace::<Service>(object::namespace(pod)) {
        let Some(selector) = selector(&service) else { continue };
        let selects = |pod: &Pod| claim::is_subset(selector, object::labels(pod));
        if selects(pod) || change.old().is_some_and(|old| selects(old)) {
            wake(Key::of(&*service));
        }
    }
}

/// What endpoints show of a pod.
fn shown(pod: &Pod) -> impl PartialEq + use<'_> {
    let spec = pod.spec.as_ref();
    (
        pods::is_ready(pod),
        pods::is_terminal(pod),
        object::deleting(pod),
        pods::node(pod),
        pod.status.as_ref().and_then(|status| status.pod_ips.as_ref()),
        pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()),
        spec.map(|spec| (&spec.hostname, &spec.subdomain)),
    )
}

/// The selector of a Service whose endpoints are ours to find.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    // An ExternalName is an alias in DNS and has no endpoints.
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// The pods that a Service selects and that have (or had) an address to serve at.
pub(crate) fn selected(caches: &Caches, service: &Service, terminating: bool) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let mut selected = caches.list_namespace::<Pod>(object::namespace(service));
    selected.retain(|pod| {
        claim::is_subset(selector, object::labels(&**pod))
            && !pods::is_terminal(pod)
            && (terminating || !object::deleting(&**pod))
            && !addresses(pod).is_empty()
    });
    selected
}

/// The addresses of a pod, the primary one first.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    match status.pod_ips.as_deref() {
        Some(all) if !all.is_empty() => all.iter().map(|ip| ip.ip.as_str()).collect(),
        _ => status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect(),
    }
}

/// Whether an address is of IPv6.
pub(crate) fn is_ipv6(address: &str) -> bool {
    address.contains(':')
}

/// Whether a Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods count before they are ready.
pub(crate) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// The ports of a Service as this pod serves them; a named port that the pod does not have is left out.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut found: Vec<_> = ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                number: target(port, &protocol, pod)?,
                protocol,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort();
    found
}

fn target(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // Init containers that stay (sidecars) serve as well.
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let mut all =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            all.find(|found| {
                found.name.as_deref() == Some(name) && found.protocol.as_deref().unwrap_or("TCP") == protocol
            })
            .map(|found| found.container_port)
        }
    }
}

/// The name under which a pod is found below the Service's in DNS.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.as_deref() == Some(object::name(service))).then_some(hostname)
}

/// The reference from an endpoint to its pod.
pub(crate) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The labels that what belongs to a Service takes over from it: all that are not reserved for endpoints.
pub(crate) fn inherited_labels(service: &Service) -> BTreeMap<String, String> {
    const RESERVED: &[&str] = &[
        SERVICE_NAME,
        HEADLESS,
        "endpointslice.kubernetes.io/managed-by",
        "endpoints.kubernetes.io/managed-by",
        "endpointslice.kubernetes.io/skip-mirror",
    ];
    let mut labels = object::labels(service).clone();
    labels.retain(|key, _| !RESERVED.contains(&key.as_str()));
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}
