//! The `default` of built-in fields and elements, which version 3 publishes and version 2 leaves out.
//!
//! Most follow from what upstream's types hold when nothing is given: a struct held by value is `{}`, a scalar that is
//! always written is its zero, and so is each element of a list or map. Types that read themselves (times, quantities)
//! have none. A few are said by hand, in [`SAID`].
//! Upstream: kube-openapi `pkg/generators/openapi.go` (mustEnforceDefault), `PruneDefaults` for version 2, and the
//! `+default` marks of `k8s.io/api`.

use serde_json::{Value, json};

use crate::table::{Field, Type, Zero, table};

const API: &str = "io.k8s.api.";

/// What is said by hand: the definition (after [`API`]), its field, the default.
const SAID: &[(&str, &str, Said)] = &[
    ("certificates.v1.PodCertificateRequestSpec", "maxExpirationSeconds", Said::Number(86400)),
    ("certificates.v1beta1.PodCertificateRequestSpec", "maxExpirationSeconds", Said::Number(86400)),
    ("core.v1.AzureDiskVolumeSource", "cachingMode", Said::Text("ReadWrite")),
    ("core.v1.AzureDiskVolumeSource", "fsType", Said::Text("ext4")),
    ("core.v1.AzureDiskVolumeSource", "kind", Said::Text("Shared")),
    ("core.v1.AzureDiskVolumeSource", "readOnly", Said::False),
    ("core.v1.ContainerPort", "protocol", Said::Text("TCP")),
    ("core.v1.FileKeySelector", "optional", Said::False),
    ("core.v1.ISCSIPersistentVolumeSource", "iscsiInterface", Said::Text("default")),
    ("core.v1.ISCSIVolumeSource", "iscsiInterface", Said::Text("default")),
    ("core.v1.RBDPersistentVolumeSource", "keyring", Said::Text("/etc/ceph/keyring")),
    ("core.v1.RBDPersistentVolumeSource", "pool", Said::Text("rbd")),
    ("core.v1.RBDPersistentVolumeSource", "user", Said::Text("admin")),
    ("core.v1.RBDVolumeSource", "keyring", Said::Text("/etc/ceph/keyring")),
    ("core.v1.RBDVolumeSource", "pool", Said::Text("rbd")),
    ("core.v1.RBDVolumeSource", "user", Said::Text("admin")),
    ("core.v1.ScaleIOPersistentVolumeSource", "fsType", Said::Text("xfs")),
    ("core.v1.ScaleIOPersistentVolumeSource", "storageMode", Said::Text("ThinProvisioned")),
    ("core.v1.ScaleIOVolumeSource", "fsType", Said::Text("xfs")),
    ("core.v1.ScaleIOVolumeSource", "storageMode", Said::Text("ThinProvisioned")),
    ("core.v1.ServicePort", "protocol", Said::Text("TCP")),
    ("resource.v1.DeviceToleration", "operator", Said::Text("Equal")),
    ("resource.v1beta1.DeviceToleration", "operator", Said::Text("Equal")),
    ("resource.v1beta2.DeviceToleration", "operator", Said::Text("Equal")),
];

/// A default that is said by hand.
enum Said {
    Text(&'static str),
    Number(i64),
    False,
}

/// The default of a field of `definition`.
pub(super) fn of_field(definition: &str, field: &Field) -> Option<Value> {
    let kind = definition.strip_prefix(API).unwrap_or_default();
    if let Some((.., said)) = SAID.iter().find(|(of, name, _)| (*of, *name) == (kind, field.name)) {
        return Some(match said {
            Said::Text(text) => (*text).into(),
            Said::Number(number) => (*number).into(),
            Said::False => false.into(),
        });
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
