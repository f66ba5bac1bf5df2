//! One table over all kinds: a volume's spec, what the API holds, and the plan that follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::types::core::v1::{Pod, Volume};
use serde_json::{Value, json};

use super::of;
use crate::{Content, Context, Credential, Medium, PathCheck, Plan, TokenSpec, TrustBundles};

fn content() -> Content {
    let config =
        json!({"metadata": {"name": "cfg"}, "data": {"a": "1", "b": "2"}, "binaryData": {"c": "AwQ="}});
    let secret = json!({"metadata": {"name": "pw"}, "data": {"user": "cm9vdA=="}});
    let claim = json!({"metadata": {"name": "data"}, "status": {"phase": "Bound"}});
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"local": {"path": "/mnt/disk"}}});
    Content {
        config_maps: BTreeMap::from([("cfg".into(), Arc::new(serde_json::from_value(config).unwrap()))]),
        secrets: BTreeMap::from([("pw".into(), Arc::new(serde_json::from_value(secret).unwrap()))]),
        tokens: BTreeMap::from([(
            TokenSpec { audience: String::new(), expiration_seconds: 3607 },
            "tok".into(),
        )]),
        certificates: BTreeMap::from([(1, Credential { key: "key,".into(), chain: "chain".into() })]),
        trust_bundles: TrustBundles::default(),
        claim: Some((serde_json::from_value(claim).unwrap(), Some(serde_json::from_value(volume).unwrap()))),
    }
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"securityContext": {"runAsUser": 1000}, "containers": [{"name": "c"}]}
    }))
    .unwrap()
}

/// The plan of a volume, in one line: files as `path=content:mode`.
fn planned(volume: Value, content: &Content) -> Result<String, String> {
    let volume: Volume = serde_json::from_value(volume).unwrap();
    let kind = of(&volume).map_err(|e| e.to_string())?;
    let context = Context { pod: &pod(), allocatable: &BTreeMap::new() };
    Ok(match kind.plan(&context, content).map_err(|e| e.to_string())? {
        Plan::Files { payload, .. } => payload
            .iter()
            .map(|(path, file)| format!("{path}={}:{:o}", String::from_utf8_lossy(&file.data), file.mode))
            .collect::<Vec<_>>()
            .join(" "),
        Plan::Directory { medium: Medium::Disk, mode } => format!("disk {mode:o}"),
        Plan::Directory { medium: Medium::Memory { size }, mode } => format!("memory {size:?} {mode:o}"),
        Plan::HostPath { path, check, .. } => format!("host {} {check:?}", path.display()),
        Plan::Image => "image".to_owned(),
    })
}

#[test]
fn plans() {
    let not_found = "configmap \"no\" not found";
    let certificate = json!({"signerName": "s", "keyType": "ED25519", "credentialBundlePath": "all",
                             "keyPath": "key", "certificateChainPath": "chain"});
    let roots = json!({"name": "no", "path": "roots", "optional": true});
    for (volume, want) in [
        (
            json!({"projected": {"sources": [
                {"clusterTrustBundle": roots}, {"podCertificate": certificate}]}}),
            Ok("all=key,chain:600 chain=chain:600 key=key,:600 roots=:600"),
        ),
        (
            json!({"projected": {"sources": [{"podCertificate": certificate}]}}),
            Err("credential bundle is not issued yet"),
        ),
        (json!({"emptyDir": {}}), Ok("disk 777")),
        (json!({}), Ok("disk 777")),
        (json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}), Ok("memory Some(1048576) 777")),
        (json!({"emptyDir": {"medium": "Tape"}}), Err("unknown storage medium \"Tape\"")),
        (json!({"hostPath": {"path": "/x", "type": "Socket"}}), Ok("host /x Socket")),
        (json!({"hostPath": {"path": "/x", "type": "Moon"}}), Err("Moon is an invalid volume type")),
        (json!({"configMap": {"name": "cfg", "defaultMode": 288}}), Ok("a=1:440 b=2:440 c=\u{3}\u{4}:440")),
        (
            json!({"configMap": {"name": "cfg", "items": [{"key": "b", "path": "x/y", "mode": 256}]}}),
            Ok("x/y=2:400"),
        ),
        (
            json!({"configMap": {"name": "cfg", "items": [{"key": "zz", "path": "x"}]}}),
            Err("configmap references non-existent config key: zz"),
        ),
        (
            json!({"configMap": {"name": "cfg", "optional": true, "items": [{"key": "zz", "path": "x"}]}}),
            Ok(""),
        ),
        (json!({"configMap": {"name": "no"}}), Err(not_found)),
        (json!({"configMap": {"name": "no", "optional": true}}), Ok("")),
        (json!({"secret": {"secretName": "pw"}}), Ok("user=root:644")),
        (json!({"secret": {"secretName": "no"}}), Err("secret \"no\" not found")),
        (
            json!({"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            Ok("l=app=\"web\":644"),
        ),
        (
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "cfg", "items": [{"key": "a", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}),
            Ok("ca.crt=1:644 namespace=shop:644 token=tok:600"),
        ),
        (json!({"persistentVolumeClaim": {"claimName": "data"}}), Ok("host /mnt/disk Directory")),
        (
            json!({"nfs": {"server": "s", "path": "/"}}),
            Err("no volume plugin matched: volumes of kind nfs are not supported by this node"),
        ),
    ] {
        let mut named = volume.clone();
        named["name"] = json!("v");
        assert_eq!(planned(named, &content()), want.map(str::to_owned).map_err(str::to_owned), "{volume}");
    }
}

#[test]
fn claims_that_are_not_ready_say_why() {
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
    let mut content = content();
    content.claim = Some((Default::default(), None));
    assert_eq!(planned(volume.clone(), &content), Err("PVC data is not bound".into()));
    content.claim = None;
    assert_eq!(planned(volume, &content), Err("persistentvolumeclaim \"data\" not found".into()));
}

#[test]
fn references_name_only_what_is_used() {
    let volume = json!({"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "pw"}}, {"configMap": {"name": "cfg"}}]}});
    let references = of(&serde_json::from_value(volume).unwrap()).unwrap().references();
    assert_eq!(references.objects.len(), 2);
    assert_eq!(references.tokens.first().unwrap().expiration_seconds, 3600);
    assert_eq!(PathCheck::None, super::host_path::check(None).unwrap());
}
