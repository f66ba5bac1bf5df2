//! Admits everything, or denies everything: for trying out what a chain does.
//! Upstream: plugin/pkg/admission/admit, plugin/pkg/admission/deny.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

pub(super) struct AlwaysAdmit;

impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _: Operation) -> bool {
        false
    }
}

pub(super) struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn admit(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        Err(request.forbidden("admission control is denying all modifications"))
    }
}
