//! PersistentVolumeClaim: a user's request for storage.
//! Upstream: pkg/registry/core/persistentvolumeclaim, pkg/apis/core/validation.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{
    dns_label, dns_subdomain, immutable_spec, one_of_if_set, qualified_name, quantity, required,
};
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta::Quantity;
use crate::meta_validation::{immutable, label_selector_errors};
use crate::types::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};

pub(super) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(super) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["pvc".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column::new("Status", "string", "The phase of the claim."),
            Column::new("Volume", "string", "The volume bound to the claim."),
            Column::new("Capacity", "string", "The capacity of the bound volume."),
            Column::new("Access Modes", "string", "The access modes of the bound volume."),
            Column::new("StorageClass", "string", "StorageClass of the pvc"),
            Column::new("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
            Column::age(),
            Column::wide("VolumeMode", "string", "Whether the volume is a filesystem or a block device."),
        ],
        hooks: Arc::new(
            Typed::<PersistentVolumeClaim>::new()
                .status(|| Some(json!({"phase": "Pending"})))
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced)
    }
}

/// Fills in a claim, alone or in the template of a StatefulSet.
pub(crate) fn default(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    spec.resources.get_or_insert_default();
    default_text(&mut spec.volume_mode, "Filesystem");
    // The old reference and the new one mirror each other, unless the new one crosses namespaces.
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = crate::json::typed(&json!(source)).ok();
        }
        (None, Some(source)) if text(&source.namespace).is_empty() => {
            spec.data_source = crate::json::typed(&json!(source)).ok();
        }
        _ => {}
    }
    default_text(&mut claim.status.get_or_insert_default().phase, "Pending");
}

fn validate(claim: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = PersistentVolumeClaimSpec::default();
    validate_spec(&mut errors, claim.spec.as_ref().unwrap_or(&empty), &Path::new("spec"));
    errors
}

/// Checks the spec of a claim, also of one that a pod makes for itself.
pub(crate) fn validate_spec(errors: &mut ErrorList, spec: &PersistentVolumeClaimSpec, path: &Path) {
    let modes_path = path.child("accessModes");
    let modes = items(&spec.access_modes);
    if modes.is_empty() {
        errors.push(field::required(&modes_path, "at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        errors.extend(label_selector_errors(selector, &path.child("selector")));
    }
    access_modes(errors, modes, &modes_path);
    let storage = spec.resources.as_ref().and_then(|own| own.requests.as_ref()?.get("storage"));
    let storage_path = path.child("resources").key("storage");
    match storage.map(quantity) {
        None => errors.push(field::required(&storage_path, "")),
        Some(amount) if amount.is_negative() || amount.is_zero() => {
            errors.push(field::invalid(&storage_path, amount.to_string(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    for (name, class) in [
        ("storageClassName", &spec.storage_class_name),
        ("volumeAttributesClassName", &spec.volume_attributes_class_name),
    ] {
        if !text(class).is_empty() {
            dns_subdomain(errors, &path.child(name), text(class));
        }
    }
    one_of_if_set(errors, &path.child("volumeMode"), &spec.volume_mode, VOLUME_MODES);
    if let Some(source) = &spec.data_source {
        data_source(errors, &source.api_group, &source.kind, &source.name, &path.child("dataSource"));
    }
    if let Some(source) = &spec.data_source_ref {
        let path = path.child("dataSourceRef");
        data_source(errors, &source.api_group, &source.kind, &source.name, &path);
        if !text(&source.namespace).is_empty() {
            dns_label(errors, &path.child("namespace"), text(&source.namespace));
        }
    }
    if let (Some(old), Some(new)) = (&spec.data_source, &spec.data_source_ref) {
        let at = path.child("dataSource").to_string();
        if !text(&new.namespace).is_empty() {
            errors.push(field::invalid(
                path,
                at,
                "may not be specified when dataSourceRef.namespace is specified",
            ));
        } else if (&old.api_group, &old.kind, &old.name) != (&new.api_group, &new.kind, &new.name) {
            errors.push(field::invalid(path, at, "must match dataSourceRef"));
        }
    }
}

pub(super) fn access_modes(errors: &mut ErrorList, modes: &[String], path: &Path) {
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&&***mode)) {
        errors.push(field::not_supported(path, &**mode, ACCESS_MODES));
    }
    let once = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    let other = modes.iter().any(|mode| mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&&**mode));
    if once && other {
        errors.push(field::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn data_source(errors: &mut ErrorList, group: &Option<String>, kind: &str, name: &str, path: &Path) {
    required(errors, &path.child("name"), name);
    required(errors, &path.child("kind"), kind);
    let group = text(group);
    if !group.is_empty() {
        dns_subdomain(errors, &path.child("apiGroup"), group);
    } else if kind != "PersistentVolumeClaim" {
        errors.push(field::invalid(
            path,
            kind,
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        ));
    }
}

fn storage(list: Option<&std::collections::BTreeMap<String, Quantity>>) -> crate::quantity::Quantity {
    list.and_then(|list| list.get("storage")).map(quantity).unwrap_or_default()
}

fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = validate(new);
    let empty = PersistentVolumeClaimSpec::default();
    let (spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let bound = new.status.as_ref().is_some_and(|status| text(&status.phase) == "Bound");
    let (mut rest, mut before) = (spec.clone(), old_spec.clone());
    if text(&before.volume_name).is_empty() {
        before.volume_name.clone_from(&rest.volume_name);
    }
    if before.storage_class_name.is_none() {
        before.storage_class_name.clone_from(&rest.storage_class_name);
    }
    if bound {
        let old_storage =
            before.resources.as_ref().and_then(|own| own.requests.as_ref()?.get("storage")).cloned();
        if let (Some(requests), Some(storage)) =
            (rest.resources.as_mut().and_then(|own| own.requests.as_mut()), old_storage)
        {
            requests.insert("storage".to_owned(), storage);
        }
        rest.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
    }
    immutable_spec(
        &mut errors,
        &rest,
        &before,
        "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
    );
    let requests = |spec: &PersistentVolumeClaimSpec| {
        storage(spec.resources.as_ref().and_then(|own| own.requests.as_ref()))
    };
    let capacity = storage(old.status.as_ref().and_then(|status| status.capacity.as_ref()));
    if requests(spec) < requests(old_spec) && requests(spec) <= capacity {
        let path = Path::new("spec").child("resources").child("requests").child("storage");
        errors.push(field::forbidden(&path, "field can not be less than status.capacity"));
    }
    immutable(&mut errors, &Path::new("volumeMode"), &spec.volume_mode, &old_spec.volume_mode);
    if old_spec.volume_attributes_class_name.is_some() && spec.volume_attributes_class_name.is_none() {
        let path = Path::new("spec").child("volumeAttributesClassName");
        errors.push(field::forbidden(&path, "update from non-nil value to nil is forbidden"));
    }
    errors
}

/// `RWO`, `ROX`, `RWX`, `RWOP`, in that order.
pub(super) fn short_modes(modes: &[String]) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(long, _)| modes.iter().any(|mode| mode == long))
    .map(|(_, short)| short)
    .collect::<Vec<_>>()
    .join(",")
}

fn validate_status_update(new: &PersistentVolumeClaim, _: &PersistentVolumeClaim) -> ErrorList {
    const RESIZES: &[&str] = &[
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    let mut errors = ErrorList::new();
    if new.spec.as_ref().is_none_or(|spec| items(&spec.access_modes).is_empty()) {
        let path = Path::new("Spec").child("accessModes");
        errors.push(field::required(&path, "at least 1 access mode is required"));
    }
    let Some(status) = &new.status else { return errors };
    let path = Path::new("status");
    for (name, amount) in status.capacity.iter().flatten() {
        amount_of(&mut errors, amount, &path.child("capacity").key(name));
    }
    let resizes_path = path.child("allocatedResourceStatus");
    for (name, resize) in status.allocated_resource_statuses.iter().flatten() {
        resource_key(&mut errors, name, &resizes_path);
        if !RESIZES.contains(&resize.as_str()) {
            errors.push(field::not_supported(&resizes_path, resize.as_str(), RESIZES));
        }
    }
    let allocated_path = path.child("allocatedResources");
    for (name, amount) in status.allocated_resources.iter().flatten() {
        let before = errors.len();
        resource_key(&mut errors, name, &allocated_path);
        if errors.len() == before {
            amount_of(&mut errors, amount, &allocated_path.key(name));
        }
    }
    errors
}

fn amount_of(errors: &mut ErrorList, amount: &Quantity, path: &Path) {
    let amount = quantity(amount);
    if amount.is_negative() {
        errors.push(field::invalid(path, amount.value(), "must be a valid resource quantity"));
    }
}

/// A claim has storage, and what others define under a domain of theirs.
fn resource_key(errors: &mut ErrorList, name: &str, path: &Path) {
    let before = errors.len();
    qualified_name(errors, path, name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if errors.len() == before && native && name != "storage" {
        errors.push(field::not_supported(path, name, &["storage"]));
    }
}

fn warnings(claim: &PersistentVolumeClaim, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let message = r#"deprecated since v1.8; use "storageClassName" attribute instead"#;
    warn::annotation(&mut warnings, &claim.metadata, warn::STORAGE_CLASS_ANNOTATION, message);
    if let Some(spec) = &claim.spec {
        spec_warnings(&mut warnings, &Path::new("spec"), spec);
    }
    warnings
}

/// Warnings of a claim, alone or in a template.
pub(crate) fn spec_warnings(warnings: &mut Vec<String>, path: &Path, spec: &PersistentVolumeClaimSpec) {
    let Some(resources) = &spec.resources else { return };
    let path = path.child("resources");
    for (name, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        let amount = amounts.as_ref().and_then(|amounts| amounts.get("storage"));
        warn::whole_bytes(warnings, &path.child(name).key("storage"), amount);
    }
}

fn cells(claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
    let empty = PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&empty);
    let status = claim.status.as_ref();
    let phase = match claim.metadata.deletion_timestamp {
        Some(_) => "Terminating",
        None => status.map_or("", |status| text(&status.phase)),
    };
    let bound = !text(&spec.volume_name).is_empty();
    let capacity = storage(status.and_then(|status| status.capacity.as_ref())).to_string();
    let modes = short_modes(status.map_or(&[], |status| items(&status.access_modes)));
    let unset = |text: &Option<String>| text.clone().unwrap_or_else(|| "<unset>".to_owned());
    vec![
        row::name(&claim.metadata),
        phase.into(),
        text(&spec.volume_name).into(),
        if bound { capacity.into() } else { "".into() },
        if bound { modes.into() } else { "".into() },
        text(&spec.storage_class_name).into(),
        unset(&spec.volume_attributes_class_name).into(),
        row::age(&claim.metadata, now),
        unset(&spec.volume_mode).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut claim = serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": spec})).unwrap();
        default(&mut claim);
        claim
    }

    #[test]
    fn checks() {
        let right = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        assert_eq!(validate(&claim(right.clone())), []);
        let texts: Vec<_> = validate(&claim(json!({}))).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value"
            ]
        );
        let mut changed = claim(right.clone());
        changed.spec.as_mut().unwrap().access_modes = Some(vec!["ReadOnlyMany".into()]);
        assert_eq!(validate_update(&changed, &claim(right.clone())).len(), 1);
        let mut bound = claim(right.clone());
        bound.spec.as_mut().unwrap().volume_name = Some("v".into());
        assert_eq!(validate_update(&bound, &claim(right)), []);
    }
}
