//! Security contexts of pods and containers.
//! Not here: the Pod Security Standards (an admission plugin); the options of Windows are not checked.

use std::collections::BTreeSet;

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{json, local_path, one_of_if_set};
use crate::kinds::optional::items;
use crate::names::range_message;
use crate::types::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

/// The largest user or group number.
const ID_MAX: i64 = u32::MAX as i64;
const SYSCTL_MAX: usize = 253;

pub(super) fn pod(errors: &mut ErrorList, security: &PodSecurityContext, spec: &PodSpec, path: &Path) {
    id(errors, security.fs_group, &path.child("fsGroup"));
    id(errors, security.run_as_user, &path.child("runAsUser"));
    id(errors, security.run_as_group, &path.child("runAsGroup"));
    for (index, group) in items(&security.supplemental_groups).iter().enumerate() {
        id(errors, Some(*group), &path.child("supplementalGroups").index(index));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        errors.push(field::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    sysctls(errors, items(&security.sysctls), spec, &path.child("sysctls"));
    one_of_if_set(
        errors,
        &path.child("fsGroupChangePolicy"),
        &security.fs_group_change_policy,
        &["Always", "OnRootMismatch"],
    );
    seccomp(errors, security.seccomp_profile.as_ref(), &path.child("seccompProfile"));
    app_armor(errors, security.app_armor_profile.as_ref(), &path.child("appArmorProfile"));
    one_of_if_set(
        errors,
        &path.child("supplementalGroupsPolicy"),
        &security.supplemental_groups_policy,
        &["Merge", "Strict"],
    );
    one_of_if_set(
        errors,
        &path.child("seLinuxChangePolicy"),
        &security.se_linux_change_policy,
        &["MountOption", "Recursive"],
    );
}

/// That who may do anything is said to gain nothing.
const SYS_ADMIN: &str = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";

/// Whether this is wrong with new pods only: upstream gives the rule up, and in v1.37 has done so for updates.
pub(super) fn is_of_new_pods(error: &field::Error) -> bool {
    error.detail == SYS_ADMIN
}

pub(super) fn container(errors: &mut ErrorList, security: &SecurityContext, host_users: bool, path: &Path) {
    id(errors, security.run_as_user, &path.child("runAsUser"));
    id(errors, security.run_as_group, &path.child("runAsGroup"));
    let mount = path.child("procMount");
    one_of_if_set(errors, &mount, &security.proc_mount, &["Default", "Unmasked"]);
    if host_users && security.proc_mount.as_deref() == Some("Unmasked") {
        errors.push(field::invalid(&mount, "Unmasked", "`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(errors, security.seccomp_profile.as_ref(), &path.child("seccompProfile"));
    if security.allow_privilege_escalation == Some(false) {
        if security.privileged == Some(true) {
            errors.push(field::invalid(
                path,
                json(security),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        let added = security.capabilities.iter().flat_map(|capabilities| items(&capabilities.add));
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            errors.push(field::invalid(path, json(security), SYS_ADMIN));
        }
    }
    app_armor(errors, security.app_armor_profile.as_ref(), &path.child("appArmorProfile"));
}

fn id(errors: &mut ErrorList, id: Option<i64>, path: &Path) {
    if let Some(id) = id.filter(|id| !(0..=ID_MAX).contains(id)) {
        errors.push(field::invalid(path, id, range_message(0, ID_MAX)));
    }
}

fn sysctls(errors: &mut ErrorList, sysctls: &[Sysctl], spec: &PodSpec, path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index).child("name");
        let name = &*sysctl.name;
        if name.is_empty() {
            errors.push(field::required(&path, ""));
        } else if !is_sysctl_name(name) {
            errors.push(field::invalid(
                &path,
                name,
                format!(
                    "must have at most {SYSCTL_MAX} characters and match regex \
                     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                ),
            ));
        } else if !seen.insert(name) {
            errors.push(field::duplicate(&path, name));
        }
        let normal = name.replace('/', ".");
        if spec.host_network == Some(true) && normal.starts_with("net.") {
            errors.push(field::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        }
        let is_ipc =
            ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| normal.starts_with(p));
        if spec.host_ipc == Some(true) && is_ipc {
            errors.push(field::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= SYSCTL_MAX
        && name.split(['.', '/']).all(|segment| {
            let bytes = segment.as_bytes();
            bytes.first().is_some_and(edge)
                && bytes.last().is_some_and(edge)
                && bytes.iter().all(|byte| edge(byte) || matches!(byte, b'-' | b'_'))
        })
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(errors: &mut ErrorList, profile: Option<&SeccompProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let (kind, local) = (path.child("type"), path.child("localhostProfile"));
    match &*profile.type_ {
        "" => errors.push(field::required(&kind, "type is required when seccompProfile is set")),
        other if !PROFILES.contains(&other) => errors.push(field::not_supported(&kind, other, &PROFILES)),
        _ => {}
    }
    match (&*profile.type_, &profile.localhost_profile) {
        ("Localhost", None) => {
            errors.push(field::required(&local, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) => local_path(errors, &local, file),
        (_, Some(_)) => {
            errors.push(field::invalid(
                &local,
                json(profile),
                "can only be set when seccomp type is Localhost",
            ));
        }
        (_, None) => {}
    }
}

fn app_armor(errors: &mut ErrorList, profile: Option<&AppArmorProfile>, path: &Path) {
    let Some(profile) = profile else { return };
    let local = path.child("localhostProfile");
    match (&*profile.type_, profile.localhost_profile.as_deref()) {
        ("Localhost", None) => {
            errors.push(field::required(&local, "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(field::invalid(&local, name, "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(field::required(&local, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > 4095 {
                errors.push(field::too_long(&local, 4095));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.push(field::invalid(&local, name, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            errors.push(field::required(&path.child("type"), "type is required when appArmorProfile is set"));
        }
        (other, _) => errors.push(field::not_supported(&path.child("type"), other, &PROFILES)),
    }
}
