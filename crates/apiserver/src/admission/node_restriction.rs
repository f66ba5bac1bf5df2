//! Lets a node write only what is its own: its Node and Lease, the status of its pods, mirror pods of its static
//! pods, tokens and requests for certificates for its pods.
//! Reads Pods and Nodes, and what leads from a pod's volumes to CSIDrivers. Asks the authorizer about
//! audiences and signers.
//! Not here: what a node may read (`authz::node`).
//! Upstream: plugin/pkg/admission/noderestriction.

mod audiences;
mod pod_certificate;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::types::core::v1 as core;
use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::json::{find, items, text, typed};
use super::{Operation, Plugin, Request};
use crate::authz::node::graph::{Kind, references};
use crate::authz::node::node_name;
use crate::authz::{Authorizer, Decision};
use crate::cluster::ClusterState;
use crate::request::{Attributes, RequestInfo};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// The labels of Kubernetes' own domains that a node may set on itself (k8s.io/kubelet/pkg/apis).
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// The domains in which it may set any.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) struct NodeRestriction {
    authorizer: Arc<dyn Authorizer>,
}

impl NodeRestriction {
    /// `authorizer` says which audiences a node may ask for beside those of its pods' volumes.
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

/// What a check says against the write: the rest of a 403's sentence, or a whole status.
enum Refusal {
    Reason(String),
    Status(Box<Status>),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::Reason(reason)
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Refusal::Reason(reason.to_owned())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Refusal::Status(Box::new(status))
    }
}

type Check = Result<(), Refusal>;

fn refuse(reason: impl Into<Refusal>) -> Check {
    Err(reason.into())
}

async fn pod_of(request: &Request<'_>, name: &str, cluster: &dyn ClusterState) -> Result<core::Pod, Refusal> {
    let found = find(cluster, "", "pods", request.namespace, name).await?;
    found.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name).into())
}

fn runs_on(pod: &core::Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

async fn pod(node: &str, request: &Request<'_>, cluster: &dyn ClusterState) -> Check {
    match request.operation {
        Operation::Create => create_mirror(node, request, cluster).await,
        Operation::Delete => {
            // A collection is deleted object by object, each with its own name.
            let pod = pod_of(request, request.name, cluster).await?;
            if !runs_on(&pod, node) {
                return refuse(format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                ));
            }
            Ok(())
        }
        _ => refuse(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
    }
}

async fn create_mirror(node: &str, request: &Request<'_>, cluster: &dyn ClusterState) -> Check {
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    if object.annotation(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    let pod: core::Pod = typed(object)?;
    if !runs_on(&pod, node) {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    match object.owner_references().as_slice() {
        [owner] => {
            if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
                return refuse(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            if owner.controller != Some(true) {
                return refuse(format!(
                    "node {node:?} can only create pods with a controller owner reference set to itself"
                ));
            }
            if owner.block_owner_deletion == Some(true) {
                return refuse(format!(
                    "node {node:?} must not set blockOwnerDeletion on an owner reference"
                ));
            }
            let found: Option<core::Node> = find(cluster, "", "nodes", "", node).await?;
            let found = found.ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node))?;
            let uid = found.metadata.uid.unwrap_or_default();
            if owner.uid != uid {
                return refuse(format!("node {node} UID mismatch: expected {} got {uid}", owner.uid));
            }
        }
        [] => {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    }
    let references = references(&pod);
    for (kind, what) in [
        (Kind::ServiceAccount, "a service account"),
        (Kind::Secret, "secrets"),
        (Kind::ConfigMap, "configmaps"),
        (Kind::Claim, "persistentvolumeclaims"),
    ] {
        if references.iter().any(|(found, _)| *found == kind) {
            return refuse(format!("node {node:?} can not create pods that reference {what}"));
        }
    }
    if items(&object.0, "/spec/resourceClaims").next().is_some() {
        return refuse(format!("node {node:?} can not create pods that reference resourceclaims"));
    }
    let bundles = items(&object.0, "/spec/volumes").any(|volume| {
        items(volume, "/projected/sources").any(|source| source["clusterTrustBundle"].is_object())
    });
    if bundles {
        return refuse(format!("node {node:?} can not create pods that reference clustertrustbundles"));
    }
    Ok(())
}

fn pod_status(node: &str, request: &Request<'_>) -> Check {
    let (Some(old), Some(new)) = (request.old, request.object.as_deref()) else {
        return refuse("unexpected operation");
    };
    if text(&old.0, "/spec/nodeName") != node {
        return refuse(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if old.labels() != new.labels() {
        return refuse(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |object: &Object| object.0["status"]["resourceClaimStatuses"].clone();
    if claims(old) != claims(new) {
        return refuse(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

async fn eviction(node: &str, request: &Request<'_>, cluster: &dyn ClusterState) -> Check {
    let own = request.object.as_deref().map(Object::name).unwrap_or_default();
    let name = if request.name.is_empty() { own } else { request.name };
    if name.is_empty() {
        return refuse("could not determine pod from request data");
    }
    if !runs_on(&pod_of(request, name, cluster).await?, node) {
        return refuse(format!("node {node} can only evict pods with spec.nodeName set to itself"));
    }
    Ok(())
}

fn own_node(node: &str, request: &Request<'_>) -> Check {
    let own = request.object.as_deref().map(Object::name).unwrap_or_default();
    let name = if request.name.is_empty() { own } else { request.name };
    if name != node {
        return refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = request.object.as_deref() else { return Ok(()) };
    let changed = changed_labels(new, request.old);
    let forbidden: Vec<&str> = changed.iter().map(String::as_str).filter(|label| !may_set(label)).collect();
    // Its status carries no spec: a kubelet may send an old one along.
    if request.subresource.is_empty() && pod_networks(Some(new)) != pod_networks(request.old) {
        return refuse(format!("node {node:?} is not allowed to modify podCIDR or podCIDRs"));
    }
    match request.old {
        None if !new.0["spec"]["configSource"].is_null() => {
            refuse(format!("node {node:?} is not allowed to create pods with a non-nil configSource"))
        }
        None if !forbidden.is_empty() => refuse(format!(
            "node {node:?} is not allowed to set the following labels: {}",
            forbidden.join(", ")
        )),
        None => Ok(()),
        Some(old) => {
            let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            let (before, after) = (&old.0["spec"]["taints"], &new.0["spec"]["taints"]);
            if before != after && !(empty(before) && empty(after)) {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            let (before, after) = (&old.0["spec"]["configSource"], &new.0["spec"]["configSource"]);
            if before != after && !after.is_null() {
                return refuse(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            // An owner that is gone has the garbage collector delete the node, which then registers as it likes.
            let (before, after) =
                (&old.0["metadata"]["ownerReferences"], &new.0["metadata"]["ownerReferences"]);
            if before != after && !(empty(before) && empty(after)) {
                return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            if !forbidden.is_empty() {
                return refuse(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
            Ok(())
        }
    }
}

/// The networks of a node's pods. Other nodes send what is for these pods to it, so it must not choose them: upstream leaves
/// that open, as validation lets them be set while there are none.
fn pod_networks(node: Option<&Object>) -> BTreeSet<&str> {
    let Some(node) = node else { return BTreeSet::new() };
    let listed = items(&node.0, "/spec/podCIDRs").filter_map(Value::as_str);
    listed.chain([text(&node.0, "/spec/podCIDR")]).filter(|network| !network.is_empty()).collect()
}

fn changed_labels(new: &Object, old: Option<&Object>) -> BTreeSet<String> {
    let (new, old) = (new.labels(), old.map(Object::labels).unwrap_or_default());
    let keys = new.keys().chain(old.keys());
    keys.filter(|key| new.get(*key) != old.get(*key)).cloned().collect()
}

/// Whether a node may set the label on itself.
fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map(|(domain, _)| domain).unwrap_or_default();
    let within =
        |root: &str| domain == root || domain.strip_suffix(root).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|root| within(root))
}

fn claim_status(node: &str, request: &Request<'_>) -> Check {
    let (Some(old), Some(new)) = (request.old, request.object.as_deref()) else {
        return refuse("unexpected operation");
    };
    let rest = |object: &Object| {
        let mut value = object.0.clone();
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            if let Some(status) = value["status"].as_object_mut() {
                status.remove(field);
            }
        }
        for field in ["resourceVersion", "managedFields"] {
            if let Some(metadata) = value["metadata"].as_object_mut() {
                metadata.remove(field);
            }
        }
        value
    };
    if rest(old) != rest(new) {
        return refuse(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        ));
    }
    Ok(())
}

async fn token(
    node: &str,
    request: &Request<'_>,
    cluster: &dyn ClusterState,
    authorizer: &dyn Authorizer,
) -> Check {
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    let reference = &object.0["spec"]["boundObjectRef"];
    let (name, uid) = (text(reference, "/name"), text(reference, "/uid"));
    if text(reference, "/apiVersion") != "v1" || text(reference, "/kind") != "Pod" || name.is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = pod_of(request, name, cluster).await?;
    if pod.metadata.uid.as_deref() != Some(uid) {
        return refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        ));
    }
    if !runs_on(&pod, node) {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    let mut asked = items(&object.0, "/spec/audiences").filter_map(Value::as_str);
    let audience = asked.next().unwrap_or_default();
    if asked.next().is_some() {
        return refuse("node may only request 0 or 1 audiences");
    }
    if audiences::of(&pod, audience, cluster).await? {
        return Ok(());
    }
    let info = RequestInfo {
        is_resource: true,
        verb: "request-serviceaccounts-token-audience".into(),
        version: "v1".into(),
        resource: audience.into(),
        namespace: request.namespace.into(),
        name: request.name.into(),
        ..RequestInfo::default()
    };
    let attributes = Attributes::new(request.user.clone(), info);
    if authorizer.authorize(&attributes).await.0 == Decision::Allow {
        return Ok(());
    }
    refuse(format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        request.user.name
    ))
}

/// An object that must have the node's name, also on creation, when the path has none.
fn same_name(node: &str, request: &Request<'_>, what: &str) -> Check {
    let own = request.object.as_deref().map(Object::name).unwrap_or_default();
    let name = if request.operation == Operation::Create { own } else { request.name };
    if name != node {
        return refuse(format!("can only access {what} with the same name as the requesting node"));
    }
    Ok(())
}

async fn check(
    node: &str,
    request: &Request<'_>,
    cluster: &dyn ClusterState,
    authorizer: &dyn Authorizer,
) -> Check {
    let resource = &request.resource;
    match (resource.group.as_str(), resource.resource.as_str(), request.subresource) {
        ("", "pods", "") => pod(node, request, cluster).await,
        ("", "pods", "status") => pod_status(node, request),
        ("", "pods", "eviction") => eviction(node, request, cluster).await,
        ("", "pods", other) => {
            refuse(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(node, request),
        ("", "persistentvolumeclaims", "status") => claim_status(node, request),
        ("", "persistentvolumeclaims", _) => refuse("may only update PVC status"),
        ("", "serviceaccounts", "token") => token(node, request, cluster, authorizer).await,
        ("coordination.k8s.io", "leases", _) if request.namespace != LEASES => {
            refuse(format!("can only access leases in the {LEASES:?} system namespace"))
        }
        ("coordination.k8s.io", "leases", _) => same_name(node, request, "node lease"),
        ("storage.k8s.io", "csinodes", _) => same_name(node, request, "CSINode"),
        ("certificates.k8s.io", "podcertificaterequests", _) => {
            pod_certificate::check(node, request, cluster, authorizer).await
        }
        ("resource.k8s.io", "resourceslices", "") => {
            let object = request.object.as_deref().or(request.old);
            if object.is_some_and(|slice| text(&slice.0, "/spec/nodeName") != node) {
                return refuse("can only create ResourceSlice with the same NodeName as the requesting node");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let Some(node) = node_name(request.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(
                request.forbidden(format!("could not determine node from user {:?}", request.user.name))
            );
        }
        match check(node, request, &**cluster, &*self.authorizer).await {
            Ok(()) => Ok(()),
            Err(Refusal::Reason(reason)) => Err(request.forbidden(reason)),
            Err(Refusal::Status(status)) => Err(*status),
        }
    }
}

#[cfg(test)]
mod tests;
