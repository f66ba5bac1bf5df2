//! `rbac.authorization.k8s.io`: nobody grants more than they hold.
//! Upstream: pkg/registry/rbac/*/policybased.

use api::{Object, Status};
use async_trait::async_trait;

use super::Rest;
use crate::authz::escalation::{self, Write};
use crate::engine::Call;

/// Roles and bindings of both scopes.
pub(super) struct Policy;

#[async_trait]
impl Rest for Policy {
    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let resource = call.resource.descriptor.group_version_resource();
        let write = Write {
            resource: &resource,
            namespace: &call.info.namespace,
            name: &call.info.name,
            user: &call.user,
            new,
            old,
        };
        let authorization = &call.server.authorization;
        escalation::check(write, &*authorization.authorizer, &authorization.rbac).await
    }
}
