//! `authorization.k8s.io`: may this or that user do this or that. Nothing is stored.

use api::{Object, Status};
use async_trait::async_trait;

use super::Rest;
use crate::authz::review;
use crate::engine::Call;

/// `subjectaccessreviews`: may they.
pub(super) struct SubjectAccessReviews;

#[async_trait]
impl Rest for SubjectAccessReviews {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        review::subject_access(object.clone(), &*call.server.authorization.authorizer).await.map(Some)
    }
}

/// `localsubjectaccessreviews`: may they, in this namespace.
pub(super) struct LocalSubjectAccessReviews;

#[async_trait]
impl Rest for LocalSubjectAccessReviews {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        let authorizer = &*call.server.authorization.authorizer;
        review::local_subject_access(object.clone(), &call.info.namespace, authorizer).await.map(Some)
    }
}

/// `selfsubjectaccessreviews`: may I.
pub(super) struct SelfSubjectAccessReviews;

#[async_trait]
impl Rest for SelfSubjectAccessReviews {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        let authorizer = &*call.server.authorization.authorizer;
        review::self_subject_access(object.clone(), &call.user, authorizer).await.map(Some)
    }
}

/// `selfsubjectrulesreviews`: what may I.
pub(super) struct SelfSubjectRulesReviews;

#[async_trait]
impl Rest for SelfSubjectRulesReviews {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        let authorization = &call.server.authorization;
        review::self_subject_rules(
            object.clone(),
            &call.user,
            &*authorization.authorizer,
            &authorization.rbac,
        )
        .await
        .map(Some)
    }
}
