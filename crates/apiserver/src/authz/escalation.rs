//! Keeps people from granting what they do not hold themselves.
//!
//! Called for every write of a (Cluster)Role or (Cluster)RoleBinding, with the object as it will be stored.
//! Who may `escalate` the role, or `bind` the referred role, passes; everybody else must hold all the rules.
//! Upstream: pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased,
//! pkg/registry/rbac/validation (`ConfirmNoEscalation`).

use api::types::rbac::v1::{PolicyRule, RoleRef};
use api::{GroupResource, GroupVersionResource, Object, Status};

use super::rbac::{GROUP, Rbac, rules};
use super::{Authorizer, Decision};
use crate::request::{Attributes, RequestInfo, User};

/// A write of a role or binding.
pub struct Write<'a> {
    /// The resource in the path.
    pub resource: &'a GroupVersionResource,
    /// Empty for cluster-scoped ones.
    pub namespace: &'a str,
    /// The name in the path; empty where a new object is posted.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// The object as it will be.
    pub new: &'a Object,
    /// The object as it is, for updates.
    pub old: Option<&'a Object>,
}

/// Refuses the write if it would grant more than the user holds.
///
/// # Errors
/// 403 with the rules that are missing; 404 where the role of a binding does not exist.
pub async fn check(write: Write<'_>, authorizer: &dyn Authorizer, rbac: &Rbac) -> Result<(), Status> {
    if write.resource.group != GROUP || write.user.is_in(User::MASTERS) {
        return Ok(());
    }
    match write.resource.resource.as_str() {
        "roles" | "clusterroles" => check_role(&write, authorizer, rbac).await,
        "rolebindings" | "clusterrolebindings" => check_binding(&write, authorizer, rbac).await,
        _ => Ok(()),
    }
}

fn rules_of(object: &Object) -> Vec<PolicyRule> {
    // Validation has accepted the object before, so that a rule that cannot be read is none.
    api::json::typed(&object.0["rules"]).unwrap_or_default()
}

async fn asks(
    authorizer: &dyn Authorizer,
    write: &Write<'_>,
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    // Binding is done where the binding is, whatever the role's scope; escalating where the role is.
    let namespace = if verb == "bind" || resource == "roles" { write.namespace } else { "" };
    let info = RequestInfo {
        is_resource: true,
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        version: write.resource.version.clone(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    authorizer.authorize(&Attributes::new(write.user.clone(), info)).await.0 == Decision::Allow
}

async fn check_role(write: &Write<'_>, authorizer: &dyn Authorizer, rbac: &Rbac) -> Result<(), Status> {
    let aggregates = |object: &Object| !object.0["aggregationRule"].is_null();
    let wanted = rules_of(write.new);
    // Labels count too: they decide which aggregated roles take up the rules.
    if write.old.is_some_and(|old| differ_in_ownership_only(old, write.new)) {
        return Ok(());
    }
    if asks(authorizer, write, "escalate", &write.resource.resource, write.name).await {
        return Ok(());
    }
    let aggregated = aggregates(write.new) || write.old.is_some_and(aggregates);
    if aggregated && !missing(rbac, write, &everything()).await?.is_empty() {
        let message = "must have cluster-admin privileges to use the aggregationRule";
        return Err(forbidden(write, message));
    }
    confirm(rbac, write, &wanted).await
}

/// Whether all that an update changes is what garbage collectors and the server itself keep.
fn differ_in_ownership_only(old: &Object, new: &Object) -> bool {
    let granted = |object: &Object| {
        let mut object = object.clone();
        let metadata = object.metadata_mut();
        for member in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            metadata.remove(member);
        }
        object.0
    };
    granted(old) == granted(new)
}

async fn check_binding(write: &Write<'_>, authorizer: &dyn Authorizer, rbac: &Rbac) -> Result<(), Status> {
    // Labels too: whoever could not make the binding cannot change it.
    if write.old.is_some_and(|old| differ_in_ownership_only(old, write.new)) {
        return Ok(());
    }
    let role: RoleRef = api::json::typed(&write.new.0["roleRef"]).unwrap_or_default();
    let resource = if role.kind == "Role" { "roles" } else { "clusterroles" };
    if asks(authorizer, write, "bind", resource, &role.name).await {
        return Ok(());
    }
    let granted = rbac.role_rules(&role, write.namespace).await?;
    confirm(rbac, write, &granted).await
}

/// The rules of cluster-admin.
fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}

async fn missing(rbac: &Rbac, write: &Write<'_>, wanted: &[PolicyRule]) -> Result<Vec<PolicyRule>, Status> {
    let held = rbac.rules_for(write.user, write.namespace).await?;
    Ok(rules::missing(&held.rules, wanted))
}

async fn confirm(rbac: &Rbac, write: &Write<'_>, wanted: &[PolicyRule]) -> Result<(), Status> {
    let held = rbac.rules_for(write.user, write.namespace).await?;
    let missing = rules::missing(&held.rules, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = rules::compact(&missing).iter().map(rules::describe).collect();
    lines.sort();
    lines.dedup();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        write.user.name,
        rules::quoted(&write.user.groups),
        lines.join("\n")
    );
    if !held.errors.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", held.errors.join(" ")));
    }
    Err(forbidden(write, &message))
}

fn forbidden(write: &Write<'_>, message: &str) -> Status {
    let resource = GroupResource::new(GROUP, write.resource.resource.as_str());
    Status::forbidden(&resource, write.new.name(), message)
}
