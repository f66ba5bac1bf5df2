//! test/e2e/auth/certificates.go: the part that is about the API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::world::World;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str, signer: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "e2e.example.com");
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name, "labels": {"e2e": "certificates"}},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": signer, "expirationSeconds": 3600,
            "usages": ["digital signature", "key encipherment", "server auth"],
        },
    })
}

/// Conformance: [sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations [Conformance]
#[tokio::test]
async fn should_support_csr_api_operations() {
    let world = World::new().await;
    let admin = &world.admin;
    let resources = admin.get("/apis/certificates.k8s.io/v1").await.is(200);
    let names: Vec<_> =
        resources.at("/resources").as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    for name in ["", "/approval", "/status"] {
        assert!(names.contains(&format!("certificatesigningrequests{name}").as_str()), "{names:?}");
    }
    for name in ["a", "b", "c"] {
        admin.post(PATH, &request(name, "example.com/e2e")).await.is(201);
    }
    let one = format!("{PATH}/a");
    assert_eq!(admin.get(&one).await.is(200).text("/spec/username"), "admin", "the caller is recorded");
    let selected = format!("{PATH}?labelSelector=e2e%3Dcertificates");
    let listed = admin.get(&selected).await.is(200);
    assert_eq!(listed.names(), ["a", "b", "c"]);
    let from = listed.text("/metadata/resourceVersion");
    let mut watch = admin.watch(&format!("{selected}&watch=true&resourceVersion={from}")).await;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let patched = admin.patch(&one, "merge-patch+json", &patch).await.is(200);
    let mut update = patched.body.clone();
    update["metadata"]["annotations"]["updated"] = "true".into();
    admin.put(&one, &update).await.is(200);
    for key in ["patched", "updated"] {
        assert_eq!(watch.next().await.unwrap()["object"]["metadata"]["annotations"][key], "true");
    }

    let approval = format!("{one}/approval");
    let got = admin.get(&approval).await.is(200);
    assert_eq!(got.text("/metadata/name"), "a");
    let condition =
        json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "Set from an e2e test"});
    let patch = json!({
        "metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]},
    });
    let patched = admin.patch(&approval, "merge-patch+json", &patch).await.is(200);
    assert_eq!(patched.text("/status/conditions/0/type"), "ApprovalPatch");
    let mut update = patched.body.clone();
    update["status"]["conditions"].as_array_mut().unwrap().push(condition);
    let updated = admin.put(&approval, &update).await.is(200);
    assert_eq!(updated.text("/status/conditions/1/type"), "Approved");

    let status = format!("{one}/status");
    assert_eq!(admin.get(&status).await.is(200).text("/metadata/name"), "a");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::new(vec!["e2e".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let patch = json!({"status": {"certificate": STANDARD.encode(pem)}});
    let patched = admin.patch(&status, "merge-patch+json", &patch).await.is(200);
    assert!(!patched.text("/status/certificate").is_empty());
    let mut update = patched.body.clone();
    update["status"]["conditions"].as_array_mut().unwrap().push(
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from an e2e test"}),
    );
    let updated = admin.put(&status, &update).await.is(200);
    assert_eq!(updated.text("/status/conditions/2/type"), "StatusUpdate");

    admin.delete(&one, None).await.is(200);
    admin.get(&one).await.is(404);
    assert_eq!(admin.get(&selected).await.is(200).names(), ["b", "c"]);
    admin.delete(&selected, None).await.is(200);
    assert!(admin.get(&selected).await.is(200).names().is_empty());
}
