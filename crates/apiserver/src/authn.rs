//! Authentication: who is asking.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use rustls_pki_types::CertificateDer;

use crate::request::User;

/// What a request shows to prove who sends it.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The request's headers (`Authorization`, request-header identities, `Sec-WebSocket-Protocol`).
    pub headers: &'a http::HeaderMap,
    /// The client's verified-or-not certificate chain as TLS saw it, leaf first; empty without one.
    pub certificates: &'a [CertificateDer<'static>],
    /// The peer, where there is one.
    pub remote: Option<std::net::SocketAddr>,
    /// Audiences that a token must have at least one of; empty: the server's own.
    pub audiences: &'a [String],
}

/// An identity that was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is.
    pub user: User,
    /// The audiences, of those asked for, that the credentials are good for.
    pub audiences: Vec<String>,
}

/// One way to prove an identity.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: no credentials of this kind. `Err`: credentials of this kind, but not good.
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status>;
}

/// Tries one authenticator after the other.
#[derive(Clone, Default)]
pub struct Chain(pub Vec<Arc<dyn Authenticator>>);

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let mut refused = None;
        for authenticator in &self.0 {
            match authenticator.authenticate(credentials).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(status) => refused = Some(status),
            }
        }
        refused.map_or(Ok(None), Err)
    }
}

/// What authentication is to accept. To be filled by its owner (client CA, service account keys, static tokens …).
#[derive(Clone, Debug, Default)]
pub struct Options {}

/// What the rest of the server needs of authentication.
#[derive(Clone)]
pub struct Authentication {
    /// The whole chain, anonymous last where allowed.
    pub authenticator: Arc<dyn Authenticator>,
}

/// Builds the chain that `options` asks for.
pub fn build(
    _options: &Options,
    _cluster: &Arc<dyn crate::cluster::ClusterState>,
    _clock: &foundation::SharedClock,
) -> Result<Authentication, Status> {
    Ok(Authentication { authenticator: Arc::new(Chain::default()) })
}
