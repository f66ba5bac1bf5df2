//! Refuses writes of roles and bindings that grant more than the writer holds.
//! Reads roles and bindings through RBAC's index.
//! Not here: the rule itself (`authz::escalation`).
//! Upstream does this in the storage of the four kinds: pkg/registry/rbac/*/policybased.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::{Operation, Plugin, Request};
use crate::authz::{Authorization, escalation};
use crate::cluster::ClusterState;

pub(super) struct RoleEscalation {
    authorization: Authorization,
}

impl RoleEscalation {
    pub(super) fn new(authorization: Authorization) -> Self {
        Self { authorization }
    }
}

#[async_trait]
impl Plugin for RoleEscalation {
    fn name(&self) -> &'static str {
        "RoleEscalation"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        let Some(new) = request.object.as_deref() else { return Ok(()) };
        let write = escalation::Write {
            resource: &request.resource,
            namespace: request.namespace,
            user: request.user,
            new,
            old: request.old,
        };
        escalation::check(write, &*self.authorization.authorizer, &self.authorization.rbac).await
    }
}
