//! The `default` of built-in fields and elements, which version 3 publishes and version 2 leaves out.
//!
//! Most follow from what upstream's types hold when nothing is given: a struct held by value is `{}`, a scalar that is
//! always written is its zero, and so is each element of a list or map. Types that read themselves (times, quantities)
//! have none. A few are said by hand, in [`SAID`].
//! Upstream: kube-openapi `pkg/generators/openapi.go` (mustEnforceDefault), `PruneDefaults` for version 2, and the
//! `+default` marks of `k8s.io/api`.

use serde_json::{Value, json};

use crate::table::{Field, Type, Zero, table};

const CORE: &str = "io.k8s.api.core.v1";

/// What is said by hand: the definition (of the core group), its field, the text.
const SAID: &[(&str, &str, &str)] = &[
    ("AzureDiskVolumeSource", "cachingMode", "ReadWrite"),
    ("AzureDiskVolumeSource", "fsType", "ext4"),
    ("AzureDiskVolumeSource", "kind", "Shared"),
    ("ContainerPort", "protocol", "TCP"),
    ("ISCSIPersistentVolumeSource", "iscsiInterface", "default"),
    ("ISCSIVolumeSource", "iscsiInterface", "default"),
    ("RBDPersistentVolumeSource", "keyring", "/etc/ceph/keyring"),
    ("RBDPersistentVolumeSource", "pool", "rbd"),
    ("RBDPersistentVolumeSource", "user", "admin"),
    ("RBDVolumeSource", "keyring", "/etc/ceph/keyring"),
    ("RBDVolumeSource", "pool", "rbd"),
    ("RBDVolumeSource", "user", "admin"),
    ("ScaleIOPersistentVolumeSource", "fsType", "xfs"),
    ("ScaleIOPersistentVolumeSource", "storageMode", "ThinProvisioned"),
    ("ScaleIOVolumeSource", "fsType", "xfs"),
    ("ScaleIOVolumeSource", "storageMode", "ThinProvisioned"),
    ("ServicePort", "protocol", "TCP"),
];

/// The default of a field of `definition`.
pub(super) fn of_field(definition: &str, field: &Field) -> Option<Value> {
    let kind = definition.strip_prefix(CORE).and_then(|kind| kind.strip_prefix('.'));
    if let Some(kind) = kind {
        if let Some((.., text)) = SAID.iter().find(|(of, name, _)| (*of, *name) == (kind, field.name)) {
            return Some((*text).into());
        }
        if (kind, field.name) == ("AzureDiskVolumeSource", "readOnly") {
            return Some(false.into());
        }
    }
    let zero = of_element(&field.r#type)?;
    match field.zero {
        // A pointer, to nothing.
        Zero::Kept | Zero::Null => None,
        Zero::Written => Some(zero),
        // Left out when it is zero, which a struct never is.
        Zero::Omitted => zero.is_object().then_some(zero),
    }
}

/// The default of what a list or map holds.
pub(super) fn of_element(r#type: &Type) -> Option<Value> {
    Some(match r#type {
        // What has no fields that anybody knows reads itself.
        Type::Definition(reference) if !table().get(*reference).fields.is_empty() => json!({}),
        Type::String => "".into(),
        Type::Int32 | Type::Int64 | Type::Number => 0.into(),
        Type::Boolean => false.into(),
        _ => return None,
    })
}
