//! `authentication.k8s.io`: reviews of tokens and of oneself. Nothing is stored.

use api::{Object, Status};
use async_trait::async_trait;

use super::Rest;
use crate::authn::review;
use crate::engine::Call;

/// `selfsubjectreviews`: who am I.
pub(super) struct SelfSubjectReviews;

#[async_trait]
impl Rest for SelfSubjectReviews {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        Ok(Some(review::self_subject(object.clone(), &call.user)))
    }
}

/// `tokenreviews`: whose token is this.
pub(super) struct TokenReviews;

#[async_trait]
impl Rest for TokenReviews {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        review::token(object.clone(), &*call.server.authentication.tokens).await.map(Some)
    }
}
