//! test/e2e/auth/pod_certificate_request.go. What a pod sees of its certificate is the node's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::lifecycle::Kind;
use crate::world::{World, pod};

/// A request for a certificate, and the status with one that lives so many minutes and begins a minute ago.
pub fn issued(minutes: i64) -> (Value, Value) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = STANDARD.encode(params.serialize_request(&key).unwrap().der());

    let start = Timestamp::from_second(Timestamp::now().as_second() - 60).unwrap();
    let after = |minutes| start + SignedDuration::from_mins(minutes);
    let date = |at: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(at.as_second() as u64)
    };
    params.distinguished_name.push(rcgen::DnType::CommonName, "e2e.example.com");
    params.not_before = date(start);
    params.not_after = date(after(minutes));
    let certificate = params.self_signed(&key).unwrap().pem();

    let request = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "spec": {
            "signerName": "example.com/e2e", "podName": "test-pod",
            "podUID": "12345678-1234-1234-1234-123456789012", "serviceAccountName": "default",
            "serviceAccountUID": "12345678-1234-1234-1234-123456789013", "nodeName": "test-node",
            "nodeUID": "12345678-1234-1234-1234-123456789014", "maxExpirationSeconds": 86400,
            "stubPKCS10Request": request,
        },
    });
    let status = json!({"status": {
        "certificateChain": certificate, "notBefore": start, "notAfter": after(minutes),
        "beginRefreshAt": after(15),
        "conditions": [{
            "type": "Issued", "status": "True", "reason": "E2E", "message": "Issued by E2E test patch",
            "lastTransitionTime": start,
        }],
    }});
    (request, status)
}

/// Conformance: [sig-auth] PodCertificateRequest API [Privileged:ClusterAdmin] should support PodCertificateRequest API operations [Conformance]
#[tokio::test]
async fn should_support_pod_certificate_request_api_operations() {
    let (request, status) = issued(60);
    let kind = Kind {
        group: "certificates.k8s.io",
        version: "v1",
        resource: "podcertificaterequests",
        namespace: "default",
        body: request,
        status: Some((status, "/status")),
    };
    let world = World::new().await;
    kind.run(&world).await;
    kind.patch_every_way(&world).await;
}

#[tokio::test]
async fn only_the_certificate_that_was_asked_for_is_taken() {
    let world = World::new().await;
    let path = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let (mut request, good) = issued(60);
    request["metadata"] = json!({"name": "r"});
    world.admin.post(path, &request).await.is(201);
    let status = format!("{path}/r/status");
    let changed = |field: &str, value: Value| {
        let mut status = good.clone();
        status["status"][field] = value;
        status
    };
    let another = issued(60).1["status"]["certificateChain"].clone();
    for (patch, message) in [
        (changed("certificateChain", "chain".into()), "must contain at least one certificate"),
        (changed("certificateChain", another), "leaf certificate was not issued to the requested public key"),
        (
            changed("notAfter", good["status"]["beginRefreshAt"].clone()),
            "must be set to the NotAfter time encoded",
        ),
        (changed("beginRefreshAt", good["status"]["notBefore"].clone()), "must be at least 10 minutes after"),
        (changed("beginRefreshAt", Value::Null), "must be present and in the range"),
    ] {
        let refused = world.admin.patch(&status, "merge-patch+json", &patch).await.is(422);
        assert!(refused.message().contains(message), "{}", refused.message());
    }
    world.admin.patch(&status, "merge-patch+json", &good).await.is(200);
}

/// A pod that wants a certificate which lives at most so long.
async fn refused(seconds: i32) -> String {
    let world = World::new().await;
    let mut body = pod("inspector");
    body["spec"]["volumes"] = json!([{"name": "spiffe", "projected": {"sources": [{"podCertificate": {
        "signerName": "example.com/spiffe", "keyType": "ED25519", "credentialBundlePath": "bundle.pem",
        "maxExpirationSeconds": seconds,
    }}]}}]);
    let pods = "/api/v1/namespaces/default/pods";
    world.admin.post(pods, &body).await.is(422).message().to_owned()
}

/// Conformance: [sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds exceeds maximum (91d) [MinimumKubeletVersion:1.37] [Conformance]
#[tokio::test]
async fn should_reject_pod_creation_when_max_expiration_seconds_exceeds_maximum() {
    let message = refused(91 * 24 * 60 * 60 + 1).await;
    assert!(message.contains("if provided, maxExpirationSeconds must be <= 7862400"), "{message}");
}

/// Conformance: [sig-auth] Projected PodCertificate [FeatureGate:PodCertificateRequest] [FeatureGate:ClusterTrustBundle] [FeatureGate:ClusterTrustBundleProjection] MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds is less than minimum (1h) [MinimumKubeletVersion:1.37] [Conformance]
#[tokio::test]
async fn should_reject_pod_creation_when_max_expiration_seconds_is_less_than_minimum() {
    let message = refused(3599).await;
    assert!(message.contains("if provided, maxExpirationSeconds must be >= 3600"), "{message}");
}
