//! Containers of a pod: regular, init and ephemeral ones.

use std::collections::{BTreeMap, BTreeSet};

use super::{Context, env, probes, security};
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, json, local_path, one_of, port_number};
use crate::kinds::core::pod::resources;
use crate::kinds::optional::{items, text};
use crate::meta_validation::push_invalid;
use crate::names;
use crate::types::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, PodSpec, VolumeDevice, VolumeMount,
};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The containers that make the pod.
pub(super) fn regular(errors: &mut ErrorList, containers: &[Container], context: &Context<'_>, path: &Path) {
    if containers.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(errors, container, context, &path);
        if !seen.insert(&container.name) {
            errors.push(field::duplicate(&path.child("name"), &*container.name));
        }
        probes::container(errors, container, context.grace, &path);
        restart_policy(errors, container, &path);
    }
    host_port_conflicts(errors, containers, path);
}

/// The containers that run before, and those that run beside (`restartPolicy: Always`).
pub(super) fn init(
    errors: &mut ErrorList,
    containers: &[Container],
    regular: &[Container],
    context: &Context<'_>,
    path: &Path,
) {
    let mut seen: BTreeSet<&str> = regular.iter().map(|container| &*container.name).collect();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(errors, container, context, &path);
        restart_policy(errors, container, &path);
        if !seen.insert(&container.name) && !container.name.is_empty() {
            errors.push(field::duplicate(&path.child("name"), &*container.name));
        }
        // One by one, because init containers run one by one.
        host_port_conflicts(errors, std::slice::from_ref(container), &path);
        if text(&container.restart_policy) == "Always" {
            probes::container(errors, container, context.grace, &path);
            continue;
        }
        for (name, is_set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if is_set {
                errors.push(field::forbidden(
                    &path.child(name),
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
        }
    }
}

/// The containers added to a running pod to look into it.
pub(super) fn ephemeral(errors: &mut ErrorList, spec: &PodSpec, context: &Context<'_>, path: &Path) {
    const UNFIT: &str = "cannot be set for an Ephemeral Container";
    let others: BTreeSet<&str> = spec
        .containers
        .iter()
        .chain(items(&spec.init_containers))
        .map(|container| &*container.name)
        .collect();
    let mut seen = others.clone();
    for (index, ephemeral) in items(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(index);
        let container = as_container(ephemeral);
        common(errors, &container, context, &path);
        image_is_trimmed(errors, &ephemeral.image, &path);
        if !seen.insert(&ephemeral.name) {
            errors.push(field::duplicate(&path.child("name"), &*ephemeral.name));
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(field::not_found(&path.child("targetContainerName"), target));
        }
        let no_resources = ephemeral.resources.as_ref().is_none_or(|resources| {
            resources.limits.is_none() && resources.requests.is_none() && resources.claims.is_none()
        });
        for (name, is_set) in [
            ("ports", !items(&ephemeral.ports).is_empty()),
            ("resources", !no_resources),
            ("livenessProbe", ephemeral.liveness_probe.is_some()),
            ("readinessProbe", ephemeral.readiness_probe.is_some()),
            ("startupProbe", ephemeral.startup_probe.is_some()),
            ("lifecycle", ephemeral.lifecycle.is_some()),
            ("resizePolicy", !items(&ephemeral.resize_policy).is_empty()),
            ("restartPolicy", ephemeral.restart_policy.is_some()),
        ] {
            if is_set {
                errors.push(field::forbidden(&path.child(name), UNFIT));
            }
        }
        for (index, mount) in items(&ephemeral.volume_mounts).iter().enumerate() {
            let path = path.child("volumeMounts").index(index);
            for (name, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(value).is_empty() {
                    errors.push(field::forbidden(&path.child(name), UNFIT));
                }
            }
        }
    }
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    Container {
        name: ephemeral.name.clone(),
        image: ephemeral.image.clone(),
        ports: ephemeral.ports.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        resources: ephemeral.resources.clone(),
        resize_policy: ephemeral.resize_policy.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        volume_devices: ephemeral.volume_devices.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        security_context: ephemeral.security_context.clone(),
        ..Container::default()
    }
}

/// Spaces around an image are tolerated in templates only.
pub(super) fn image_is_trimmed(errors: &mut ErrorList, image: &Option<String>, path: &Path) {
    let image = text(image);
    if image.trim() != image {
        let message = "must not have leading or trailing whitespace";
        errors.push(field::invalid(&path.child("image"), image, message));
    }
}

fn common(errors: &mut ErrorList, container: &Container, context: &Context<'_>, path: &Path) {
    if container.name.is_empty() {
        errors.push(field::required(&path.child("name"), ""));
    } else {
        dns_label(errors, &path.child("name"), &container.name);
    }
    if text(&container.image).is_empty() {
        errors.push(field::required(&path.child("image"), ""));
    }
    one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        text(&container.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
    );
    ports(errors, items(&container.ports), &path.child("ports"));
    env::variables(errors, items(&container.env), context, &path.child("env"));
    env::sources(errors, items(&container.env_from), &path.child("envFrom"));
    mounts(errors, container, context, &path.child("volumeMounts"));
    devices(errors, container, context, &path.child("volumeDevices"));
    one_of(
        errors,
        &path.child("imagePullPolicy"),
        text(&container.image_pull_policy),
        &["Always", "IfNotPresent", "Never"],
    );
    if let Some(requirements) = &container.resources {
        resources::validate(errors, requirements, context.claims, &path.child("resources"));
    }
    resize_policies(errors, items(&container.resize_policy), context, &path.child("resizePolicy"));
    if let Some(security) = &container.security_context {
        security::container(errors, security, context.host_users, &path.child("securityContext"));
    }
}

/// Containers may have a restart policy of their own, and rules that refine it by exit code (GA in 1.36).
fn restart_policy(errors: &mut ErrorList, container: &Container, path: &Path) {
    let rules = items(&container.restart_policy_rules);
    if let Some(policy) = &container.restart_policy {
        let supported = ["Always", "Never", "OnFailure"];
        if !supported.contains(&&**policy) {
            errors.push(field::not_supported(&path.child("restartPolicy"), &**policy, &supported));
        }
    } else if !rules.is_empty() {
        errors.push(field::required(
            &path.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        ));
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(field::too_many(&path, rules.len(), 20));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let supported = ["Restart", "RestartAllContainers"];
        if !supported.contains(&&*rule.action) {
            errors.push(field::not_supported(&path.child("action"), &*rule.action, &supported));
        }
        match &rule.exit_codes {
            None => errors.push(field::required(&path.child("exitCodes"), "must be specified")),
            Some(codes) => {
                let path = path.child("exitCodes");
                let supported = ["In", "NotIn"];
                if !supported.contains(&&*codes.operator) {
                    errors.push(field::not_supported(&path.child("operator"), &*codes.operator, &supported));
                }
                if items(&codes.values).len() > 255 {
                    errors.push(field::too_many(&path.child("values"), items(&codes.values).len(), 255));
                }
            }
        }
    }
}

fn ports(errors: &mut ErrorList, ports: &[ContainerPort], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            let messages = names::is_port_name(name);
            if !messages.is_empty() {
                push_invalid(errors, &path.child("name"), name, messages);
            } else if !seen.insert(name) {
                errors.push(field::duplicate(&path.child("name"), name));
            }
        }
        if port.container_port == 0 {
            errors.push(field::required(&path.child("containerPort"), ""));
        } else {
            port_number(errors, &path.child("containerPort"), port.container_port);
        }
        if let Some(host_port) = port.host_port.filter(|&port| port != 0) {
            port_number(errors, &path.child("hostPort"), host_port);
        }
        one_of(errors, &path.child("protocol"), text(&port.protocol), &PROTOCOLS);
    }
}

fn host_port_conflicts(errors: &mut ErrorList, containers: &[Container], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in items(&container.ports).iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|&port| port != 0) else { continue };
            let key = format!("{}/{}/{host_port}", text(&port.protocol), text(&port.host_ip));
            if !seen.insert(key.clone()) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(field::duplicate(&path, key));
            }
        }
    }
}

fn mounts(errors: &mut ErrorList, container: &Container, context: &Context<'_>, path: &Path) {
    let devices = items(&container.volume_devices);
    let mut seen = BTreeSet::new();
    for (index, mount) in items(&container.volume_mounts).iter().enumerate() {
        let at = path.index(index);
        if mount.name.is_empty() {
            errors.push(field::required(&at.child("name"), ""));
        }
        let volume = context.volumes.get(&*mount.name);
        if volume.is_none() {
            errors.push(field::not_found(&at.child("name"), &*mount.name));
        }
        if mount.mount_path.is_empty() {
            errors.push(field::required(&at.child("mountPath"), ""));
        }
        if !seen.insert(&mount.mount_path) {
            errors.push(field::invalid(&at.child("mountPath"), &*mount.mount_path, "must be unique"));
        }
        if devices.iter().any(|device| device.name == mount.name) {
            let message = "must not already exist in volumeDevices";
            errors.push(field::invalid(&at.child("name"), &*mount.name, message));
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let message = "must not already exist as a path in volumeDevices";
            errors.push(field::invalid(&at.child("mountPath"), &*mount.mount_path, message));
        }
        let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
        // Upstream reports these at the list, not at the element.
        if !sub_path.is_empty() {
            local_path(errors, &path.child("subPath"), sub_path);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let message = "subPathExpr and subPath are mutually exclusive";
                errors.push(field::invalid(&at.child("subPathExpr"), expression, message));
            }
            local_path(errors, &path.child("subPathExpr"), expression);
        }
        propagation(errors, mount, container, path);
    }
}

fn propagation(errors: &mut ErrorList, mount: &VolumeMount, container: &Container, path: &Path) {
    let at = path.child("mountPropagation");
    if let Some(propagation) = &mount.mount_propagation {
        let supported = ["Bidirectional", "HostToContainer", "None"];
        if !supported.contains(&&**propagation) {
            errors.push(field::not_supported(&at, &**propagation, &supported));
        }
        let privileged = container.security_context.as_ref().and_then(|security| security.privileged);
        if propagation == "Bidirectional" && privileged != Some(true) {
            let message = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(field::forbidden(&at, message));
        }
    }
    let at = path.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.push(field::forbidden(&at, "may only be specified when readOnly is true"));
            }
            if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) {
                let message = "may only be specified when mountPropagation is None or not specified";
                errors.push(field::forbidden(&at, message));
            }
        }
        Some(other) => {
            errors.push(field::not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

fn devices(errors: &mut ErrorList, container: &Container, context: &Context<'_>, path: &Path) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    let mounts: BTreeMap<&str, &str> =
        items(&container.volume_mounts).iter().map(|mount| (&*mount.name, &*mount.mount_path)).collect();
    for (index, VolumeDevice { name, device_path }) in items(&container.volume_devices).iter().enumerate() {
        let path = path.index(index);
        let (name_path, device) = (path.child("name"), path.child("devicePath"));
        if name.is_empty() {
            errors.push(field::required(&name_path, ""));
        } else if !names.insert(name) {
            errors.push(field::invalid(&name_path, &**name, "must be unique"));
        }
        match context.volumes.get(&**name) {
            None => errors.push(field::not_found(&name_path, &**name)),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                errors.push(field::invalid(
                    &name_path,
                    &**name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        if device_path.is_empty() {
            errors.push(field::required(&device, ""));
        }
        if device_path.split('/').any(|element| element == "..") {
            errors.push(field::invalid(&device, &**device_path, "can not contain backsteps ('..')"));
        } else if !paths.insert(device_path) {
            errors.push(field::invalid(&device, &**device_path, "must be unique"));
        }
        if mounts.contains_key(&**name) {
            errors.push(field::invalid(&name_path, &**name, "must not already exist in volumeMounts"));
        }
        if mounts.values().any(|mount| *mount == device_path) {
            let message = "must not already exist as a path in volumeMounts";
            errors.push(field::invalid(&device, &**device_path, message));
        }
    }
}

fn resize_policies(
    errors: &mut ErrorList,
    policies: &[ContainerResizePolicy],
    context: &Context<'_>,
    path: &Path,
) {
    let mut seen = BTreeSet::new();
    for (index, policy) in policies.iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.push(field::duplicate(&path.index(index), &*policy.resource_name));
        }
        one_of(errors, path, &policy.resource_name, &["cpu", "memory"]);
        one_of(errors, path, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if context.restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let message = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(field::invalid(path, json(&policy.restart_policy), message));
        }
    }
}
