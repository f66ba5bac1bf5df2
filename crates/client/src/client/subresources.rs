//! The subresources that components call: binding, eviction, tokens, token and access reviews.

use api::types::authentication::v1::{TokenRequest, TokenReview as TokenReviewObject};
use api::types::authorization::v1::SubjectAccessReview;
use api::types::core::v1::{Binding, Pod, ServiceAccount};
use api::types::policy::v1::Eviction;
use http::Method;

use super::{Client, JSON, encode};
use crate::{Accept, Endpoint, Error};

/// The object with which a server asks whose token it was handed.
pub type TokenReview = TokenReviewObject;

impl Client {
    /// Assigns a pod to a node (`pods/<name>/binding`); the binding carries the pod's name and UID.
    pub async fn bind(&self, namespace: &str, binding: &Binding) -> Result<(), Error> {
        let name = binding.metadata.name.as_deref().unwrap_or_default();
        self.post::<Pod>(namespace, name, "binding", encode(binding)?).await.map(drop)
    }

    /// Asks for a pod to go, within its disruption budgets. 429 means: not now.
    pub async fn evict(&self, namespace: &str, eviction: &Eviction) -> Result<(), Error> {
        let name = eviction.metadata.name.as_deref().unwrap_or_default();
        self.post::<Pod>(namespace, name, "eviction", encode(eviction)?).await.map(drop)
    }

    /// A token for a ServiceAccount; the answer's status carries it and its expiry.
    pub async fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        request: &TokenRequest,
    ) -> Result<TokenRequest, Error> {
        let bytes =
            self.post::<ServiceAccount>(namespace, service_account, "token", encode(request)?).await?;
        super::decode(bytes, "TokenRequest")
    }

    /// Whose token this is (delegated authentication).
    pub async fn review_token(&self, review: &TokenReview) -> Result<TokenReview, Error> {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews".to_owned();
        super::decode(
            self.call(Method::POST, path, Some((JSON, encode(review)?)), Accept::Object).await?,
            "TokenReview",
        )
    }

    /// Whether a subject may do something (delegated authorization).
    pub async fn review_access(&self, review: &SubjectAccessReview) -> Result<SubjectAccessReview, Error> {
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned();
        super::decode(
            self.call(Method::POST, path, Some((JSON, encode(review)?)), Accept::Object).await?,
            "SubjectAccessReview",
        )
    }

    async fn post<K: crate::Resource>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: bytes::Bytes,
    ) -> Result<bytes::Bytes, Error> {
        let path = Endpoint::of::<K>().path(Some(namespace), Some(name), Some(subresource));
        self.call(Method::POST, path, Some((JSON, body)), Accept::Object).await
    }
}
