//! PersistentVolume: a piece of storage in the cluster.
//! Upstream: pkg/registry/core/persistentvolume, pkg/apis/core.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistent_volume_claim::{VOLUME_MODES, access_modes, short_modes};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{
    dns_subdomain, driver_name, json as value_of, no_backsteps, one_of_if_set, quantity, required,
};
use crate::kinds::core::pod::validation::{scheduling, volumes};
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta_validation::immutable;
use crate::types::core::v1::{
    CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeSpec, VolumeNodeAffinity,
};

/// The fields of the spec that are not the source of the volume.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["pv".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column::new("Capacity", "string", "How much it holds."),
            Column::new("Access Modes", "string", "The ways it can be mounted."),
            Column::new("Reclaim Policy", "string", "What becomes of it when its claim goes."),
            Column::new("Status", "string", "The phase of the volume."),
            Column::new("Claim", "string", "The claim it is bound to."),
            Column::new("StorageClass", "string", "StorageClass of the pv"),
            Column::new("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
            Column::new("Reason", "string", "Why it is in its phase."),
            Column::age(),
            Column::wide("VolumeMode", "string", "Whether it is a filesystem or a block device."),
        ],
        hooks: Arc::new(
            Typed::<PersistentVolume>::new()
                .status(|| Some(json!({"phase": "Pending"})))
                .default_with(default)
                .prepare_for_create(prepare_for_create)
                .validate(validate)
                .validate_update(validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "PersistentVolume", "persistentvolumes", Scope::Cluster)
    }
}

fn default(volume: &mut PersistentVolume) {
    default_text(&mut volume.status.get_or_insert_default().phase, "Pending");
    let spec = volume.spec.get_or_insert_default();
    default_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
    default_text(&mut spec.volume_mode, "Filesystem");
    if let Some(host_path) = &mut spec.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(iscsi) = &mut spec.iscsi {
        default_text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut spec.rbd {
        default_text(&mut rbd.pool, "rbd");
        default_text(&mut rbd.user, "admin");
        default_text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut spec.azure_disk {
        default_text(&mut disk.caching_mode, "ReadWrite");
        default_text(&mut disk.kind, "Shared");
        default_text(&mut disk.fs_type, "ext4");
        disk.read_only.get_or_insert(false);
    }
    if let Some(scale_io) = &mut spec.scale_io {
        default_text(&mut scale_io.storage_mode, "ThinProvisioned");
        default_text(&mut scale_io.fs_type, "xfs");
    }
}

/// The phase counts from the creation, whose time the server has set by now.
fn prepare_for_create(volume: &mut PersistentVolume) {
    let created = volume.metadata.creation_timestamp.clone();
    volume.status.get_or_insert_default().last_phase_transition_time = created;
}

fn sources(spec: &PersistentVolumeSpec) -> serde_json::Map<String, Value> {
    let mut fields = match value_of(spec) {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    fields.retain(|name, _| !NOT_SOURCES.contains(&&**name));
    fields
}

fn validate(volume: &PersistentVolume) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let modes_path = path.child("accessModes");
    if items(&spec.access_modes).is_empty() {
        errors.push(field::required(&modes_path, ""));
    }
    access_modes(&mut errors, items(&spec.access_modes), &modes_path);
    capacity(&mut errors, spec, &path.child("capacity"));
    let policies = ["Delete", "Recycle", "Retain"];
    let policy_path = path.child("persistentVolumeReclaimPolicy");
    one_of_if_set(&mut errors, &policy_path, &spec.persistent_volume_reclaim_policy, &policies);
    let affinity_path = path.child("nodeAffinity");
    match spec.node_affinity.as_ref().map(|affinity| &affinity.required) {
        Some(Some(selector)) => {
            scheduling::node_selector(&mut errors, selector, &affinity_path.child("required"));
        }
        Some(None) => {
            let message = "must specify required node constraints";
            errors.push(field::required(&affinity_path.child("required"), message));
        }
        None if spec.local.is_some() => {
            errors.push(field::required(
                &path.child("local").child("nodeAffinity"),
                "Local volume requires node affinity",
            ));
        }
        None => {}
    }
    let sources = sources(spec);
    if sources.is_empty() {
        errors.push(field::required(&path, "must specify a volume type"));
    }
    for name in sources.keys().skip(1) {
        errors.push(field::forbidden(&path.child(name.clone()), "may not specify more than 1 volume type"));
    }
    if let Some(host_path) = &spec.host_path {
        let path = path.child("hostPath").child("path");
        if host_path.path.is_empty() {
            errors.push(field::required(&path, ""));
        }
        no_backsteps(&mut errors, &path, &host_path.path);
        let is_root = host_path.path.split('/').all(|element| matches!(element, "" | "."));
        if is_root && text(&spec.persistent_volume_reclaim_policy) == "Recycle" {
            errors.push(field::forbidden(&policy_path, "may not be 'recycle' for a hostPath mount of '/'"));
        }
    }
    for (name, source) in &sources {
        source_fields(&mut errors, name, source, &path.child(name.clone()));
    }
    if let Some(csi) = &spec.csi {
        csi_source(&mut errors, csi, &path.child("csi"));
    }
    if !text(&spec.storage_class_name).is_empty() {
        dns_subdomain(&mut errors, &path.child("storageClassName"), text(&spec.storage_class_name));
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        let path = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(field::required(&path, "an empty string is disallowed"));
        } else {
            dns_subdomain(&mut errors, &path, class);
        }
        if spec.csi.is_none() {
            let path = Path::new("spec").child("csi");
            let message = "has to be specified when using volumeAttributesClassName";
            errors.push(field::required(&path, message));
        }
    }
    one_of_if_set(&mut errors, &path.child("volumeMode"), &spec.volume_mode, VOLUME_MODES);
    errors
}

/// Checks a source that a pod could also name itself. Their fields are the same.
fn source_fields(errors: &mut ErrorList, name: &str, source: &Value, path: &Path) {
    let volume = json!({"name": "", name: source});
    if name != "csi"
        && let Ok(volume) = crate::json::typed(&volume)
    {
        volumes::network_storage(errors, &volume, name, path);
    }
    if name == "local" {
        let target = source["path"].as_str().unwrap_or_default();
        let path = path.child("path");
        if target.is_empty() {
            errors.push(field::required(&path, ""));
        } else {
            no_backsteps(errors, &path, target);
        }
    }
}

fn csi_source(errors: &mut ErrorList, csi: &CSIPersistentVolumeSource, path: &Path) {
    driver_name(errors, &path.child("driver"), &csi.driver);
    required(errors, &path.child("volumeHandle"), &csi.volume_handle);
    for (name, secret) in [
        ("controllerPublishSecretRef", &csi.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &csi.controller_expand_secret_ref),
        ("nodePublishSecretRef", &csi.node_publish_secret_ref),
        ("nodeExpandSecretRef", &csi.node_expand_secret_ref),
    ] {
        if let Some(secret) = secret {
            let path = path.child(name);
            required(errors, &path.child("name"), text(&secret.name));
            required(errors, &path.child("namespace"), text(&secret.namespace));
        }
    }
}

fn capacity(errors: &mut ErrorList, spec: &PersistentVolumeSpec, path: &Path) {
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    if capacity.len() > 1 || !capacity.contains_key("storage") {
        errors.push(field::not_supported(path, value_of(&capacity), &["storage"]));
    }
    for (name, amount) in &capacity {
        let amount = quantity(amount);
        if amount.is_negative() || amount.is_zero() {
            errors.push(field::invalid(&path.key(name), amount.to_string(), "must be greater than zero"));
        }
    }
}

/// Labels of topology as they were called first, and what they are called now.
const RENAMED_LABELS: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
];

fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> ErrorList {
    let mut errors = validate(new);
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        let path = Path::new("spec");
        if sources(&without_late_secret(new, old)) != sources(old) {
            let path = path.child("persistentvolumesource");
            errors.push(field::forbidden(&path, "spec.persistentvolumesource is immutable after creation\n"));
        }
        immutable(&mut errors, &Path::new("volumeMode"), &new.volume_mode, &old.volume_mode);
        if let Some(affinity) = &old.node_affinity {
            let old = Some(renamed(affinity, new.node_affinity.as_ref()));
            immutable(&mut errors, &Path::new("nodeAffinity"), &new.node_affinity, &old);
        }
        if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
            let path = path.child("volumeAttributesClassName");
            errors.push(field::forbidden(&path, "update from non-nil value to nil is forbidden"));
        }
    }
    errors
}

/// The new specification without the secret for expansions, where the old one has none: it may be given later.
fn without_late_secret(new: &PersistentVolumeSpec, old: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    let mut new = new.clone();
    if let (Some(new), Some(old)) = (&mut new.csi, &old.csi)
        && old.controller_expand_secret_ref.is_none()
    {
        new.controller_expand_secret_ref = None;
    }
    new
}

/// The old affinity with those labels under their new names that `new` has so in the same places.
fn renamed(old: &VolumeNodeAffinity, new: Option<&VolumeNodeAffinity>) -> VolumeNodeAffinity {
    let mut affinity = old.clone();
    let Some((old, new)) = affinity.required.as_mut().zip(new.and_then(|new| new.required.as_ref())) else {
        return affinity;
    };
    for (old, new) in old.node_selector_terms.iter_mut().zip(&new.node_selector_terms) {
        let expressions = old.match_expressions.iter_mut().flatten();
        for (old, new) in expressions.zip(new.match_expressions.iter().flatten()) {
            if RENAMED_LABELS.contains(&(&*old.key, &*new.key)) {
                old.key.clone_from(&new.key);
            }
        }
    }
    affinity
}

fn warnings(volume: &PersistentVolume, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let message = r#"deprecated since v1.8; use "storageClassName" attribute instead"#;
    warn::annotation(&mut warnings, &volume.metadata, warn::STORAGE_CLASS_ANNOTATION, message);
    let Some(spec) = &volume.spec else { return warnings };
    if text(&spec.persistent_volume_reclaim_policy) == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let path = Path::new("spec");
    if let Some(required) = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) {
        let path = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
        for (index, term) in required.node_selector_terms.iter().enumerate() {
            warn::node_selector_term(&mut warnings, term, false, &path.index(index));
        }
    }
    for (is, source, message) in [
        (spec.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (
            spec.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (spec.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (spec.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        (spec.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (spec.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if is {
            warnings.push(format!("{}: {message}", path.child(source)));
        }
    }
    warnings
}

fn cells(volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
    let empty = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&empty);
    let status = volume.status.clone().unwrap_or_default();
    let claim = spec
        .claim_ref
        .as_ref()
        .map_or_else(String::new, |claim| format!("{}/{}", text(&claim.namespace), text(&claim.name)));
    let capacity = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")).map(quantity);
    let phase = match volume.metadata.deletion_timestamp {
        Some(_) => "Terminating",
        None => text(&status.phase),
    };
    let unset = |text: &Option<String>| text.clone().unwrap_or_else(|| "<unset>".to_owned());
    vec![
        row::name(&volume.metadata),
        capacity.unwrap_or_default().to_string().into(),
        short_modes(items(&spec.access_modes)).into(),
        text(&spec.persistent_volume_reclaim_policy).into(),
        phase.into(),
        claim.into(),
        text(&spec.storage_class_name).into(),
        unset(&spec.volume_attributes_class_name).into(),
        text(&status.reason).into(),
        row::age(&volume.metadata, now),
        unset(&spec.volume_mode).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value) -> PersistentVolume {
        let mut volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
        default(&mut volume);
        volume
    }

    #[test]
    fn checks() {
        let right = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/data"}});
        assert_eq!(validate(&volume(right.clone())), []);
        let mut two = right.clone();
        two["nfs"] = json!({"server": "s", "path": "/"});
        assert_eq!(validate(&volume(two)).len(), 1);
        assert_eq!(validate(&volume(json!({}))).len(), 3);
        let source = |name: &str, source: Value| {
            let mut spec = right.clone();
            spec.as_object_mut().unwrap().remove("hostPath");
            spec[name] = source;
            validate(&volume(spec)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            source("nfs", json!({"server": "", "path": "data"})),
            [
                "spec.nfs.server: Required value",
                r#"spec.nfs.path: Invalid value: "data": must be an absolute path"#
            ]
        );
        assert_eq!(
            source(
                "csi",
                json!({"driver": "d.example.com", "volumeHandle": "", "nodePublishSecretRef": {"name": "s"}})
            ),
            [
                "spec.csi.volumeHandle: Required value",
                "spec.csi.nodePublishSecretRef.namespace: Required value"
            ]
        );
        let mut moved = right.clone();
        moved["hostPath"] = json!({"path": "/other"});
        assert_eq!(validate_update(&volume(moved), &volume(right)).len(), 1);
    }

    #[test]
    fn what_may_still_change() {
        let csi = |more: Value| {
            let mut source = json!({"driver": "d.example.com", "volumeHandle": "h"});
            source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"csi": source})
        };
        let secret = |name: &str| csi(json!({"controllerExpandSecretRef": {"name": name, "namespace": "n"}}));
        let affinity = |keys: &[&str], value: &str| {
            let expressions: Vec<Value> =
                keys.iter().map(|key| json!({"key": key, "operator": "In", "values": [value]})).collect();
            let mut spec = csi(json!({}));
            spec["nodeAffinity"] =
                json!({"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}});
            spec
        };
        let class = |name: &str| {
            let mut spec = csi(json!({}));
            spec["volumeAttributesClassName"] = name.into();
            spec
        };
        let (zone, beta) = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
        let source = "spec.persistentvolumesource";
        for (old, new, wrong) in [
            (csi(json!({})), secret("s"), None),
            (secret("s"), secret("s"), None),
            (secret("s"), secret("t"), Some(source)),
            (secret("s"), csi(json!({})), Some(source)),
            (csi(json!({})), csi(json!({"readOnly": true})), Some(source)),
            (csi(json!({})), affinity(&[beta], "a"), None),
            (affinity(&[beta, "k"], "a"), affinity(&[zone, "k"], "a"), None),
            (affinity(&[beta], "a"), affinity(&[zone], "b"), Some("nodeAffinity")),
            (affinity(&[beta, "k"], "a"), affinity(&[zone], "a"), Some("nodeAffinity")),
            (affinity(&[zone], "a"), affinity(&[beta], "a"), Some("nodeAffinity")),
            (affinity(&[zone], "a"), csi(json!({})), Some("nodeAffinity")),
            (csi(json!({})), class("c"), None),
            (class("c"), class("d"), None),
            (class("c"), csi(json!({})), Some("spec.volumeAttributesClassName")),
        ] {
            let volume = |mut spec: Value| {
                spec["accessModes"] = json!(["ReadWriteOnce"]);
                spec["capacity"] = json!({"storage": "1Gi"});
                volume(spec)
            };
            let (old, new) = (volume(old), volume(new));
            let fields: Vec<String> = validate_update(&new, &old).into_iter().map(|e| e.field).collect();
            assert_eq!(fields, wrong.into_iter().collect::<Vec<_>>(), "{old:?} {new:?}");
        }
    }
}
