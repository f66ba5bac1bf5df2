//! Who may do what in a cluster of ours, beside upstream's policy: made at the start where it is missing, so that what an
//! administrator has changed stays.
//!
//! What kubeadm gives to machines that join, under names of ours; what the nodes' proxies and the controller of serving
//! certificates need. Not here: upstream's roles and bindings (`apiserver::authz::bootstrap`).
//! Upstream: kubeadm `app/phases/bootstraptoken/node` (`tlsbootstrap.go`).

use api::Object;
use serde_json::{Value, json};

use crate::node::Cluster;

const RBAC: &str = "rbac.authorization.k8s.io";
const NODES: &str = "system:nodes";
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const APPROVER: &str = "ironclad:kubelet-serving-approver";
const SETTINGS: &str = "ironclad:cluster-settings";

/// Every object.
pub(super) fn objects() -> Vec<Object> {
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    let group = |name: &str| json!({"apiGroup": RBAC, "kind": "Group", "name": name});
    let bind = |name: &str, role: &str, to: Value| {
        Object(json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": [to],
        }))
    };
    let approver = json!({
        "kind": "ServiceAccount", "namespace": "kube-system", "name": "kubelet-serving-approver"
    });
    vec![
        // The server's own identity towards kubelets: it is in no group that may do everything.
        bind(
            "ironclad:apiserver-kubelet-client",
            "system:kubelet-api-admin",
            json!({"apiGroup": RBAC, "kind": "User", "name": pki::KUBELET_CLIENT_NAME}),
        ),
        // A machine that joins asks for a certificate, gets it, and gets its next ones.
        bind("ironclad:kubelet-bootstrap", "system:node-bootstrapper", group(BOOTSTRAPPERS)),
        bind("ironclad:node-autoapprove-bootstrap", &format!("{requests}:nodeclient"), group(BOOTSTRAPPERS)),
        bind("ironclad:node-autoapprove-renewal", &format!("{requests}:selfnodeclient"), group(NODES)),
        // An agent's proxy and pod network have no other identity than the node's.
        bind("ironclad:nodes-proxy", "system:node-proxier", group(NODES)),
        Object(json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": APPROVER},
            "rules": [
                {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"],
                 "verbs": ["update"]},
                {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["approve"],
                 "resourceNames": ["kubernetes.io/kubelet-serving"]},
            ],
        })),
        bind(APPROVER, APPROVER, approver),
        Object(json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "Role",
            "metadata": {"name": SETTINGS, "namespace": Cluster::NAMESPACE},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"],
                       "resourceNames": [Cluster::NAME]}],
        })),
        Object(json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding",
            "metadata": {"name": SETTINGS, "namespace": Cluster::NAMESPACE},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": SETTINGS}, "subjects": [group(NODES)],
        })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_leads_to_a_role_that_there_is() {
        let objects = objects();
        let upstream = apiserver::authz::bootstrap::objects();
        let known = |kind: &str, name: &str| {
            objects.iter().chain(&upstream).any(|object| object.kind() == kind && object.name() == name)
        };
        let mut bindings = 0;
        for object in objects.iter().filter(|object| object.kind().ends_with("Binding")) {
            let role = |field: &str| object.0["roleRef"][field].as_str().unwrap();
            assert!(known(role("kind"), role("name")), "{}", object.name());
            bindings += 1;
        }
        assert_eq!(bindings, 7);
    }
}
