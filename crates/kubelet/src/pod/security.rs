//! Security contexts as the runtime takes them: the container's own settings over its pod's.
//! Upstream: `pkg/kubelet/kuberuntime/security_context*.go`, `pkg/securitycontext`.

use api::types::core::v1::{AppArmorProfile, Container, Pod, SELinuxOptions, SeccompProfile};
use cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};

use super::spec;

/// Paths of `/proc` and `/sys` that an ordinary container does not see, and that it may not write.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The namespaces that containers share; `target` is the container whose processes an ephemeral one is to see.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> NamespaceOption {
    let spec = spec(pod);
    let mode = |host: Option<bool>, other: NamespaceMode| {
        if host == Some(true) { NamespaceMode::Node as i32 } else { other as i32 }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    let mut options = NamespaceOption {
        network: mode(spec.host_network, NamespaceMode::Pod),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ..NamespaceOption::default()
    };
    if let Some(target) = target
        && options.pid == NamespaceMode::Container as i32
    {
        options.pid = NamespaceMode::Target as i32;
        options.target_id = target.to_owned();
    }
    options
}

/// Groups that every process of the pod is in.
fn groups(pod: &Pod) -> Vec<i64> {
    let security = spec(pod).security_context.clone().unwrap_or_default();
    security.fs_group.into_iter().chain(security.supplemental_groups.into_iter().flatten()).collect()
}

fn groups_policy(pod: &Pod) -> i32 {
    match spec(pod).security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref()) {
        Some("Strict") => SupplementalGroupsPolicy::Strict as i32,
        _ => SupplementalGroupsPolicy::Merge as i32,
    }
}

fn profile(kind: ProfileType, localhost: Option<&str>) -> SecurityProfile {
    SecurityProfile { profile_type: kind as i32, localhost_ref: localhost.unwrap_or_default().to_owned() }
}

/// Upstream's default for a pod that names none is to be unconfined.
fn seccomp(own: Option<&SeccompProfile>, root: &str) -> SecurityProfile {
    match own.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => profile(ProfileType::RuntimeDefault, None),
        Some("Localhost") => {
            let file = own.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            profile(ProfileType::Localhost, Some(&format!("{root}/seccomp/{file}")))
        }
        _ => profile(ProfileType::Unconfined, None),
    }
}

fn apparmor(own: Option<&AppArmorProfile>) -> Option<SecurityProfile> {
    Some(match own?.type_.as_str() {
        "RuntimeDefault" => profile(ProfileType::RuntimeDefault, None),
        "Localhost" => profile(ProfileType::Localhost, own?.localhost_profile.as_deref()),
        _ => profile(ProfileType::Unconfined, None),
    })
}

fn selinux(own: Option<&SELinuxOptions>) -> Option<SeLinuxOption> {
    own.map(|o| SeLinuxOption {
        user: o.user.clone().unwrap_or_default(),
        role: o.role.clone().unwrap_or_default(),
        r#type: o.type_.clone().unwrap_or_default(),
        level: o.level.clone().unwrap_or_default(),
    })
}

fn int64(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

/// The sandbox's security context. `root` is the kubelet's directory, where local seccomp profiles are.
pub fn of_sandbox(pod: &Pod, root: &str) -> LinuxSandboxSecurityContext {
    let spec = spec(pod);
    let security = spec.security_context.clone().unwrap_or_default();
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(security.se_linux_options.as_ref()),
        run_as_user: int64(security.run_as_user),
        run_as_group: int64(security.run_as_group),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged,
        // Upstream: the sandbox runs with the runtime's default profile whatever its containers ask for.
        seccomp: Some(match security.seccomp_profile.as_ref() {
            Some(own) => seccomp(Some(own), root),
            None => profile(ProfileType::RuntimeDefault, None),
        }),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// One container's security context. `image_user` is the user that the image names (a number or a name).
pub fn of_container(
    pod: &Pod,
    container: &Container,
    root: &str,
    image_user: Option<(Option<i64>, &str)>,
    target: Option<&str>,
) -> Result<LinuxContainerSecurityContext, String> {
    let of_pod = spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(run_as_user, image_user, pod, container)?;
    }
    let mut context = LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(pod, target)),
        privileged,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        run_as_user: int64(run_as_user),
        run_as_group: int64(own.run_as_group.or(of_pod.run_as_group)),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        selinux_options: selinux(own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref())),
        apparmor: apparmor(own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref())),
        ..LinuxContainerSecurityContext::default()
    };
    if let Some(capabilities) = own.capabilities {
        context.capabilities = Some(Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Capability::default()
        });
    }
    context.seccomp = Some(if privileged {
        profile(ProfileType::Unconfined, None)
    } else {
        seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), root)
    });
    // The user came from the image: the runtime is told, so that it checks nothing against its own default.
    if context.run_as_user.is_none()
        && let Some((uid, name)) = image_user
    {
        match uid {
            Some(uid) => context.run_as_user = int64(Some(uid)),
            None => context.run_as_username = name.to_owned(),
        }
    }
    if !privileged && own.proc_mount.as_deref() != Some("Unmasked") {
        context.masked_paths = MASKED.map(str::to_owned).to_vec();
        context.readonly_paths = READ_ONLY.map(str::to_owned).to_vec();
    }
    Ok(context)
}

fn verify_non_root(
    run_as_user: Option<i64>,
    image_user: Option<(Option<i64>, &str)>,
    pod: &Pod,
    container: &Container,
) -> Result<(), String> {
    let whose = format!(
        "(pod: \"{}_{}({})\", container: {})",
        super::name(pod),
        super::namespace(pod),
        super::uid(pod),
        container.name
    );
    match (run_as_user, image_user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => Ok(()),
        (None, Some((Some(0), _)) | None) => {
            Err(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
        (None, Some((Some(_), _))) => Ok(()),
        (None, Some((None, name))) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whose}"
        )),
        (None, Some((None, _))) => {
            Err(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn non_root_is_verified() {
        for (pod_user, own_user, image, ok) in [
            (None, None, Some((Some(0), "")), false),
            (None, None, Some((Some(7), "")), true),
            (None, None, Some((None, "app")), false),
            (Some(5), None, Some((None, "app")), true),
            (Some(5), Some(0), None, false),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "securityContext": {"runAsNonRoot": true, "runAsUser": pod_user},
                "containers": [{"name": "c", "securityContext": {"runAsUser": own_user}}]}}))
            .unwrap();
            let container = &pod.spec.as_ref().unwrap().containers[0];
            assert_eq!(
                of_container(&pod, container, "/k", image, None).is_ok(),
                ok,
                "{pod_user:?} {own_user:?} {image:?}"
            );
        }
    }
}
