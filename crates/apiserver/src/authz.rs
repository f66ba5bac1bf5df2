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
