//! Lets only those put a certificate into a request (or say that it failed) who may `sign` for its signer.
//! Upstream: plugin/pkg/admission/certificates/signing.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::certificate_approval::{GROUP, may};
use super::{Operation, Plugin, Request, json};
use crate::authz::Authorizer;
use crate::cluster::ClusterState;

pub(super) struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateSigning {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is(GROUP, "certificatesigningrequests", "status") {
            return Ok(());
        }
        let (Some(old), Some(new)) = (request.old, request.object.as_deref()) else { return Ok(()) };
        let status = |object: &Value, field: &str| object["status"][field].clone();
        let same = |field: &str| status(&old.0, field) == status(&new.0, field);
        if same("certificate") && same("conditions") {
            return Ok(());
        }
        let signer = json::text(&old.0, "/spec/signerName");
        if may(&*self.authorizer, request.user, "sign", signer).await {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}
