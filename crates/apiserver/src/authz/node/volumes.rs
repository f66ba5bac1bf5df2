//! The Secrets that a PersistentVolume has a node read.
//! Not here: whose volume it is (`node`).
//! Upstream: pkg/api/v1/persistentvolume (VisitPVSecretNames, those that kubelets see).

use api::types::core::v1::{PersistentVolume, SecretReference};

/// Namespace and name of each. What names no namespace means the claim's, where the kind of volume allows that.
pub fn secrets(volume: &PersistentVolume) -> Vec<(String, String)> {
    let Some(spec) = &volume.spec else { return Vec::new() };
    let claim = spec.claim_ref.as_ref().and_then(|claim| claim.namespace.clone()).unwrap_or_default();
    let mut out: Vec<(String, String)> = Vec::new();
    let mut add = |namespace: Option<&str>, name: Option<&str>, fallback: &str| {
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(fallback);
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            out.push((namespace.to_owned(), name.to_owned()));
        }
    };
    if let Some(file) = &spec.azure_file {
        add(file.secret_namespace.as_deref(), Some(&file.secret_name), &claim);
    }
    if let Some(secret) = spec.storageos.as_ref().and_then(|volume| volume.secret_ref.as_ref()) {
        add(secret.namespace.as_deref(), secret.name.as_deref(), "");
    }
    let of_claim: [Option<&SecretReference>; 5] = [
        spec.cephfs.as_ref().and_then(|volume| volume.secret_ref.as_ref()),
        spec.flex_volume.as_ref().and_then(|volume| volume.secret_ref.as_ref()),
        spec.rbd.as_ref().and_then(|volume| volume.secret_ref.as_ref()),
        spec.scale_io.as_ref().map(|volume| &volume.secret_ref),
        spec.iscsi.as_ref().and_then(|volume| volume.secret_ref.as_ref()),
    ];
    for secret in of_claim.into_iter().flatten() {
        add(secret.namespace.as_deref(), secret.name.as_deref(), &claim);
    }
    // What the controllers of a CSI driver need (publishing, expanding) is no node's to read.
    let csi = spec.csi.as_ref();
    let whole: [Option<&SecretReference>; 4] = [
        spec.cinder.as_ref().and_then(|volume| volume.secret_ref.as_ref()),
        csi.and_then(|csi| csi.node_publish_secret_ref.as_ref()),
        csi.and_then(|csi| csi.node_stage_secret_ref.as_ref()),
        csi.and_then(|csi| csi.node_expand_secret_ref.as_ref()),
    ];
    for secret in whole.into_iter().flatten() {
        add(secret.namespace.as_deref(), secret.name.as_deref(), "");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_nodes_need_is_named() {
        let own = json!({ "name": "s", "namespace": "own" });
        let bare = json!({ "name": "s" });
        #[rustfmt::skip]
        let table = [
            (json!({ "azureFile": { "shareName": "x", "secretName": "s" } }), vec![("claims", "s")]),
            (json!({ "azureFile": { "shareName": "x", "secretName": "s", "secretNamespace": "own" } }), vec![("own", "s")]),
            (json!({ "cephfs": { "monitors": [], "secretRef": bare } }), vec![("claims", "s")]),
            (json!({ "rbd": { "monitors": [], "image": "i", "secretRef": own } }), vec![("own", "s")]),
            (json!({ "scaleIO": { "gateway": "g", "system": "s", "secretRef": bare } }), vec![("claims", "s")]),
            (json!({ "iscsi": { "targetPortal": "p", "iqn": "q", "lun": 0, "secretRef": bare } }), vec![("claims", "s")]),
            (json!({ "flexVolume": { "driver": "d", "secretRef": bare } }), vec![("claims", "s")]),
            (json!({ "cinder": { "volumeID": "v", "secretRef": own } }), vec![("own", "s")]),
            (json!({ "storageos": { "secretRef": own } }), vec![("own", "s")]),
            (json!({ "csi": { "driver": "d", "volumeHandle": "h", "nodeStageSecretRef": { "name": "a", "namespace": "own" },
                "nodePublishSecretRef": { "name": "b", "namespace": "own" }, "nodeExpandSecretRef": { "name": "c", "namespace": "own" },
                "controllerPublishSecretRef": own, "controllerExpandSecretRef": own } }),
             vec![("own", "a"), ("own", "b"), ("own", "c")]),
            (json!({ "hostPath": { "path": "/" } }), vec![]),
        ];
        for (mut spec, want) in table {
            spec["claimRef"] = json!({ "namespace": "claims", "name": "c" });
            let volume = json!({ "metadata": { "name": "pv" }, "spec": spec });
            let mut found = secrets(&serde_json::from_value(volume.clone()).unwrap());
            found.sort();
            let want: Vec<_> = want.into_iter().map(|(ns, name)| (ns.to_owned(), name.to_owned())).collect();
            assert_eq!(found, want, "{volume}");
        }
    }
}
