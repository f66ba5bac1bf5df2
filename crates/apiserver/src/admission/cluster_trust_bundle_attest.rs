//! Lets only those write a bundle of trust anchors in a signer's name who may `attest` for it.
//! Upstream: plugin/pkg/admission/certificates/ctbattest.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::certificate_approval::{GROUP, may};
use super::{Operation, Plugin, Request, json};
use crate::authz::Authorizer;
use crate::cluster::ClusterState;

pub(super) struct ClusterTrustBundleAttest {
    authorizer: Arc<dyn Authorizer>,
}

impl ClusterTrustBundleAttest {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is(GROUP, "clustertrustbundles", "") {
            return Ok(());
        }
        let Some(bundle) = request.object.as_deref() else { return Ok(()) };
        if request.old.is_some_and(|old| old.0["spec"] == bundle.0["spec"]) {
            return Ok(());
        }
        let signer = json::text(&bundle.0, "/spec/signerName");
        if signer.is_empty() || may(&*self.authorizer, request.user, "attest", signer).await {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to attest for signerName {signer:?}")))
    }
}
