//! Authorization: may they.

use async_trait::async_trait;

use crate::request::Attributes;

/// What an authorizer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes; nobody else is asked.
    Allow,
    /// No; nobody else is asked.
    Deny,
    /// Not mine to say; the next one is asked, and the end of the chain means no.
    NoOpinion,
}

/// One source of decisions.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Decides, with a reason for people (it goes into the 403's message and into SubjectAccessReviews).
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String);
}

/// What decides. To be filled by its owner (modes: Node, RBAC, webhook …).
#[derive(Clone, Debug, Default)]
pub struct Options {}

/// Builds the chain that `options` asks for.
pub fn build(
    _options: &Options,
    _cluster: &std::sync::Arc<dyn crate::cluster::ClusterState>,
) -> Result<std::sync::Arc<dyn Authorizer>, api::Status> {
    Ok(std::sync::Arc::new(NoDecision))
}

/// The roles and bindings that exist from the start (RBAC's bootstrap policy).
pub fn bootstrap() -> Vec<api::Object> {
    Vec::new()
}

struct NoDecision;

#[async_trait]
impl Authorizer for NoDecision {
    async fn authorize(&self, _: &Attributes) -> (Decision, String) {
        (Decision::NoOpinion, String::new())
    }
}
