//! Volumes of a pod. Sources that only out-of-tree drivers serve are checked for their required fields alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::field::{self, ErrorList, Path};
use crate::kinds::certificates::{lifetime_bounds, signer_name};
use crate::kinds::check::{dns_label, local_path, no_backsteps, one_of_if_set, quantity, required};
use crate::kinds::core::persistent_volume_claim;
use crate::kinds::optional::{items, text};
use crate::meta::ObjectMeta;
use crate::meta_validation::{label_selector_errors, push_invalid, user_annotations_errors};
use crate::names;
use crate::types::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::env::{field_ref, resource_ref};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Checks the volumes and returns those without fault by name, for mounts to refer to.
pub(super) fn all<'a>(
    errors: &mut ErrorList,
    volumes: &'a [Volume],
    pod: Option<&ObjectMeta>,
    path: &Path,
) -> BTreeMap<&'a str, &'a Volume> {
    let pod_name = pod.and_then(|meta| meta.name.as_deref()).filter(|name| !name.is_empty());
    let made_claims: BTreeSet<String> = pod_name
        .iter()
        .flat_map(|name| {
            volumes.iter().filter(|v| v.ephemeral.is_some()).map(move |v| format!("{name}-{}", v.name))
        })
        .collect();
    let mut by_name = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        source(errors, volume, pod_name, &path);
        if volume.name.is_empty() {
            errors.push(field::required(&path.child("name"), ""));
        } else {
            dns_label(errors, &path.child("name"), &volume.name);
        }
        if by_name.contains_key(&*volume.name) {
            errors.push(field::duplicate(&path.child("name"), &*volume.name));
        }
        if errors.len() == before {
            by_name.insert(&*volume.name, volume);
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && made_claims.contains(&claim.claim_name)
        {
            errors.push(field::invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                &*claim.claim_name,
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    by_name
}

fn source(errors: &mut ErrorList, volume: &Volume, pod_name: Option<&str>, path: &Path) {
    let sources = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    let mut present = sources.iter().filter(|(_, present)| *present).map(|(name, _)| *name);
    let Some(first) = present.next() else {
        errors.push(field::required(path, "must specify a volume type"));
        return;
    };
    contents(errors, volume, first, pod_name, path);
    for name in present {
        errors.push(field::forbidden(&path.child(name), "may not specify more than 1 volume type"));
    }
}

fn contents(
    errors: &mut ErrorList,
    volume: &Volume,
    name: &'static str,
    pod_name: Option<&str>,
    parent: &Path,
) {
    let path = parent.child(name);
    if let Some(empty_dir) = volume.empty_dir.as_ref().filter(|_| name == "emptyDir") {
        if empty_dir.size_limit.as_ref().is_some_and(|limit| quantity(limit).is_negative()) {
            errors.push(field::forbidden(
                &path.child("sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            ));
        }
    } else if let Some(host_path) = volume.host_path.as_ref().filter(|_| name == "hostPath") {
        if host_path.path.is_empty() {
            errors.push(field::required(&path.child("path"), ""));
        } else {
            no_backsteps(errors, &path.child("path"), &host_path.path);
            one_of_if_set(errors, &path.child("type"), &host_path.type_, HOST_PATH_TYPES);
        }
    } else if let Some(secret) = volume.secret.as_ref().filter(|_| name == "secret") {
        required(errors, &path.child("secretName"), text(&secret.secret_name));
        mode(errors, secret.default_mode, &path.child("defaultMode"));
        keys(errors, items(&secret.items), &path.child("items"));
    } else if let Some(config_map) = volume.config_map.as_ref().filter(|_| name == "configMap") {
        required(errors, &path.child("name"), &config_map.name);
        mode(errors, config_map.default_mode, &path.child("defaultMode"));
        keys(errors, items(&config_map.items), &path.child("items"));
    } else if let Some(downward) = volume.downward_api.as_ref().filter(|_| name == "downwardAPI") {
        mode(errors, downward.default_mode, &path.child("defaultMode"));
        for file in items(&downward.items) {
            downward_file(errors, file, &path);
        }
    } else if let Some(projected) = volume.projected.as_ref().filter(|_| name == "projected") {
        self::projected(errors, projected, &path);
    } else if let Some(claim) =
        volume.persistent_volume_claim.as_ref().filter(|_| name == "persistentVolumeClaim")
    {
        required(errors, &path.child("claimName"), &claim.claim_name);
    } else if let Some(csi) = volume.csi.as_ref().filter(|_| name == "csi") {
        csi_driver_name(errors, &csi.driver, &path.child("driver"));
        if let Some(secret) = &csi.node_publish_secret_ref
            && secret.name.is_empty()
        {
            errors.push(field::required(&path.child("nodePublishSecretRef").child("name"), ""));
        }
    } else if let Some(ephemeral) = volume.ephemeral.as_ref().filter(|_| name == "ephemeral") {
        match &ephemeral.volume_claim_template {
            None => errors.push(field::required(&path.child("volumeClaimTemplate"), "")),
            Some(template) => {
                let path = path.child("volumeClaimTemplate").child("spec");
                persistent_volume_claim::validate_spec(errors, &template.spec, &path);
            }
        }
        if let Some(pod_name) = pod_name.filter(|_| !volume.name.is_empty()) {
            let claim = format!("{pod_name}-{}", volume.name);
            for message in names::is_dns1123_subdomain(&claim) {
                let message = format!("PVC name \"{claim}\": {message}");
                errors.push(field::invalid(&parent.child("name"), &*volume.name, message));
            }
        }
    } else if let Some(image) = volume.image.as_ref().filter(|_| name == "image") {
        required(errors, &path.child("reference"), text(&image.reference));
        let policies = ["Always", "IfNotPresent", "Never"];
        one_of_if_set(errors, &path.child("pullPolicy"), &image.pull_policy, &policies);
    } else {
        network_storage(errors, volume, name, &path);
    }
}

pub(crate) fn network_storage(errors: &mut ErrorList, volume: &Volume, name: &str, path: &Path) {
    let mut need = |field: &'static str, value: &str| required(errors, &path.child(field), value);
    match name {
        "nfs" => {
            if let Some(nfs) = &volume.nfs {
                need("server", &nfs.server);
                need("path", &nfs.path);
                if !nfs.path.is_empty() && !nfs.path.starts_with('/') {
                    errors.push(field::invalid(&path.child("path"), &*nfs.path, "must be an absolute path"));
                }
            }
        }
        "iscsi" => {
            if let Some(iscsi) = &volume.iscsi {
                need("targetPortal", &iscsi.target_portal);
                need("iqn", &iscsi.iqn);
            }
        }
        "gitRepo" => volume.git_repo.iter().for_each(|git| need("repository", &git.repository)),
        "gcePersistentDisk" => {
            volume.gce_persistent_disk.iter().for_each(|disk| need("pdName", &disk.pd_name))
        }
        "awsElasticBlockStore" => {
            volume.aws_elastic_block_store.iter().for_each(|disk| need("volumeID", &disk.volume_id));
        }
        "glusterfs" => {
            if let Some(glusterfs) = &volume.glusterfs {
                need("endpoints", &glusterfs.endpoints);
                need("path", &glusterfs.path);
            }
        }
        "rbd" => {
            if let Some(rbd) = &volume.rbd {
                need("monitors", rbd.monitors.first().map_or("", |_| "set"));
                need("image", &rbd.image);
            }
        }
        "cinder" => volume.cinder.iter().for_each(|cinder| need("volumeID", &cinder.volume_id)),
        "cephfs" if volume.cephfs.as_ref().is_some_and(|cephfs| cephfs.monitors.is_empty()) => {
            need("monitors", "");
        }
        "quobyte" => {
            if let Some(quobyte) = &volume.quobyte {
                need("registry", &quobyte.registry);
                need("volume", &quobyte.volume);
            }
        }
        "flexVolume" => volume.flex_volume.iter().for_each(|flex| need("driver", &flex.driver)),
        "azureFile" => {
            if let Some(azure) = &volume.azure_file {
                need("secretName", &azure.secret_name);
                need("shareName", &azure.share_name);
            }
        }
        "azureDisk" => {
            if let Some(azure) = &volume.azure_disk {
                need("diskName", &azure.disk_name);
                need("diskURI", &azure.disk_uri);
            }
        }
        "vsphereVolume" => {
            volume.vsphere_volume.iter().for_each(|disk| need("volumePath", &disk.volume_path))
        }
        "photonPersistentDisk" => {
            volume.photon_persistent_disk.iter().for_each(|disk| need("pdID", &disk.pd_id))
        }
        "portworxVolume" => volume.portworx_volume.iter().for_each(|disk| need("volumeID", &disk.volume_id)),
        "scaleIO" => {
            if let Some(scale_io) = &volume.scale_io {
                need("gateway", &scale_io.gateway);
                need("system", &scale_io.system);
                need("volumeName", text(&scale_io.volume_name));
            }
        }
        _ => {}
    }
}

/// The name of a CSI driver: at most 63 bytes, a subdomain but for case.
pub(crate) fn csi_driver_name(errors: &mut ErrorList, driver: &str, path: &Path) {
    if driver.is_empty() {
        errors.push(field::required(path, ""));
    }
    if driver.len() > 63 {
        errors.push(field::too_long(path, 63));
    }
    push_invalid(errors, path, driver, names::is_dns1123_subdomain(&driver.to_ascii_lowercase()));
}

fn mode(errors: &mut ErrorList, mode: Option<i32>, path: &Path) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(field::invalid(path, mode, MODE));
    }
}

/// A path inside a volume made of objects: relative, no `..`, and not beginning with `..` (kept for the writer).
fn file_path(errors: &mut ErrorList, target: &str, path: &Path) {
    local_path(errors, path, target);
    if target.starts_with("..") && !target.starts_with("../") && target != ".." {
        errors.push(field::invalid(path, target, "must not start with '..'"));
    }
}

fn keys(errors: &mut ErrorList, keys: &[KeyToPath], path: &Path) {
    for (index, item) in keys.iter().enumerate() {
        let path = path.index(index);
        required(errors, &path.child("key"), &item.key);
        required(errors, &path.child("path"), &item.path);
        file_path(errors, &item.path, &path.child("path"));
        mode(errors, item.mode, &path.child("mode"));
    }
}

fn downward_file(errors: &mut ErrorList, file: &DownwardAPIVolumeFile, path: &Path) {
    required(errors, &path.child("path"), &file.path);
    file_path(errors, &file.path, &path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(_), Some(_)) => errors.push(field::invalid(
            path,
            "resource",
            "fieldRef and resourceFieldRef can not be specified simultaneously",
        )),
        (Some(field), None) => field_ref(errors, field, FILE_FIELDS, &path.child("fieldRef")),
        (None, Some(resource)) => resource_ref(errors, resource, true, &path.child("resourceFieldRef")),
        (None, None) => {
            errors.push(field::required(path, "one of fieldRef and resourceFieldRef is required"))
        }
    }
    mode(errors, file.mode, &path.child("mode"));
}

fn projected(errors: &mut ErrorList, projected: &ProjectedVolumeSource, path: &Path) {
    mode(errors, projected.default_mode, &path.child("defaultMode"));
    let mut seen = BTreeSet::new();
    for (index, source) in items(&projected.sources).iter().enumerate() {
        let at = path.child("sources").index(index);
        let mut paths: Vec<&str> = Vec::new();
        let sources = projection(errors, source, &mut paths, path, &at);
        for target in paths.into_iter().filter(|target| !target.is_empty()) {
            if !seen.insert(target.to_owned()) {
                errors.push(field::invalid(path, target, "conflicting duplicate paths"));
            }
        }
        if sources > 1 {
            errors.push(field::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

/// Checks one source, adds the paths it writes, and returns how many sources it really is.
fn projection<'a>(
    errors: &mut ErrorList,
    source: &'a VolumeProjection,
    paths: &mut Vec<&'a str>,
    volume: &Path,
    at: &Path,
) -> usize {
    let mut sources = 0;
    if let Some(secret) = &source.secret {
        sources += 1;
        required(errors, &at.child("secret").child("name"), &secret.name);
        keys(errors, items(&secret.items), &at.child("secret").child("items"));
        paths.extend(items(&secret.items).iter().map(|item| &*item.path));
    }
    if let Some(config_map) = &source.config_map {
        sources += 1;
        required(errors, &at.child("configMap").child("name"), &config_map.name);
        keys(errors, items(&config_map.items), &at.child("configMap").child("items"));
        paths.extend(items(&config_map.items).iter().map(|item| &*item.path));
    }
    if let Some(downward) = &source.downward_api {
        sources += 1;
        for file in items(&downward.items) {
            downward_file(errors, file, &at.child("downwardAPI"));
            paths.push(&file.path);
        }
    }
    if let Some(token) = &source.service_account_token {
        sources += 1;
        let seconds = token.expiration_seconds.unwrap_or(0);
        let expiration = at.child("serviceAccountToken").child("expirationSeconds");
        if seconds < 600 {
            errors.push(field::invalid(
                &expiration,
                seconds,
                "may not specify a duration less than 10 minutes",
            ));
        }
        if seconds > 1 << 32 {
            let message = "may not specify a duration larger than 2^32 seconds";
            errors.push(field::invalid(&expiration, seconds, message));
        }
        if token.path.is_empty() {
            errors.push(field::required(&volume.child("path"), ""));
        } else {
            file_path(errors, &token.path, &volume.child("path"));
        }
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        sources += 1;
        let at = at.child("clusterTrustBundle");
        match (&bundle.name, &bundle.signer_name) {
            (Some(_), Some(_)) => errors.push(field::invalid(
                &at,
                crate::kinds::check::json(bundle),
                "only one of name and signerName may be used",
            )),
            (None, None) => errors.push(field::required(&at, "either name or signerName must be specified")),
            (Some(name), None) if name.is_empty() => {
                errors.push(field::required(&at.child("name"), "must be a valid object name"));
            }
            (None, Some(signer)) if signer.is_empty() => {
                errors.push(field::required(&at.child("signerName"), "must be a valid signer name"));
            }
            _ => {}
        }
        if let Some(selector) = &bundle.label_selector {
            errors.extend(label_selector_errors(selector, &at.child("labelSelector")));
        }
        required(errors, &at.child("path"), &bundle.path);
        file_path(errors, &bundle.path, &at.child("path"));
        paths.push(&bundle.path);
    }
    if let Some(certificate) = &source.pod_certificate {
        sources += 1;
        let at = at.child("podCertificate");
        signer_name(errors, &certificate.signer_name, &at.child("signerName"));
        let types = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
        if !types.contains(&&*certificate.key_type) {
            errors.push(field::not_supported(&at.child("keyType"), &*certificate.key_type, &types));
        }
        if let Some(seconds) = certificate.max_expiration_seconds {
            let (least, most) = lifetime_bounds(&certificate.signer_name);
            let bound = match seconds {
                seconds if seconds < least => Some(format!(">= {least}")),
                seconds if seconds > most => Some(format!("<= {most}")),
                _ => None,
            };
            if let Some(bound) = bound {
                let message = format!("if provided, maxExpirationSeconds must be {bound}");
                errors.push(field::invalid(&at.child("maxExpirationSeconds"), seconds, message));
            }
        }
        if let Some(annotations) = &certificate.user_annotations {
            errors.extend(user_annotations_errors(annotations, &at.child("userAnnotations")));
        }
        let files = [
            ("credentialBundlePath", &certificate.credential_bundle_path),
            ("keyPath", &certificate.key_path),
            ("certificateChainPath", &certificate.certificate_chain_path),
        ];
        if files.iter().all(|(_, file)| text(file).is_empty()) {
            errors.push(field::required(
                &at,
                "specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
            ));
        }
        for (name, file) in files {
            if let Some(file) = file {
                file_path(errors, file, &at.child(name));
                paths.push(file);
            }
        }
    }
    sources
}
