//! test/e2e/auth/service_accounts.go: what every namespace has, and what a pod finds of its account.

use serde_json::{Value, json};
use testkit::image;

use super::{World, propagation};

/// Conformance: [sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace [Conformance]
#[test]
fn should_guarantee_kube_root_ca_crt_exist_in_any_namespace() {
    let world = World::hollow(1);
    let path = "/api/v1/namespaces/e2e/configmaps/kube-root-ca.crt";
    let certificate = world.until(path, |answer| answer.code == 200)["data"]["ca.crt"].clone();
    assert!(certificate.as_str().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----")));

    let uid = world.read(path)["metadata"]["uid"].clone();
    world.delete(path, propagation("Background"));
    let again = world.until(path, |answer| answer.code == 200 && answer.body["metadata"]["uid"] != uid);
    assert_eq!(again["data"]["ca.crt"], certificate, "it comes back");

    world.patch(path, &json!({"data": {"ca.crt": ""}}));
    world.until(path, |answer| answer.body["data"]["ca.crt"] == certificate);
}

const PODS: &str = "/api/v1/namespaces/e2e/pods";

/// A pod of the account `mount-test`.
fn pod(name: &str, command: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "serviceAccountName": "mount-test", "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "test", "image": image::BUSYBOX, "command": ["sh", "-c", command]}],
        },
    })
}

impl World {
    fn account(&self) -> Value {
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mount-test"}});
        self.create("/api/v1/namespaces/e2e/serviceaccounts", &body)
    }

    /// What a review says of a token.
    fn review(&self, token: &str) -> Value {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        self.create("/apis/authentication.k8s.io/v1/tokenreviews", &body)["status"].clone()
    }
}

/// Conformance: [sig-auth] ServiceAccounts should mount an API token into pods [Conformance]
#[test]
fn should_mount_an_api_token_into_pods() {
    let world = World::node();
    let account = world.account();
    world.create(PODS, &pod("pod-service-account", "sleep 3600"));
    world.until(&format!("{PODS}/pod-service-account"), |answer| answer.body["status"]["phase"] == "Running");
    let mounted = |file: &str| {
        let path = format!("/var/run/secrets/kubernetes.io/serviceaccount/{file}");
        world.cluster.kubectl(&["-n", "e2e", "exec", "pod-service-account", "-c", "test", "--", "cat", &path])
    };
    let status = world.review(&mounted("token"));
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:e2e:mount-test");
    assert_eq!(status["user"]["uid"], account["metadata"]["uid"]);
    let groups = status["user"]["groups"].as_array().unwrap();
    for group in ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:e2e"] {
        assert!(groups.contains(&group.into()), "{groups:?}");
    }
    let root = world.read("/api/v1/namespaces/e2e/configmaps/kube-root-ca.crt");
    assert_eq!(Some(&*mounted("ca.crt")), root["data"]["ca.crt"].as_str());
    assert_eq!(mounted("namespace"), "e2e");
}

/// Conformance: [sig-auth] ServiceAccounts should mount projected service account token [Conformance]
#[test]
fn should_mount_projected_service_account_token() {
    let world = World::node();
    world.account();
    let mut body = pod("test-pod", "cat /test-volume/token");
    body["spec"]["volumes"] = json!([{"name": "test-volume", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "audience": "test-audience"}},
    ]}}]);
    body["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "test-volume", "mountPath": "/test-volume"}]);
    world.create(PODS, &body);
    world.until(&format!("{PODS}/test-pod"), |answer| answer.body["status"]["phase"] == "Succeeded");
    // The file has no end of line; the log gives its last line one.
    let logs = world.cluster.kubectl(&["-n", "e2e", "logs", "test-pod"]);
    let token = logs.trim_end();
    let parts: Vec<&str> = token.split('.').collect();
    let allowed = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    assert!(parts.len() == 3 && parts.iter().all(allowed), "{token}");
    assert_ne!(world.review(token)["authenticated"], true, "it is for the audience that was asked for");
}
