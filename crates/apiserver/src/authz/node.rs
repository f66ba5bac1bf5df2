//! What a node may do: its own objects, and what the pods that are bound to it refer to.
//!
//! Reads Pods (through an index by node, `node::graph`), PersistentVolumeClaims, PersistentVolumes and
//! VolumeAttachments out of the watch caches. Everything that is not subdivided by relation follows the rules of the role `system:node`.
//! Not here: what a node may *write into* its objects (`admission::node_restriction`).
//! Upstream: plugin/pkg/auth/authorizer/node (with AuthorizeNodeWithSelectors).

pub mod graph;
mod volumes;

use std::sync::Arc;

use api::selector::fields;
use api::types::core::v1::{PersistentVolume, PersistentVolumeClaim};
use api::types::rbac::v1::PolicyRule;
use api::{GroupResource, Object};
use async_trait::async_trait;
use bytes::Bytes;

use self::graph::{Graph, Kind};
use super::rbac::rules;
use super::{Authorizer, Decision, bootstrap};
use crate::cluster::ClusterState;
use crate::request::{Attributes, RequestInfo, User};

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";

/// The node that the user is: `None` for other users, an empty name where it cannot be told.
pub fn node_name(user: &User) -> Option<&str> {
    if !user.name.starts_with(USER_PREFIX) || !user.is_in(GROUP) {
        return None;
    }
    user.name.strip_prefix(USER_PREFIX)
}

/// The Node authorizer.
pub struct NodeAuthorizer {
    cluster: Arc<dyn ClusterState>,
    graph: Graph,
    rules: Vec<PolicyRule>,
}

impl NodeAuthorizer {
    /// An authorizer over `cluster`.
    pub fn new(cluster: Arc<dyn ClusterState>) -> Self {
        Self { graph: Graph::new(cluster.clone()), cluster, rules: bootstrap::node_rules() }
    }

    async fn decide(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        let info = &attributes.info;
        if !info.is_resource {
            return self.by_rules(info);
        }
        match (info.group.as_str(), info.resource.as_str()) {
            ("", "secrets") => self.secret(node, info).await,
            ("", "configmaps") => self.read_named(node, Kind::ConfigMap, info).await,
            ("", "persistentvolumeclaims") if info.subresource == "status" => {
                if !matches!(info.verb.as_str(), "update" | "patch") {
                    return deny("can only get/update/patch this type");
                }
                self.related(node, Kind::Claim, info).await
            }
            ("", "persistentvolumeclaims") => self.get_only(node, Kind::Claim, info).await,
            ("", "persistentvolumes") => self.volume(node, info).await,
            ("resource.k8s.io", "resourceclaims") => self.get_only(node, Kind::ResourceClaim, info).await,
            ("storage.k8s.io", "volumeattachments") => self.attachment(node, info).await,
            ("", "serviceaccounts") => self.service_account(node, info).await,
            ("coordination.k8s.io", "leases") => lease(node, info),
            ("storage.k8s.io", "csinodes") => csi_node(node, info),
            ("resource.k8s.io", "resourceslices") => self.slice(node, attributes).await,
            ("certificates.k8s.io", "podcertificaterequests") => self.certificate(node, attributes).await,
            ("", "nodes") => own_node(node, attributes),
            ("", "pods") => self.pod(node, attributes).await,
            _ => self.by_rules(info),
        }
    }

    fn by_rules(&self, info: &RequestInfo) -> Result<(), String> {
        if self.rules.iter().any(|rule| rules::allows(rule, info)) { Ok(()) } else { Err(String::new()) }
    }

    async fn read_named(&self, node: &str, kind: Kind, info: &RequestInfo) -> Result<(), String> {
        if !matches!(info.verb.as_str(), "get" | "list" | "watch") {
            return deny("can only read resources of this type");
        }
        if !info.subresource.is_empty() {
            return deny("cannot read subresource");
        }
        if info.namespace.is_empty() {
            return deny("can only read namespaced object of this type");
        }
        self.related(node, kind, info).await
    }

    /// A Secret is the node's if a pod of the node names it, or a PersistentVolume that is bound to a claim of such.
    async fn secret(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        let Err(reason) = self.read_named(node, Kind::Secret, info).await else { return Ok(()) };
        let wanted = (info.namespace.clone(), info.name.clone());
        if info.name.is_empty() || Err(reason.clone()) != unrelated(node) {
            return Err(reason);
        }
        for (namespace, claim) in self.graph.claims(node) {
            let Some(volume) = self.volume_of(&namespace, &claim).await else { continue };
            if volumes::secrets(&volume).contains(&wanted) {
                return Ok(());
            }
        }
        Err(reason)
    }

    /// The volume that a claim is bound to, and which is bound to that claim.
    async fn volume_of(&self, namespace: &str, claim: &str) -> Option<PersistentVolume> {
        let claims = GroupResource::new("", "persistentvolumeclaims");
        let bytes = self.cluster.cached(&claims, namespace, claim).await.ok()??;
        let found: PersistentVolumeClaim = api::json::read(&bytes).ok()?;
        let name = found.spec?.volume_name?;
        let volumes = GroupResource::new("", "persistentvolumes");
        let bytes = self.cluster.cached(&volumes, "", &name).await.ok()??;
        let volume: PersistentVolume = api::json::read(&bytes).ok()?;
        let bound = volume.spec.as_ref()?.claim_ref.as_ref()?;
        let same = bound.namespace.as_deref() == Some(namespace) && bound.name.as_deref() == Some(claim);
        same.then_some(volume)
    }

    async fn get_only(&self, node: &str, kind: Kind, info: &RequestInfo) -> Result<(), String> {
        only_get(info)?;
        self.related(node, kind, info).await
    }

    async fn related(&self, node: &str, kind: Kind, info: &RequestInfo) -> Result<(), String> {
        if info.name.is_empty() {
            return deny("No Object name found");
        }
        if self.graph.refers(node, kind, &info.namespace, &info.name).await {
            Ok(())
        } else {
            unrelated(node)
        }
    }

    async fn cached(&self, group: &str, resource: &str, name: &str) -> Option<Object> {
        self.cached_in("", group, resource, name).await
    }

    async fn cached_in(&self, namespace: &str, group: &str, resource: &str, name: &str) -> Option<Object> {
        let bytes: Bytes =
            self.cluster.cached(&GroupResource::new(group, resource), namespace, name).await.ok()??;
        serde_json::from_slice(&bytes).ok().map(Object)
    }

    /// A PersistentVolume is the node's if it is bound to a claim that a pod of the node uses.
    async fn volume(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        only_get(info)?;
        if info.name.is_empty() {
            return deny("No Object name found");
        }
        let Some(volume) = self.cached("", "persistentvolumes", &info.name).await else {
            return unrelated(node);
        };
        let claim = |field: &str| volume.0.pointer(&format!("/spec/claimRef/{field}"))?.as_str();
        let (Some(namespace), Some(name)) = (claim("namespace"), claim("name")) else {
            return unrelated(node);
        };
        if self.graph.refers(node, Kind::Claim, namespace, name).await { Ok(()) } else { unrelated(node) }
    }

    async fn attachment(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        only_get(info)?;
        let attachment = self.cached("storage.k8s.io", "volumeattachments", &info.name).await;
        match attachment.as_ref().and_then(|a| a.0.pointer("/spec/nodeName")?.as_str()) {
            Some(owner) if owner == node => Ok(()),
            _ => unrelated(node),
        }
    }

    async fn service_account(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        let token = info.verb == "create" && info.subresource == "token";
        let read = info.verb == "get" && info.subresource.is_empty();
        if info.name.is_empty() || !(token || read) {
            return deny("can only create tokens for individual service accounts");
        }
        self.related(node, Kind::ServiceAccount, info).await
    }

    async fn slice(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        let info = &attributes.info;
        if !info.subresource.is_empty() {
            return deny("cannot authorize ResourceSlice subresources");
        }
        match info.verb.as_str() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => {
                let slice = self.cached("resource.k8s.io", "resourceslices", &info.name).await;
                match slice.as_ref().and_then(|s| s.0.pointer("/spec/nodeName")?.as_str()) {
                    Some(owner) if owner == node => Ok(()),
                    _ => unrelated(node),
                }
            }
            "list" | "watch" | "deletecollection"
                if selects(attributes, "nodeName", node) || selects(attributes, "spec.nodeName", node) =>
            {
                Ok(())
            }
            "list" | "watch" | "deletecollection" => {
                deny("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => deny(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, \
                 patch, delete, deletecollection",
            ),
        }
    }

    /// A request for a pod's certificate is its node's. What a node may ask for is decided in admission.
    async fn certificate(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        let info = &attributes.info;
        if !info.subresource.is_empty() {
            return deny("nodes may not access the status subresource of PodCertificateRequests");
        }
        match info.verb.as_str() {
            "create" => Ok(()),
            "get" if info.name.is_empty() => deny("No Object name found"),
            "get" => {
                let (group, resource) = (&info.group, &info.resource);
                let request = self.cached_in(&info.namespace, group, resource, &info.name).await;
                match request.as_ref().and_then(|request| request.0.pointer("/spec/nodeName")?.as_str()) {
                    Some(owner) if owner == node => Ok(()),
                    _ => unrelated(node),
                }
            }
            "list" | "watch" if selects(attributes, "spec.nodeName", node) => Ok(()),
            "list" | "watch" => {
                deny("can only list/watch podcertificaterequests with nodeName field selector")
            }
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    async fn pod(&self, node: &str, attributes: &Attributes) -> Result<(), String> {
        let info = &attributes.info;
        match (info.subresource.as_str(), info.verb.as_str()) {
            ("", "get") => self.related(node, Kind::Pod, info).await,
            ("", "list" | "watch") if selects(attributes, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !info.name.is_empty() => self.related(node, Kind::Pod, info).await,
            ("", "list" | "watch") => deny("can only list/watch pods with spec.nodeName field selector"),
            // What exactly a node may create, delete, evict and report is decided in admission, which sees the
            // object.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            ("status", "get") => self.related(node, Kind::Pod, info).await,
            _ => self.by_rules(info),
        }
    }
}

fn deny(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

fn unrelated(node: &str) -> Result<(), String> {
    Err(format!("no relationship found between node '{node}' and this object"))
}

fn only_get(info: &RequestInfo) -> Result<(), String> {
    if info.verb != "get" {
        return deny("can only get individual resources of this type");
    }
    if !info.subresource.is_empty() {
        return deny("cannot get subresource");
    }
    Ok(())
}

/// Whether the field selector demands `field` to be `value`.
fn selects(attributes: &Attributes, field: &str, value: &str) -> bool {
    let selector = attributes.field_selector.as_deref().map(fields::Selector::parse);
    selector.and_then(Result::ok).is_some_and(|selector| selector.exact(field) == Some(value))
}

fn lease(node: &str, info: &RequestInfo) -> Result<(), String> {
    if !matches!(info.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return deny("can only get, create, update, patch, or delete a node lease");
    }
    if info.namespace != "kube-node-lease" {
        return deny("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if info.verb != "create" && info.name != node {
        return deny("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, info: &RequestInfo) -> Result<(), String> {
    if !matches!(info.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return deny("can only get, create, update, patch, or delete a CSINode");
    }
    if !info.subresource.is_empty() {
        return deny("cannot authorize CSINode subresources");
    }
    if info.verb != "create" && info.name != node {
        return deny("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn own_node(node: &str, attributes: &Attributes) -> Result<(), String> {
    let info = &attributes.info;
    let own = info.name == node || selects(attributes, "metadata.name", node);
    match (info.subresource.as_str(), info.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("" | "status", "get" | "list" | "watch") if own => Ok(()),
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", info.name))
        }
        _ => Err(String::new()),
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        match node_name(&attributes.user) {
            None => (Decision::NoOpinion, String::new()),
            Some("") => (Decision::NoOpinion, format!("unknown node for user {:?}", attributes.user.name)),
            Some(node) => match self.decide(node, attributes).await {
                Ok(()) => (Decision::Allow, String::new()),
                Err(reason) => (Decision::NoOpinion, reason),
            },
        }
    }

    fn unresolved(&self, user: &User) -> Vec<String> {
        let told =
            node_name(user).map(|_| "node authorizer does not support user rule resolution".to_owned());
        told.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
