//! Lets only those change whose an object is who may delete it, and only those keep an owner waiting for an object who may
//! change the owner's finalizers.
//! Not here: what owner references mean (the garbage collector).
//! Upstream: plugin/pkg/admission/gc.

use std::collections::HashSet;
use std::sync::Arc;

use api::{GroupVersion, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request, Surroundings};
use crate::authz::Decision;
use crate::cluster::ClusterState;
use crate::request::{Attributes, RequestInfo};

pub(super) struct OwnerReferencesPermissionEnforcement {
    surroundings: Surroundings,
}

fn owners(object: Option<&api::Object>) -> Vec<Value> {
    let list = object.and_then(|object| object.0.pointer("/metadata/ownerReferences"));
    list.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The references that make their owner wait and did not before.
fn newly_blocking<'a>(new: &'a [Value], old: &[Value]) -> Vec<&'a Value> {
    let blocks = |owner: &Value| owner["blockOwnerDeletion"] == true;
    let uid = |owner: &Value| owner["uid"].as_str().unwrap_or_default().to_owned();
    let before: HashSet<String> = old.iter().filter(|owner| blocks(owner)).map(uid).collect();
    new.iter().filter(|owner| blocks(owner) && !before.contains(&uid(owner))).collect()
}

impl OwnerReferencesPermissionEnforcement {
    pub(super) fn new(surroundings: Surroundings) -> Self {
        Self { surroundings }
    }

    /// Why the user may not do this; `None` if they may.
    async fn refused(&self, request: &Request<'_>, info: RequestInfo) -> Option<String> {
        let attributes = Attributes::new(request.user.clone(), RequestInfo { is_resource: true, ..info });
        match self.surroundings.authorization.authorizer.authorize(&attributes).await {
            (Decision::Allow, _) => None,
            (_, reason) => Some(reason),
        }
    }

    /// The attributes of changing the finalizers of an owner.
    fn finalizers(&self, request: &Request<'_>, owner: &Value) -> Result<RequestInfo, String> {
        let text = |member: &str| owner[member].as_str().unwrap_or_default();
        let unknown =
            || format!("no matches for kind {:?} in version {:?}", text("kind"), text("apiVersion"));
        let version = GroupVersion::parse(text("apiVersion")).ok_or_else(unknown)?;
        let table = self.surroundings.registry.table();
        let descriptors = table.descriptors(&version);
        let found = descriptors.iter().find(|found| found.kind == text("kind")).ok_or_else(unknown)?;
        Ok(RequestInfo {
            verb: "update".to_owned(),
            group: version.group,
            version: version.version,
            resource: found.plural.to_string(),
            subresource: "finalizers".to_owned(),
            namespace: if found.is_namespaced() { request.namespace.to_owned() } else { String::new() },
            name: text("name").to_owned(),
            ..RequestInfo::default()
        })
    }
}

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        // Kubelets write the status of pods whose owners they may not touch.
        if request.is("", "pods", "status") {
            return Ok(());
        }
        let (new, old) = (owners(request.object.as_deref()), owners(request.old));
        if new == old {
            return Ok(());
        }
        // Whoever makes an object may say whose it is.
        if request.operation != Operation::Create {
            let delete = RequestInfo {
                verb: "delete".to_owned(),
                group: request.resource.group.clone(),
                version: request.resource.version.clone(),
                resource: request.resource.resource.clone(),
                subresource: request.subresource.to_owned(),
                namespace: request.namespace.to_owned(),
                name: request.name.to_owned(),
                ..RequestInfo::default()
            };
            if let Some(reason) = self.refused(request, delete).await {
                return Err(request.forbidden(format!(
                    "cannot set an ownerRef on a resource you can't delete: {reason}, <nil>"
                )));
            }
        }
        for owner in newly_blocking(&new, &old) {
            let info = self.finalizers(request, owner).map_err(|problem| {
                let text = |member: &str| owner[member].as_str().unwrap_or_default();
                let (version, kind) = (text("apiVersion"), text("kind"));
                request.forbidden(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} \
                     Kind {kind}: {problem}"
                ))
            })?;
            if let Some(reason) = self.refused(request, info).await {
                return Err(request.forbidden(format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers \
                     on: {reason}, <nil>"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_new_makes_an_owner_wait() {
        let owner = |uid: &str, blocks: Value| json!({ "uid": uid, "blockOwnerDeletion": blocks });
        let old = [owner("a", json!(true)), owner("b", json!(false)), owner("c", Value::Null)];
        let new = ["a", "b", "c", "d"].map(|uid| owner(uid, json!(true)));
        let found: Vec<&Value> = newly_blocking(&new, &old).into_iter().map(|owner| &owner["uid"]).collect();
        assert_eq!(found, ["b", "c", "d"]);
        assert!(newly_blocking(&[owner("d", json!(false))], &old).is_empty());
    }
}
