//! A node asks for certificates only for pods that run on it, as what they are, from signers that they name.
//!
//! Reads the Node, Pod and ServiceAccount that a PodCertificateRequest names, and asks the authorizer about a signer that
//! no volume names. What may come of a cache that lags is an internal error, so that the node tries again; what cannot
//! is forbidden.
//! Not here: whether the request itself is good (`registry::certificates`).
//! Upstream: admitPodCertificateRequest in plugin/pkg/admission/noderestriction.

use api::Status;
use api::types::certificates::v1::PodCertificateRequest;
use api::types::core::v1 as core;

use super::super::json::{find, typed};
use super::super::{Operation, Request};
use super::{Check, MIRROR, Refusal, refuse, runs_on};
use crate::authz::{Authorizer, Decision};
use crate::cluster::ClusterState;
use crate::request::{Attributes, RequestInfo};

fn lagging(message: String) -> Refusal {
    Status::internal(message).into()
}

fn same_uid(found: Option<&String>, named: &str) -> bool {
    found.is_some_and(|uid| uid == named)
}

/// Whether one of the pod's volumes wants a certificate of the signer.
fn mounts(pod: &core::Pod, signer: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut sources =
        volumes.filter_map(|volume| volume.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    sources.any(|source| source.pod_certificate.as_ref().is_some_and(|wanted| wanted.signer_name == signer))
}

/// Whether the node was granted certificates of the signer without regard to volumes.
async fn may_ask_anyway(request: &Request<'_>, signer: &str, authorizer: &dyn Authorizer) -> bool {
    let info = RequestInfo {
        is_resource: true,
        verb: "request-podcertificate-signer".to_owned(),
        resource: signer.to_owned(),
        ..RequestInfo::default()
    };
    authorizer.authorize(&Attributes::new(request.user.clone(), info)).await.0 == Decision::Allow
}

pub(super) async fn check(
    node: &str,
    request: &Request<'_>,
    cluster: &dyn ClusterState,
    authorizer: &dyn Authorizer,
) -> Check {
    match request.operation {
        Operation::Create => {}
        Operation::Update => return refuse("unexpected operation UPDATE"),
        Operation::Delete => return refuse("unexpected operation DELETE"),
        Operation::Connect => return refuse("unexpected operation CONNECT"),
    }
    if !request.subresource.is_empty() {
        return refuse(format!("unexpected subresource {}", request.subresource));
    }
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    let wanted: PodCertificateRequest = typed(object)?;
    let (spec, namespace) = (&wanted.spec, request.namespace);
    if spec.node_name != node {
        return refuse(format!(
            "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
            spec.node_name
        ));
    }
    let own: Option<core::Node> = find(cluster, "", "nodes", "", node).await?;
    let Some(own) = own else {
        return Err(lagging(format!(
            "while retrieving node {node:?} named in the PodCertificateRequest: node {node:?} not found"
        )));
    };
    let pod_name = format!("{namespace}/{}", spec.pod_name);
    if !same_uid(own.metadata.uid.as_ref(), &spec.node_uid) {
        return Err(lagging(format!(
            "PodCertificateRequest for pod {pod_name:?} names node UID {:?}, inconsistent with the running node ({:?})",
            spec.node_uid,
            own.metadata.uid.unwrap_or_default()
        )));
    }
    let pod: Option<core::Pod> = find(cluster, "", "pods", namespace, &spec.pod_name).await?;
    let Some(pod) = pod else {
        return Err(lagging(format!(
            "while retrieving pod {pod_name:?} named in the PodCertificateRequest: pod {:?} not found",
            spec.pod_name
        )));
    };
    if !same_uid(pod.metadata.uid.as_ref(), &spec.pod_uid) {
        return Err(lagging(format!(
            "PodCertificateRequest for pod {pod_name:?} contains pod UID ({:?}) which differs from running pod {:?}",
            spec.pod_uid,
            pod.metadata.uid.unwrap_or_default()
        )));
    }
    if !runs_on(&pod, node) {
        return refuse(format!(
            "pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest"
        ));
    }
    if pod.metadata.annotations.iter().flatten().any(|(key, _)| key == MIRROR) {
        return refuse(format!("pod {pod_name:?} is a mirror pod"));
    }
    let runs_as = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
    if spec.service_account_name != runs_as {
        return refuse(format!(
            "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({:?}) that differs from running \
             pod ({runs_as:?})",
            spec.service_account_name
        ));
    }
    let account: Option<core::ServiceAccount> =
        find(cluster, "", "serviceaccounts", namespace, runs_as).await?;
    let Some(account) = account else {
        return Err(lagging(format!(
            "while retrieving service account \"{namespace}/{runs_as}\" named in the PodCertificateRequest: \
             serviceaccount {runs_as:?} not found"
        )));
    };
    if !same_uid(account.metadata.uid.as_ref(), &spec.service_account_uid) {
        return Err(lagging(format!(
            "PodCertificateRequest for pod {pod_name:?} names service account UID {:?}, which differs from the running \
             service account ({:?})",
            spec.service_account_uid,
            account.metadata.uid.unwrap_or_default()
        )));
    }
    if !mounts(&pod, &spec.signer_name) && !may_ask_anyway(request, &spec.signer_name, authorizer).await {
        return refuse(format!(
            "pod {pod_name:?} does not mount a podCertificate projected volume for signer {:?}",
            spec.signer_name
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::testing::{Write, run};
    use super::super::tests::plugin;
    use crate::authz::fake::FakeCluster;
    use crate::request::User;

    fn object(kind: &str, name: &str) -> Value {
        let namespace = if kind == "Node" { "" } else { "a" };
        json!({ "apiVersion": "v1", "kind": kind,
                "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{name}") } })
    }

    #[tokio::test]
    async fn a_node_asks_only_for_what_runs_on_it() {
        let cluster = FakeCluster::new();
        cluster.put("nodes", object("Node", "n1"));
        cluster.put("serviceaccounts", object("ServiceAccount", "web"));
        for (name, node, mirror) in [("mine", "n1", false), ("theirs", "n2", false), ("mirror", "n1", true)] {
            let mut pod = object("Pod", name);
            if mirror {
                pod["metadata"]["annotations"] = json!({ super::MIRROR: "x" });
            }
            pod["spec"] = json!({ "nodeName": node, "serviceAccountName": "web", "containers": [], "volumes": [
                { "name": "v", "projected": { "sources": [{ "podCertificate": {
                    "signerName": "example.com/s", "keyType": "ED25519", "keyPath": "k" } }] } },
            ] });
            cluster.put("pods", pod);
        }
        let request = |pod: &str, change: Value| {
            let mut spec = json!({
                "signerName": "example.com/s", "podName": pod, "podUID": format!("uid-{pod}"), "nodeName": "n1",
                "nodeUID": "uid-n1", "serviceAccountName": "web", "serviceAccountUID": "uid-web",
                "stubPKCS10Request": "",
            });
            for (key, value) in change.as_object().into_iter().flatten() {
                spec[key] = value.clone();
            }
            json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
                    "metadata": { "generateName": "req-", "namespace": "a" }, "spec": spec })
        };
        let no_change = || json!({});
        #[rustfmt::skip]
        let table = [
            ("mine", no_change(), ""),
            ("mine", json!({ "nodeName": "n2" }), "PodCertificateRequest.Spec.NodeName=\"n2\", which is not the requesting node \"n1\""),
            ("mine", json!({ "nodeUID": "old" }), "names node UID \"old\", inconsistent with the running node (\"uid-n1\")"),
            ("gone", no_change(), "named in the PodCertificateRequest: pod \"gone\" not found"),
            ("mine", json!({ "podUID": "old" }), "contains pod UID (\"old\") which differs from running pod \"uid-mine\""),
            ("theirs", no_change(), "pod \"a/theirs\" is not running on node \"n1\" named in the PodCertificateRequest"),
            ("mirror", no_change(), "pod \"a/mirror\" is a mirror pod"),
            ("mine", json!({ "serviceAccountName": "root" }), "contains serviceAccountName (\"root\") that differs from running pod (\"web\")"),
            ("mine", json!({ "serviceAccountUID": "old" }), "names service account UID \"old\", which differs from the running service account (\"uid-web\")"),
            ("mine", json!({ "signerName": "example.com/granted" }), ""),
            ("mine", json!({ "signerName": "example.com/other" }), "does not mount a podCertificate projected volume for signer \"example.com/other\""),
        ];
        for (index, (pod, change, want)) in table.into_iter().enumerate() {
            let resource = "podcertificaterequests.certificates.k8s.io";
            let write = Write::create(resource, "PodCertificateRequest", request(pod, change));
            let write = write.by(User::new("system:node:n1", &["system:nodes"]));
            match run(&plugin(), &cluster, write).await {
                Ok(_) => assert_eq!(want, "", "row {index}"),
                Err(status) => assert!(
                    !want.is_empty() && status.message.ends_with(want),
                    "row {index}: {}",
                    status.message
                ),
            }
        }
    }
}
