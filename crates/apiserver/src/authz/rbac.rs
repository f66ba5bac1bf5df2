//! Role-based access control: somebody may do what the roles allow that are bound to them.
//!
//! Reads Roles, ClusterRoles and their bindings out of the watch caches, through one index (`rbac::index`)
//! that is renewed when one of the four has changed. A decision costs the rules of the user, not all rules.
//! Not here: the roles that exist from the start (`bootstrap`), who may write roles (`escalation`).
//! Upstream: plugin/pkg/auth/authorizer/rbac, pkg/registry/rbac/validation.

pub mod index;
pub mod rules;

use std::sync::Arc;

use api::types::rbac::v1::{PolicyRule, RoleRef};
use api::{GroupResource, Status};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{Mutex, watch};

use self::index::{RESOURCES, Snapshot};
use super::{Authorizer, Decision};
use crate::cluster::ClusterState;
use crate::request::{Attributes, User};

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The RBAC authorizer.
pub struct Rbac {
    cluster: Arc<dyn ClusterState>,
    current: ArcSwap<Current>,
    /// What tells of changes, in the order of [`RESOURCES`]; the lock also lets only one task renew the index.
    changes: Mutex<Option<[watch::Receiver<u64>; 4]>>,
}

/// An index and what tells that it is old.
#[derive(Default)]
struct Current {
    snapshot: Arc<Snapshot>,
    changes: Option<[watch::Receiver<u64>; 4]>,
}

impl Current {
    fn is_new(&self) -> bool {
        let unchanged = |receiver: &watch::Receiver<u64>| matches!(receiver.has_changed(), Ok(false));
        self.changes.as_ref().is_some_and(|changes| changes.iter().all(unchanged))
    }
}

/// What a user may do, as far as it could be found out.
#[derive(Debug, Default)]
pub struct Resolved {
    /// All rules that hold in the namespace asked for.
    pub rules: Vec<PolicyRule>,
    /// Roles that are bound but do not exist.
    pub errors: Vec<String>,
}

impl Rbac {
    /// An authorizer over `cluster`. Nothing is read before the first question.
    pub fn new(cluster: Arc<dyn ClusterState>) -> Self {
        Self { cluster, current: ArcSwap::default(), changes: Mutex::new(None) }
    }

    /// The index, as new as the watch caches.
    ///
    /// # Errors
    /// The caches cannot be read (the server is starting or stopping).
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        {
            let current = self.current.load();
            if current.is_new() {
                return Ok(current.snapshot.clone());
            }
        }
        let mut changes = self.changes.lock().await;
        // The watch caches were dropped: their successors tell of changes from now on.
        if changes.as_ref().is_some_and(|all| all.iter().any(|receiver| receiver.has_changed().is_err())) {
            *changes = None;
        }
        let changes = match changes.as_mut() {
            Some(changes) => {
                if !changes.iter().any(|c| c.has_changed().unwrap_or(true)) {
                    return Ok(self.current.load().snapshot.clone());
                }
                changes
            }
            None => {
                let watch = async |resource: &str| {
                    let mut receiver = self.cluster.changes(&GroupResource::new(GROUP, resource)).await?;
                    receiver.mark_changed();
                    Ok::<_, Status>(receiver)
                };
                let [a, b, c, d] = RESOURCES;
                let receivers = [watch(a).await?, watch(b).await?, watch(c).await?, watch(d).await?];
                changes.insert(receivers)
            }
        };
        // Marked as seen before the lists are read: what changes in between is seen again, never missed.
        for receiver in changes.iter_mut() {
            receiver.borrow_and_update();
        }
        let mut listings = Vec::with_capacity(4);
        for resource in RESOURCES {
            match self.cluster.list(&GroupResource::new(GROUP, resource), "").await {
                Ok(listing) => listings.push(listing),
                Err(status) => {
                    changes.iter_mut().for_each(watch::Receiver::mark_changed);
                    return Err(status);
                }
            }
        }
        let revisions = [0, 1, 2, 3].map(|i: usize| listings[i].revision);
        let lists = [0, 1, 2, 3].map(|i: usize| listings[i].items.as_slice());
        let next = Arc::new(self.current.load().snapshot.next(revisions, lists));
        // As they are now, not as they are by then: a change since is one that this index has not seen.
        let changes = Some(changes.clone());
        self.current.store(Arc::new(Current { snapshot: next.clone(), changes }));
        Ok(next)
    }

    /// All rules that `user` holds in `namespace` (empty: at cluster scope).
    ///
    /// # Errors
    /// As [`Rbac::snapshot`].
    pub async fn rules_for(&self, user: &User, namespace: &str) -> Result<Resolved, Status> {
        let snapshot = self.snapshot().await?;
        let mut resolved = Resolved::default();
        visit(&snapshot, user, namespace, |_, found| {
            match found {
                Ok(rules) => resolved.rules.extend(rules.iter().cloned()),
                Err(error) => resolved.errors.push(error),
            }
            false
        });
        Ok(resolved)
    }

    /// The rules that a binding in `namespace` (empty: a ClusterRoleBinding) would grant by referring to `role`.
    ///
    /// # Errors
    /// 404 where the role does not exist; and as [`Rbac::snapshot`].
    pub async fn role_rules(&self, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, Status> {
        let snapshot = self.snapshot().await?;
        match snapshot.rules(role, namespace) {
            Some(rules) => Ok(rules.to_vec()),
            None => Err(Status::not_found(&role_resource(&role.kind), &role.name)),
        }
    }
}

fn role_resource(kind: &str) -> GroupResource {
    GroupResource::new(GROUP, if kind == "Role" { "roles" } else { "clusterroles" })
}

/// Calls `see` with each grant to the user and the rules of its role, cluster-wide grants first, until it
/// returns true.
fn visit(
    snapshot: &Snapshot,
    user: &User,
    namespace: &str,
    mut see: impl FnMut(&index::Grant, Result<&[PolicyRule], String>) -> bool,
) {
    let scopes = if namespace.is_empty() { &[""][..] } else { &["", namespace][..] };
    for scope in scopes {
        for grant in snapshot.grants(user, scope) {
            let found = match snapshot.rules(&grant.role, scope) {
                Some(rules) => Ok(rules.as_slice()),
                None => {
                    let kind = grant.role.kind.to_ascii_lowercase();
                    Err(format!("{kind}.{GROUP} {:?} not found", grant.role.name))
                }
            };
            if see(grant, found) {
                return;
            }
        }
    }
}

/// Upstream prints one error as it is and several in brackets.
pub(super) fn join_errors(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        let snapshot = match self.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(status) => return (Decision::NoOpinion, format!("RBAC: {}", status.message)),
        };
        let mut errors: Vec<String> = Vec::new();
        let mut allowed = None;
        visit(&snapshot, &attributes.user, &attributes.info.namespace, |grant, found| match found {
            Ok(granted) if granted.iter().any(|rule| rules::allows(rule, &attributes.info)) => {
                allowed = Some(if grant.namespace.is_empty() {
                    format!(
                        "RBAC: allowed by ClusterRoleBinding {:?} of {} {:?} to {}",
                        grant.binding, grant.role.kind, grant.role.name, grant.subject
                    )
                } else {
                    format!(
                        "RBAC: allowed by RoleBinding \"{}/{}\" of {} {:?} to {}",
                        grant.binding, grant.namespace, grant.role.kind, grant.role.name, grant.subject
                    )
                });
                true
            }
            Ok(_) => false,
            Err(error) => {
                if !errors.contains(&error) {
                    errors.push(error);
                }
                false
            }
        });
        match allowed {
            Some(reason) => (Decision::Allow, reason),
            None if errors.is_empty() => (Decision::NoOpinion, String::new()),
            None => (Decision::NoOpinion, format!("RBAC: {}", join_errors(&errors))),
        }
    }
}

#[cfg(test)]
mod tests;
