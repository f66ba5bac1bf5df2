//! Fields that a pod of one operating system may not have, because only the other knows what they mean.
//! Upstream: `validateLinux` and `validateWindows` of pkg/apis/core/validation.

use crate::field::{self, ErrorList, Path};
use crate::kinds::optional::items;
use crate::types::core::v1::{PodSpec, SecurityContext};

const FOR_LINUX: &str = "windows options cannot be set for a linux pod";
const FOR_WINDOWS: &str = "cannot be set for a windows pod";

/// Refuses the fields of the other system.
pub(super) fn validate(errors: &mut ErrorList, spec: &PodSpec, system: &str, path: &Path) {
    match system {
        "linux" => linux(errors, spec, path),
        "windows" => windows(errors, spec, path),
        _ => {}
    }
}

/// The security contexts of all containers, with their paths.
fn containers<'a>(spec: &'a PodSpec, path: &Path) -> Vec<(Path, &'a SecurityContext)> {
    let one = |name: &'static str, index: usize, context: &'a Option<SecurityContext>| {
        Some((path.child(name).index(index).child("securityContext"), context.as_ref()?))
    };
    let init = items(&spec.init_containers).iter().enumerate();
    let init = init.filter_map(|(index, c)| one("initContainers", index, &c.security_context));
    let main = spec.containers.iter().enumerate();
    let main = main.filter_map(|(index, c)| one("containers", index, &c.security_context));
    let ephemeral = items(&spec.ephemeral_containers).iter().enumerate();
    let ephemeral = ephemeral.filter_map(|(index, c)| one("ephemeralContainers", index, &c.security_context));
    init.chain(main).chain(ephemeral).collect()
}

fn linux(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
        let path = path.child("securityContext").child("windowsOptions");
        errors.push(field::forbidden(&path, FOR_LINUX));
    }
    for (path, context) in containers(spec, path) {
        if context.windows_options.is_some() {
            errors.push(field::forbidden(&path.child("windowsOptions"), FOR_LINUX));
        }
    }
}

fn windows(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    let mut refuse = |path: &Path, fields: &[(&'static str, bool)]| {
        for (name, _) in fields.iter().filter(|(_, set)| *set) {
            errors.push(field::forbidden(&path.child(*name), FOR_WINDOWS));
        }
    };
    refuse(
        path,
        &[
            ("hostUsers", spec.host_users.is_some()),
            ("hostPID", spec.host_pid == Some(true)),
            ("hostIPC", spec.host_ipc == Some(true)),
            ("shareProcessNamespace", spec.share_process_namespace.is_some()),
        ],
    );
    if let Some(context) = &spec.security_context {
        refuse(
            &path.child("securityContext"),
            &[
                ("appArmorProfile", context.app_armor_profile.is_some()),
                ("seLinuxOptions", context.se_linux_options.is_some()),
                ("seccompProfile", context.seccomp_profile.is_some()),
                ("fsGroup", context.fs_group.is_some()),
                ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
                ("sysctls", !items(&context.sysctls).is_empty()),
                ("runAsUser", context.run_as_user.is_some()),
                ("runAsGroup", context.run_as_group.is_some()),
                ("supplementalGroups", context.supplemental_groups.is_some()),
                ("supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
            ],
        );
    }
    for (path, context) in containers(spec, path) {
        refuse(
            &path,
            &[
                ("appArmorProfile", context.app_armor_profile.is_some()),
                ("seLinuxOptions", context.se_linux_options.is_some()),
                ("seccompProfile", context.seccomp_profile.is_some()),
                ("capabilities", context.capabilities.is_some()),
                ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
                ("privileged", context.privileged.is_some()),
                ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
                ("procMount", context.proc_mount.is_some()),
                ("runAsUser", context.run_as_user.is_some()),
                ("runAsGroup", context.run_as_group.is_some()),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_system_has_its_own_fields() {
        let windows_options = json!({"windowsOptions": {"hostProcess": true}});
        let linux = json!({"privileged": true, "runAsUser": 0});
        for (system, spec, expected) in [
            (
                "linux",
                json!({"securityContext": windows_options, "containers": [{"name": "c", "securityContext": windows_options}]}),
                vec![
                    "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                    "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                ],
            ),
            (
                "windows",
                json!({"hostPID": true, "securityContext": {"fsGroup": 1}, "containers": [],
                       "initContainers": [{"name": "c", "securityContext": linux}]}),
                vec![
                    "spec.hostPID: Forbidden: cannot be set for a windows pod",
                    "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
                    "spec.initContainers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
                    "spec.initContainers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                ],
            ),
            ("windows", json!({"securityContext": windows_options, "containers": []}), vec![]),
            ("linux", json!({"containers": [{"name": "c", "securityContext": linux}]}), vec![]),
        ] {
            let mut errors = ErrorList::new();
            let spec: PodSpec = serde_json::from_value::<PodSpec>(Value::clone(&spec)).unwrap();
            validate(&mut errors, &spec, system, &Path::new("spec"));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
    }
}
