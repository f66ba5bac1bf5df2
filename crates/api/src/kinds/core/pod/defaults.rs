//! What a pod's spec leaves out, alone or in the template of a workload.
//! Not here: what admission fills in (service account, tolerations, priority).
//! Upstream: pkg/apis/core/v1/defaults.go.

use std::collections::BTreeMap;

use crate::kinds::check::quantity;
use crate::kinds::optional::{default_number, default_text, drop_false, is_unset, items_mut, text};
use crate::meta::Quantity;
use crate::quantity::Quantity as Amount;
use crate::types::core::v1::{
    AzureDiskVolumeSource, Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, ObjectFieldSelector,
    Pod, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, Volume,
};

/// 0644: the mode of files in volumes made of objects.
const FILE_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;
const GRACE_SECONDS: i64 = 30;

/// Fills in a pod.
pub fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    pod_spec(spec);
    for container in spec.containers.iter_mut().chain(items_mut(&mut spec.init_containers)) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    super::resources::default_pod_level(spec);
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        for container in spec.containers.iter_mut().chain(items_mut(&mut spec.init_containers)) {
            for port in items_mut(&mut container.ports) {
                default_number(&mut port.host_port, port.container_port);
            }
        }
    }
    let status = pod.status.get_or_insert_default();
    default_text(&mut status.phase, "Pending");
}

/// Fills in the template of a workload.
pub fn template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    pod_spec(template.spec.get_or_insert_default());
}

/// Fills in what a pod and a template have in common.
pub fn pod_spec(spec: &mut PodSpec) {
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.restart_policy, "Always");
    default_text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    // The old name and the new one are one field inside upstream, and both are written.
    if is_unset(&spec.service_account_name) {
        spec.service_account_name = spec.service_account.take().filter(|name| !name.is_empty());
    }
    spec.service_account.clone_from(&spec.service_account_name);
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        drop_false(flag);
    }
    for volume in items_mut(&mut spec.volumes) {
        self::volume(volume);
    }
    for container in spec.containers.iter_mut().chain(items_mut(&mut spec.init_containers)) {
        self::container(container);
    }
    for ephemeral in items_mut(&mut spec.ephemeral_containers) {
        image_and_messages(
            text(&ephemeral.image),
            &mut ephemeral.image_pull_policy,
            &mut ephemeral.termination_message_path,
            &mut ephemeral.termination_message_policy,
        );
        ports_and_env(&mut ephemeral.ports, &mut ephemeral.env);
        ephemeral.resources.get_or_insert_default();
    }
    if let Some(overhead) = &mut spec.overhead {
        round_up_to_milli(overhead);
    }
    if let Some(resources) = &mut spec.resources {
        self::resources(resources);
    }
}

fn container(container: &mut Container) {
    image_and_messages(
        text(&container.image),
        &mut container.image_pull_policy,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
    );
    ports_and_env(&mut container.ports, &mut container.env);
    resources(container.resources.get_or_insert_default());
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
        .into_iter()
        .flatten()
    {
        self::probe(probe);
    }
    if let Some(Lifecycle { post_start, pre_stop, .. }) = &mut container.lifecycle {
        for handler in [post_start, pre_stop].into_iter().flatten() {
            if let Some(http) = &mut handler.http_get {
                http_get(http);
            }
        }
    }
    for flag in [&mut container.stdin, &mut container.stdin_once, &mut container.tty] {
        drop_false(flag);
    }
    for mount in items_mut(&mut container.volume_mounts) {
        drop_false(&mut mount.read_only);
    }
}

fn image_and_messages(
    image: &str,
    pull_policy: &mut Option<String>,
    message_path: &mut Option<String>,
    message_policy: &mut Option<String>,
) {
    default_text(pull_policy, pull_policy_of(image));
    default_text(message_path, "/dev/termination-log");
    default_text(message_policy, "File");
}

/// `Always` for what is likely to change: the tag `latest`, or no tag and no digest.
fn pull_policy_of(image: &str) -> &'static str {
    let (name, has_digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    // A colon before the last slash belongs to the registry's port.
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !has_digest => "Always",
        _ => "IfNotPresent",
    }
}

fn ports_and_env(ports: &mut Option<Vec<ContainerPort>>, env: &mut Option<Vec<EnvVar>>) {
    for port in items_mut(ports) {
        default_text(&mut port.protocol, "TCP");
    }
    for source in items_mut(env).iter_mut().filter_map(|variable| variable.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            field_ref(field);
        }
        if let Some(resource) = &mut source.resource_field_ref {
            resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
        }
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    default_text(&mut field.api_version, "v1");
}

fn probe(probe: &mut Probe) {
    default_number(&mut probe.timeout_seconds, 1);
    default_number(&mut probe.period_seconds, 10);
    default_number(&mut probe.success_threshold, 1);
    default_number(&mut probe.failure_threshold, 3);
    if probe.initial_delay_seconds == Some(0) {
        probe.initial_delay_seconds = None;
    }
    if let Some(http) = &mut probe.http_get {
        http_get(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_get(http: &mut HTTPGetAction) {
    default_text(&mut http.path, "/");
    default_text(&mut http.scheme, "HTTP");
}

fn resources(resources: &mut ResourceRequirements) {
    for list in [&mut resources.limits, &mut resources.requests].into_iter().flatten() {
        round_up_to_milli(list);
    }
}

/// Amounts finer than a thousandth are rounded up, in every list of resources.
pub(crate) fn round_up_to_milli(list: &mut BTreeMap<String, Quantity>) {
    for wire in list.values_mut() {
        let amount = quantity(wire);
        if !amount.is_whole_milli() {
            *wire = Amount::from_milli(amount.milli_value()).to_wire();
        }
    }
}

/// What is limited and not requested is requested in full. For pods only, not for templates.
fn requests_from_limits(resources: &mut ResourceRequirements) {
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

fn volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(Default::default());
    }
    let read_only = [
        volume.azure_file.as_mut().map(|source| &mut source.read_only),
        volume.quobyte.as_mut().map(|source| &mut source.read_only),
        volume.nfs.as_mut().map(|source| &mut source.read_only),
        volume.persistent_volume_claim.as_mut().map(|source| &mut source.read_only),
    ];
    read_only.into_iter().flatten().for_each(drop_false);
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        for item in items_mut(&mut downward.items) {
            item.field_ref.iter_mut().for_each(field_ref);
            if let Some(resource) = &mut item.resource_field_ref {
                resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
            }
        }
    }
    if let Some(projected) = &mut volume.projected {
        self::projected(projected);
    }
    if let Some(iscsi) = &mut volume.iscsi {
        default_text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        default_text(&mut rbd.pool, "rbd");
        default_text(&mut rbd.user, "admin");
        default_text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        azure_disk(disk);
    }
    if let Some(scale_io) = &mut volume.scale_io {
        default_text(&mut scale_io.storage_mode, "ThinProvisioned");
        default_text(&mut scale_io.fs_type, "xfs");
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut())
    {
        template.metadata.get_or_insert_default();
        template.spec.resources.get_or_insert_default();
        default_text(&mut template.spec.volume_mode, "Filesystem");
    }
    if let Some(image) = &mut volume.image {
        let policy = pull_policy_of(text(&image.reference));
        default_text(&mut image.pull_policy, policy);
    }
}

fn azure_disk(disk: &mut AzureDiskVolumeSource) {
    default_text(&mut disk.caching_mode, "ReadWrite");
    default_text(&mut disk.kind, "Shared");
    default_text(&mut disk.fs_type, "ext4");
    disk.read_only.get_or_insert(false);
}

fn projected(projected: &mut ProjectedVolumeSource) {
    projected.default_mode.get_or_insert(FILE_MODE);
    for source in items_mut(&mut projected.sources) {
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
        for item in source.downward_api.iter_mut().flat_map(|downward| items_mut(&mut downward.items)) {
            item.field_ref.iter_mut().for_each(field_ref);
            if let Some(resource) = &mut item.resource_field_ref {
                resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
            }
        }
        if let Some(certificate) = &mut source.pod_certificate {
            certificate.max_expiration_seconds.get_or_insert(86_400);
        }
    }
}

/// A volume that names no source is an empty directory. Compared with the default so that a source added to the API
/// is not forgotten here.
fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use super::pull_policy_of;

    #[test]
    fn images_that_may_change_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "Always"),
        ] {
            assert_eq!(pull_policy_of(image), policy, "{image}");
        }
    }
}
