//! The configuration of a container.
//!
//! Pure but for the paths it is given: mounts of volumes, `/etc/hosts` and the termination log have been made before.
//! Upstream: `pkg/kubelet/kuberuntime/kuberuntime_container*.go`, `labels.go`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use api::types::core::v1::{Container, Pod};
use cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext,
    Mount, MountPropagation,
};
use sha2::{Digest, Sha256};

use super::{expansion::expand, resources, sandbox, spec};

/// The label that names the container within its pod.
pub const NAME: &str = "io.kubernetes.container.name";
/// Annotations from which a restarted kubelet learns what it started.
pub const HASH: &str = "io.kubernetes.container.hash";
/// How often the container had been restarted before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Where the container leaves its last words.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The pod's grace period, for stopping it when its object is gone.
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Identifies what of a container's spec cannot change without a restart.
pub fn hash(container: &Container) -> String {
    // Only the image may change in a running pod; upstream hashes name and image since 1.34 too.
    let digest =
        Sha256::digest(format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default()));
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `<container>/<restart count>.log`, below the pod's directory of logs.
pub fn log_path(container: &Container, restarts: u32) -> String {
    format!("{}/{restarts}.log", container.name)
}

/// All that a container's configuration is made from.
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How often it was restarted before.
    pub restarts: u32,
    /// What the runtime calls the image that was pulled.
    pub image_ref: String,
    /// The environment, already expanded.
    pub environment: &'a [(String, String)],
    /// The mounts.
    pub mounts: Vec<Mount>,
    /// The security context.
    pub security: LinuxContainerSecurityContext,
    /// The node's memory in bytes.
    pub memory_capacity: i64,
}

/// The container's configuration.
pub fn config(inputs: Inputs<'_>) -> ContainerConfig {
    let Inputs { pod, container, restarts, .. } = inputs;
    let lookup: BTreeMap<&str, &str> =
        inputs.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expanded = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|text| expand(text, |name| lookup.get(name).copied())).collect()
    };
    let mut labels = HashMap::from([(NAME.to_owned(), container.name.clone())]);
    labels.insert(sandbox::POD_NAME.into(), super::name(pod).into());
    labels.insert(sandbox::POD_NAMESPACE.into(), super::namespace(pod).into());
    labels.insert(sandbox::POD_UID.into(), super::uid(pod).into());
    let mut annotations = HashMap::from([
        (HASH.to_owned(), hash(container)),
        (RESTART_COUNT.to_owned(), restarts.to_string()),
        (TERMINATION_PATH.to_owned(), termination_path(container).to_owned()),
        (
            TERMINATION_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".into()),
        ),
    ]);
    if let Some(grace) = spec(pod).termination_grace_period_seconds {
        annotations.insert(GRACE.into(), grace.to_string());
    }
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: restarts }),
        image: Some(ImageSpec {
            image: inputs.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expanded(container.command.as_ref()),
        args: expanded(container.args.as_ref()),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: super::environment::to_cri(inputs.environment),
        mounts: inputs.mounts,
        labels,
        annotations,
        log_path: log_path(container, restarts),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::of_container(pod, container, inputs.memory_capacity)),
            security_context: Some(inputs.security),
        }),
        stop_signal: stop_signal(container),
        ..ContainerConfig::default()
    }
}

fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    name.and_then(cri::v1::Signal::from_str_name).map_or(0, |signal| signal as i32)
}

/// Where the container leaves its last words.
pub fn termination_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

/// A mount of one file or directory of the node.
pub fn bind(container_path: &str, host_path: &Path, read_only: bool, propagation: Option<&str>) -> Mount {
    let propagation = match propagation {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: read_only,
        propagation: propagation as i32,
        ..Mount::default()
    }
}
