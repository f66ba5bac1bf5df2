//! ServiceAccounts: tokens on request.
//! Upstream: pkg/registry/core/serviceaccount/storage/token.go.

use std::sync::Arc;

use api::{GroupVersionKind, Status};
use async_trait::async_trait;
use schema::Schema;

use crate::admission::Operation;
use crate::engine::{Call, WriteOptions, decode_as};
use crate::registry::{Rest, Subresource};
use crate::response::Response;

/// `serviceaccounts`.
pub(in crate::registry) struct ServiceAccounts;

impl Rest for ServiceAccounts {
    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        (name == "token").then(|| Arc::new(Token) as Arc<dyn Subresource>)
    }
}

struct Token;

#[async_trait]
impl Subresource for Token {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        if call.info.verb != "create" {
            return Err(call.method_not_allowed());
        }
        let options = WriteOptions::parse(&call.query, "CreateOptions")?;
        let issuer = call.server.authentication.issuer.clone().ok_or_else(|| {
            Status::not_found(&api::GroupResource::new("", "serviceaccounts/token"), &call.info.name)
        })?;
        let kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        let schema = Schema::built_in("io.k8s.api.authentication.v1.TokenRequest")
            .ok_or_else(|| Status::internal("no definition of TokenRequest"))?;
        let mut request = decode_as(&call, &kind, &schema, options.field_validation)?;
        let account = call.stored().await?.object;
        {
            let mut review = call.admission(Operation::Create, &options, Some(&mut request), None);
            review.kind = kind;
            call.server.admission.admit(&mut review).await?;
            call.server.admission.validate(&mut review).await?;
            call.warn(review.warnings);
        }
        let mut warnings = Vec::new();
        let answer = issuer.issue(&account, request, &mut warnings).await?;
        call.warn(warnings);
        Ok(call.respond_value(201, &answer.0))
    }
}
