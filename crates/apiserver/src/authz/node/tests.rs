//! What a node may and may not do.

use serde_json::json;

use super::*;
use crate::authz::fake::FakeCluster;

fn pod(name: &str, node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "a" },
        "spec": {
            "nodeName": node,
            "serviceAccountName": "builder",
            "imagePullSecrets": [{ "name": "pull" }],
            "containers": [{
                "name": "c",
                "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "env-secret", "key": "k" } } }],
                "envFrom": [{ "configMapRef": { "name": "env-map" } }],
            }],
            "volumes": [
                { "name": "v", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "p", "projected": { "sources": [{ "configMap": { "name": "projected-map" } }] } },
            ],
        }
    })
}

async fn ask(authorizer: &NodeAuthorizer, method: &str, url: &str) -> (Decision, String) {
    let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
    let info = RequestInfo::parse(&method.parse().unwrap(), path, query);
    let mut attributes = Attributes::new(User::new("system:node:n1", &["system:nodes"]), info);
    attributes.field_selector = query.and_then(|q| q.strip_prefix("fieldSelector=")).map(str::to_owned);
    authorizer.authorize(&attributes).await
}

#[tokio::test]
async fn a_node_reaches_what_its_pods_refer_to_and_no_more() {
    let cluster = FakeCluster::new();
    cluster.put("pods", pod("p", "n1"));
    cluster.put(
        "pods",
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "other", "namespace": "a" },
            "spec": { "nodeName": "n2", "serviceAccountName": "other", "containers": [],
                      "imagePullSecrets": [{ "name": "not-yours" }] }
        }),
    );
    cluster.put(
        "persistentvolumes",
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "pv" },
            "spec": { "claimRef": { "namespace": "a", "name": "data" } }
        }),
    );
    let authorizer = NodeAuthorizer::new(cluster.clone());
    #[rustfmt::skip]
    let table = [
        ("GET", "/api/v1/namespaces/a/secrets/pull", true),
        ("GET", "/api/v1/namespaces/a/secrets/env-secret", true),
        ("GET", "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name=pull", true),
        ("GET", "/api/v1/namespaces/a/secrets/not-yours", false),
        ("GET", "/api/v1/namespaces/b/secrets/pull", false),
        ("GET", "/api/v1/namespaces/a/secrets", false),
        ("DELETE", "/api/v1/namespaces/a/secrets/pull", false),
        ("GET", "/api/v1/namespaces/a/configmaps/env-map", true),
        ("GET", "/api/v1/namespaces/a/configmaps/projected-map", true),
        ("GET", "/api/v1/namespaces/a/persistentvolumeclaims/data", true),
        ("GET", "/api/v1/persistentvolumes/pv", true),
        ("POST", "/api/v1/namespaces/a/serviceaccounts/builder/token", true),
        ("POST", "/api/v1/namespaces/a/serviceaccounts/other/token", false),
        ("GET", "/api/v1/nodes/n1", true),
        ("GET", "/api/v1/nodes/n2", false),
        ("PATCH", "/api/v1/nodes/n1/status", true),
        ("POST", "/api/v1/nodes", true),
        ("GET", "/api/v1/nodes", false),
        ("GET", "/api/v1/nodes?fieldSelector=metadata.name=n1", true),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName=n1", true),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName=n2", false),
        ("GET", "/api/v1/pods", false),
        ("GET", "/api/v1/namespaces/a/pods/p", true),
        ("GET", "/api/v1/namespaces/a/pods/other", false),
        ("PATCH", "/api/v1/namespaces/a/pods/p/status", true),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", true),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2", false),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/n1", false),
        ("GET", "/api/v1/services", true),
        ("POST", "/api/v1/namespaces/a/events", true),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", true),
        ("POST", "/apis/apps/v1/namespaces/a/deployments", false),
    ];
    for (method, url, want) in table {
        let (decision, reason) = ask(&authorizer, method, url).await;
        assert_eq!(decision == Decision::Allow, want, "{method} {url}: {reason}");
    }
}

#[tokio::test]
async fn requests_for_certificates_are_their_nodes() {
    let cluster = FakeCluster::new();
    for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
        cluster.put(
            "podcertificaterequests.certificates.k8s.io",
            json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
                    "metadata": { "name": name, "namespace": "a" }, "spec": { "nodeName": node } }),
        );
    }
    let authorizer = NodeAuthorizer::new(cluster);
    let all = "/apis/certificates.k8s.io/v1/podcertificaterequests";
    let own = "/apis/certificates.k8s.io/v1/namespaces/a/podcertificaterequests";
    for (method, url, want) in [
        ("POST", own.to_owned(), ""),
        ("GET", format!("{own}/mine"), ""),
        ("GET", format!("{own}/theirs"), "no relationship found between node 'n1' and this object"),
        ("GET", format!("{all}?fieldSelector=spec.nodeName=n1"), ""),
        (
            "GET",
            format!("{all}?fieldSelector=spec.nodeName=n2"),
            "can only list/watch podcertificaterequests with nodeName field selector",
        ),
        ("GET", all.to_owned(), "can only list/watch podcertificaterequests with nodeName field selector"),
        ("DELETE", format!("{own}/mine"), "nodes may not delete podcertificaterequests"),
        (
            "PATCH",
            format!("{own}/mine/status"),
            "nodes may not access the status subresource of PodCertificateRequests",
        ),
        ("GET", "/apis/certificates.k8s.io/v1/clustertrustbundles".to_owned(), ""),
    ] {
        let (decision, reason) = ask(&authorizer, method, &url).await;
        assert_eq!((decision == Decision::Allow, reason.as_str()), (want.is_empty(), want), "{method} {url}");
    }
}

#[tokio::test]
async fn relations_come_and_go_with_pods() {
    let cluster = FakeCluster::new();
    let authorizer = NodeAuthorizer::new(cluster.clone());
    let url = "/api/v1/namespaces/a/secrets/pull";
    let (decision, reason) = ask(&authorizer, "GET", url).await;
    assert_eq!(decision, Decision::NoOpinion);
    assert_eq!(reason, "no relationship found between node 'n1' and this object");
    cluster.put("pods", pod("p", "n1"));
    assert_eq!(ask(&authorizer, "GET", url).await.0, Decision::Allow);
    cluster.remove("pods", "a", "p");
    assert_eq!(ask(&authorizer, "GET", url).await.0, Decision::NoOpinion);
    cluster.put("pods", pod("p", "n2"));
    assert_eq!(ask(&authorizer, "GET", url).await.0, Decision::NoOpinion);
}

#[tokio::test]
async fn users_that_only_look_like_nodes_are_none() {
    let authorizer = NodeAuthorizer::new(FakeCluster::new());
    let info = RequestInfo::parse(&http::Method::GET, "/api/v1/services", None);
    let ask = |user: User| Attributes::new(user, info.clone());
    let outside = authorizer.authorize(&ask(User::new("system:node:n1", &[]))).await;
    assert_eq!(outside, (Decision::NoOpinion, String::new()));
    let unnamed = authorizer.authorize(&ask(User::new("system:node:", &["system:nodes"]))).await;
    assert_eq!(unnamed.1, "unknown node for user \"system:node:\"");
}

#[tokio::test]
async fn a_question_goes_through_the_pods_of_its_own_node() {
    let cluster = FakeCluster::new();
    let authorizer = NodeAuthorizer::new(cluster.clone());
    cluster.put("pods", pod("p", "n1"));
    for n in 0..3 {
        cluster.put("pods", pod(&format!("other{n}"), "n2"));
        for (name, allowed) in [("pull", true), ("made-up", false)] {
            let url = format!("/api/v1/namespaces/a/secrets/{name}");
            assert_eq!(ask(&authorizer, "GET", &url).await.0 == Decision::Allow, allowed, "{name}");
        }
    }
    cluster.reset();
    cluster.put("pods", pod("late", "n1"));
    assert_eq!(ask(&authorizer, "GET", "/api/v1/namespaces/a/pods/late").await.0, Decision::Allow);
    assert_eq!(cluster.lists(), 0, "the pods of the whole cluster were gone through");
}

#[tokio::test]
async fn a_mirror_pod_gives_its_node_nothing() {
    let cluster = FakeCluster::new();
    let mut mirror = pod("p", "n1");
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    cluster.put("pods", mirror);
    let authorizer = NodeAuthorizer::new(cluster);
    for (url, allowed) in [
        ("/api/v1/namespaces/a/pods/p", true),
        ("/api/v1/namespaces/a/secrets/pull", false),
        ("/api/v1/namespaces/a/configmaps/env-map", false),
    ] {
        assert_eq!(ask(&authorizer, "GET", url).await.0 == Decision::Allow, allowed, "{url}");
    }
}

#[tokio::test]
async fn secrets_of_volumes_are_reached_through_the_claims_of_pods() {
    let cluster = FakeCluster::new();
    let authorizer = NodeAuthorizer::new(cluster.clone());
    let mut pod = pod("p", "n1");
    pod["spec"]["volumes"] = json!([
        { "name": "v", "persistentVolumeClaim": { "claimName": "data" } },
        { "name": "f", "azureFile": { "secretName": "inline", "shareName": "x" } },
        { "name": "i", "iscsi": { "targetPortal": "t", "iqn": "q", "lun": 0, "secretRef": { "name": "chap" } } },
    ]);
    pod["status"] =
        json!({ "extendedResourceClaimStatus": { "resourceClaimName": "gpus", "requestMappings": [] } });
    cluster.put("pods", pod);
    let volume = |claim: &str| {
        json!({ "metadata": { "name": "pv" }, "spec": { "claimRef": { "namespace": "a", "name": claim },
            "csi": { "driver": "d", "volumeHandle": "h",
                "nodeStageSecretRef": { "namespace": "storage", "name": "stage" },
                "controllerPublishSecretRef": { "namespace": "storage", "name": "publish" } } } })
    };
    let stage = "/api/v1/namespaces/storage/secrets/stage";
    cluster.put("persistentvolumes", volume("data"));
    assert_eq!(ask(&authorizer, "GET", stage).await.0, Decision::NoOpinion, "there is no claim yet");
    let claim = json!({ "metadata": { "name": "data", "namespace": "a" }, "spec": { "volumeName": "pv" } });
    cluster.put("persistentvolumeclaims", claim);
    for (url, allowed) in [
        (stage, true),
        ("/api/v1/namespaces/a/secrets/stage", false),
        ("/api/v1/namespaces/storage/secrets/publish", false),
        ("/api/v1/namespaces/a/secrets/inline", true),
        ("/api/v1/namespaces/a/secrets/chap", true),
        ("/apis/resource.k8s.io/v1/namespaces/a/resourceclaims/gpus", true),
        ("/apis/resource.k8s.io/v1/namespaces/a/resourceclaims/others", false),
    ] {
        assert_eq!(ask(&authorizer, "GET", url).await.0 == Decision::Allow, allowed, "{url}");
    }
    assert_eq!(ask(&authorizer, "DELETE", stage).await.0, Decision::NoOpinion);
    cluster.put("persistentvolumes", volume("someone-elses"));
    assert_eq!(ask(&authorizer, "GET", stage).await.0, Decision::NoOpinion, "it is bound to another claim");
}
