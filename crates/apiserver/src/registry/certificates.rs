//! `certificates.k8s.io`: approval of signing requests, apart from their status.
//! Upstream: pkg/registry/certificates/certificates/storage.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use super::{Rest, Subresource};
use crate::engine::{Call, Target, write_subresource};
use crate::response::Response;

/// `certificatesigningrequests`.
pub(super) struct SigningRequests;

impl Rest for SigningRequests {
    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        (name == "approval").then(|| Arc::new(Approval) as Arc<dyn Subresource>)
    }
}

struct Approval;

#[async_trait]
impl Subresource for Approval {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        write_subresource(&call, Target::Other("approval")).await
    }
}
