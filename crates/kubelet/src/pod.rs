//! What a pod's spec means to a container runtime: pure functions from API objects to CRI messages.
//!
//! Nothing here does I/O or keeps state; whatever a function needs is an argument.

pub mod cgroup;
pub mod container;
pub mod environment;
pub mod expansion;
pub mod network;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod sysctls;

use api::types::core::v1::{Container, Pod, PodSpec};

/// How a container takes part in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that keeps running beside the others (`restartPolicy: Always`).
    Sidecar,
    /// One of the pod's containers.
    Regular,
    /// Added to a running pod by hand.
    Ephemeral,
}

/// A pod's containers in the order in which they start, with their roles.
pub fn containers(pod: &Pod) -> Vec<(Role, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let role =
            if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
        (role, container.clone())
    });
    let regular = spec.containers.iter().map(|container| (Role::Regular, container.clone()));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (Role::Ephemeral, plain(c.clone())));
    init.chain(regular).chain(ephemeral).collect()
}

/// An ephemeral container is a container in all but its target.
fn plain(c: api::types::core::v1::EphemeralContainer) -> Container {
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// The spec, or an empty one (the API server never sends a pod without).
pub fn spec(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    match &pod.spec {
        Some(spec) => std::borrow::Cow::Borrowed(spec),
        None => std::borrow::Cow::Owned(PodSpec::default()),
    }
}

/// `namespace/name`, for messages.
pub fn full_name(pod: &Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

/// `name_namespace(uid)`, as upstream shows a pod in errors.
pub fn format(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The pod's UID.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether the pod uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}
