//! Adds the group that everyone with credentials is in, and lets those without reach the open paths.
//! Upstream: apiserver/pkg/authentication/{group,request/anonymous}.

use std::sync::Arc;

use api::Status;
use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::{Authenticated, Authenticator, Chain, Configured, Credentials};
use crate::request::User;

/// The known users first; a request without any credentials is anonymous on the open paths.
pub(super) struct OrAnonymous {
    pub(super) known: Chain,
    pub(super) configured: Arc<ArcSwap<Configured>>,
}

#[async_trait]
impl Authenticator for OrAnonymous {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        match self.known.authenticate(credentials).await? {
            Some(mut found) => {
                if !found.user.is_in(User::AUTHENTICATED) && !found.user.is_in(User::UNAUTHENTICATED) {
                    found.user.groups.push(User::AUTHENTICATED.to_owned());
                }
                Ok(Some(found))
            }
            None if self
                .configured
                .load()
                .anonymous_paths
                .iter()
                .any(|open| open == "*" || open == credentials.path) =>
            {
                Ok(Some(Authenticated::plain(User::new(User::ANONYMOUS, &[User::UNAUTHENTICATED]))))
            }
            None => Ok(None),
        }
    }
}
