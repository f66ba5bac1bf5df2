//! What a node may write, by row.

use serde_json::json;

use super::super::testing::{Write, run};
use super::*;
use crate::authz::fake::FakeCluster;
use crate::request::User;

/// Allows the audience `granted` for the account `default`, the signer `example.com/granted`, and nothing else.
struct Grants;

#[async_trait]
impl Authorizer for Grants {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        let info = &attributes.info;
        let granted = ["request-serviceaccounts-token-audience", "granted", "a", "default"]
            == [&*info.verb, &info.resource, &info.namespace, &info.name]
            || ["request-podcertificate-signer", "example.com/granted"] == [&*info.verb, &info.resource];
        (if granted { Decision::Allow } else { Decision::NoOpinion }, String::new())
    }
}

pub(super) fn plugin() -> NodeRestriction {
    NodeRestriction::new(Arc::new(Grants))
}

fn pod(name: &str, node: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "a", "uid": name },
        "spec": { "nodeName": node, "containers": [] } })
}

fn node(name: &str, labels: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels }, "spec": {} })
}

fn mirror(node: &str) -> Value {
    let mut pod = pod("mirror", node);
    pod["metadata"]["annotations"] = json!({ MIRROR: "x" });
    pod["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": "uid-n1", "controller": true }]);
    pod
}

fn lease(name: &str, namespace: &str) -> Value {
    json!({ "kind": "Lease", "metadata": { "name": name, "namespace": namespace } })
}

fn request(pod: &str, audiences: &[&str]) -> Value {
    json!({ "kind": "TokenRequest", "metadata": { "name": "default", "namespace": "a" },
        "spec": { "audiences": audiences, "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod } } })
}

#[tokio::test]
async fn a_node_writes_only_its_own() {
    let cluster = FakeCluster::new();
    let mut mine = pod("mine", "n1");
    mine["spec"]["volumes"] = json!([
        { "name": "t", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
        { "name": "vault", "projected": { "sources": [{ "serviceAccountToken": { "path": "t", "audience": "vault" } }] } },
        { "name": "inline", "csi": { "driver": "secrets.example.com" } },
        { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
    ]);
    cluster.put("pods", mine);
    let mut bare = pod("bare", "n1");
    bare["spec"]["volumes"] = json!([]);
    cluster.put("pods", bare);
    let driver = |name: &str, audience: &str| json!({ "metadata": { "name": name }, "spec": { "tokenRequests": [{ "audience": audience }] } });
    cluster.put("csidrivers.storage.k8s.io", driver("secrets.example.com", "inline"));
    cluster.put("csidrivers.storage.k8s.io", driver("disk.csi.azure.com", "migrated"));
    cluster.put("csidrivers.storage.k8s.io", driver("unused.example.com", "unused"));
    let claim = json!({ "metadata": { "name": "data", "namespace": "a" }, "spec": { "volumeName": "pv" } });
    cluster.put("persistentvolumeclaims", claim);
    let disk = json!({ "diskName": "d", "diskURI": "u" });
    cluster.put("persistentvolumes", json!({ "metadata": { "name": "pv" }, "spec": { "azureDisk": disk } }));
    cluster.put("pods", pod("theirs", "n2"));
    let mut n1 = node("n1", json!({}));
    n1["metadata"]["uid"] = "uid-n1".into();
    cluster.put("nodes", n1);
    let with_pods = |network: Value, networks: Value| {
        let mut node = node("n1", json!({}));
        node["spec"] = json!({ "podCIDR": network, "podCIDRs": networks });
        node
    };
    let mut tainted = node("n1", json!({}));
    tainted["spec"]["taints"] = json!([{ "key": "x", "effect": "NoSchedule" }]);
    let mut with_secret = mirror("n1");
    with_secret["spec"]["volumes"] = json!([{ "name": "v", "secret": { "secretName": "s" } }]);
    let mut with_claim = mirror("n1");
    with_claim["spec"]["resourceClaims"] = json!([{ "name": "c", "resourceClaimTemplateName": "t" }]);
    let mut owned = node("n1", json!({}));
    owned["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "x" }]);
    let relabelled = |key: &str| node("n1", json!({ key: "x" }));
    let status = |of: &str, on: &str| Write::update("pods/status", "Pod", pod(of, on), pod(of, on));
    let relabel = |key: &str| Write::update("nodes", "Node", node("n1", json!({})), relabelled(key));
    let leases = "leases.coordination.k8s.io";
    #[rustfmt::skip]
    let table = [
        (Write::create("nodes", "Node", node("n1", json!({ "kubernetes.io/hostname": "n1" }))), ""),
        (Write::create("nodes", "Node", node("n2", json!({}))), "node \"n1\" is not allowed to modify node \"n2\""),
        (Write::create("nodes", "Node", relabelled("node-restriction.kubernetes.io/x")), "node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/x"),
        (relabel("example.com/x"), ""),
        (relabel("a.node.kubernetes.io/x"), ""),
        (relabel("node-role.kubernetes.io/x"), "is not allowed to modify labels: node-role.kubernetes.io/x"),
        (Write::update("nodes", "Node", tainted, node("n1", json!({}))), "node \"n1\" is not allowed to modify taints"),
        (Write::update("nodes", "Node", node("n1", json!({})), owned.clone()), "node \"n1\" is not allowed to modify ownerReferences"),
        (Write::update("nodes", "Node", owned.clone(), owned), ""),
        (Write::create("nodes", "Node", with_pods(json!("10.42.7.0/24"), json!(["10.42.7.0/24"]))), "node \"n1\" is not allowed to modify podCIDR or podCIDRs"),
        (Write::create("nodes", "Node", with_pods(json!(null), json!([]))), ""),
        (Write::update("nodes", "Node", with_pods(json!("10.42.7.0/24"), json!(null)), node("n1", json!({}))), "node \"n1\" is not allowed to modify podCIDR or podCIDRs"),
        (Write::update("nodes", "Node", node("n1", json!({})), with_pods(json!("10.42.7.0/24"), json!(["10.42.7.0/24"]))), "node \"n1\" is not allowed to modify podCIDR or podCIDRs"),
        (Write::update("nodes", "Node", with_pods(json!("10.42.7.0/24"), json!(["10.42.7.0/24"])), with_pods(json!("10.42.7.0/24"), json!(["10.42.7.0/24"]))), ""),
        (Write::update("nodes/status", "Node", node("n1", json!({})), with_pods(json!("10.42.7.0/24"), json!(["10.42.7.0/24"]))), ""),
        (status("mine", "n1"), ""),
        (status("theirs", "n2"), "node \"n1\" can only update pod status for pods with spec.nodeName set to itself"),
        (Write::delete("pods", "Pod", pod("mine", "n1")), ""),
        (Write::delete("pods", "Pod", pod("theirs", "n2")), "node \"n1\" can only delete pods with spec.nodeName set to itself"),
        (Write::create("pods", "Pod", mirror("n1")), ""),
        (Write::create("pods", "Pod", mirror("n2")), "node \"n1\" can only create pods with spec.nodeName set to itself"),
        (Write::create("pods", "Pod", pod("p", "n1")), "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods"),
        (Write::create("pods", "Pod", with_secret), "node \"n1\" can not create pods that reference secrets"),
        (Write::create("pods", "Pod", with_claim), "node \"n1\" can not create pods that reference resourceclaims"),
        (Write::create(leases, "Lease", lease("n1", LEASES)), ""),
        (Write::create(leases, "Lease", lease("n2", LEASES)), "can only access node lease with the same name as the requesting node"),
        (Write::create(leases, "Lease", lease("n1", "a")), "can only access leases in the \"kube-node-lease\" system namespace"),
        (Write::create("serviceaccounts/token", "TokenRequest", request("mine", &[])), ""),
        (Write::create("serviceaccounts/token", "TokenRequest", request("mine", &["vault"])), ""),
        (Write::create("serviceaccounts/token", "TokenRequest", request("mine", &["inline"])), ""),
        (Write::create("serviceaccounts/token", "TokenRequest", request("mine", &["migrated"])), ""),
        (Write::create("serviceaccounts/token", "TokenRequest", request("bare", &["granted"])), ""),
        (Write::create("serviceaccounts/token", "TokenRequest", request("mine", &["unused"])), "audience \"unused\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"),
        (Write::create("serviceaccounts/token", "TokenRequest", request("bare", &[])), "audience \"\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"),
        (Write::create("serviceaccounts/token", "TokenRequest", request("mine", &["vault", "inline"])), "node may only request 0 or 1 audiences"),
        (Write::create("serviceaccounts/token", "TokenRequest", request("theirs", &[])), "node requested token bound to a pod scheduled on a different node"),
        (Write::create("configmaps", "ConfigMap", json!({ "kind": "ConfigMap", "metadata": { "name": "c" } })), ""),
    ];
    for (index, (write, want)) in table.into_iter().enumerate() {
        let write = write.by(User::new("system:node:n1", &["system:nodes"]));
        match run(&plugin(), &cluster, write).await {
            Ok(_) => assert_eq!(want, "", "row {index}"),
            Err(status) => {
                assert!(
                    !want.is_empty() && status.message.ends_with(want),
                    "row {index}: {}",
                    status.message
                );
            }
        }
    }
}

#[tokio::test]
async fn others_are_not_held_back() {
    let write = Write::create("nodes", "Node", node("n2", json!({})));
    run(&plugin(), &FakeCluster::new(), write).await.unwrap();
}
