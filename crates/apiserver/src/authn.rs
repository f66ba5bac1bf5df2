//! Authentication: who is asking.
//!
//! Read first: [`Authenticator`] (one way to prove an identity), [`Options`] (which ways there are), [`build`]
//! (their order). The ways: front-proxy headers, client certificates, static tokens, ServiceAccount tokens,
//! bootstrap tokens, OpenID Connect tokens, a webhook; and, for the paths that health checks need, nobody at all.
//! `token` also issues ServiceAccount tokens and describes their keys to others; `review` evaluates TokenReview
//! and SelfSubjectReview.
//! Not here: what the user may do (`authz`), acting as somebody else (the impersonation filter).
//! Upstream: staging/src/k8s.io/apiserver/pkg/authentication, pkg/kubeapiserver/authenticator.

mod anonymous;
mod bearer;
mod bootstrap_token;
mod certificate;
mod jose;
pub mod oidc;
mod request_header;
pub mod review;
mod static_token;
pub mod token;
pub mod webhook;

use std::sync::Arc;

use api::Status;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use foundation::{SharedClock, SharedRandomness};
use rustls_pki_types::CertificateDer;

use crate::cluster::ClusterState;
use crate::request::User;

pub(crate) use bearer::remove_protocol as remove_bearer_protocol;
pub use certificate::tls_verifier;
pub use request_header::RequestHeader;
pub use static_token::StaticToken;

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
    /// The path asked for: some are open to everybody.
    pub path: &'a str,
}

/// An identity that was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is.
    pub user: User,
    /// The audiences, of those asked for, that the credentials are good for.
    pub audiences: Vec<String>,
    /// What the client is to be warned of.
    pub warnings: Vec<String>,
}

impl Authenticated {
    /// A user whose credentials say nothing about audiences.
    fn plain(user: User) -> Self {
        Self { user, audiences: Vec::new(), warnings: Vec::new() }
    }
}

/// One way to prove an identity.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: no credentials of this kind. `Err`: credentials of this kind, but not good.
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status>;
}

/// Tokens that name no audience: they were made for this server, and are good for nobody else who asks.
struct ForOwnAudiences {
    tokens: Arc<dyn Authenticator>,
    /// The audiences that mean this server; none: audiences are not told apart.
    own: Arc<[String]>,
}

#[async_trait]
impl Authenticator for ForOwnAudiences {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let asked = credentials.audiences;
        let audiences: Vec<String> =
            self.own.iter().filter(|own| asked.is_empty() || asked.contains(own)).cloned().collect();
        if audiences.is_empty() && !self.own.is_empty() {
            return Ok(None);
        }
        let found = self.tokens.authenticate(credentials).await?;
        Ok(found.map(|found| Authenticated { audiences, ..found }))
    }
}

/// Tries one authenticator after the other.
#[derive(Clone, Default)]
pub struct Chain(pub Vec<Arc<dyn Authenticator>>);

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let mut refused: Vec<String> = Vec::new();
        for authenticator in &self.0 {
            match authenticator.authenticate(credentials).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(status) => refused.push(status.message),
            }
        }
        match refused.as_slice() {
            [] => Ok(None),
            [one] => Err(Status::unauthorized(one)),
            many => Err(Status::unauthorized(format!("[{}]", many.join(", ")))),
        }
    }
}

/// What may change while the server runs: what a file of type AuthenticationConfiguration says.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Providers whose OpenID Connect tokens are accepted.
    pub issuers: Vec<oidc::Issuer>,
    /// Paths that need no credentials; `*` is all of them. The user is `system:anonymous` there and nowhere else.
    pub anonymous_paths: Vec<String>,
}

impl Default for Configured {
    fn default() -> Self {
        let open = ["/healthz", "/livez", "/readyz", "/version"];
        Self { issuers: Vec::new(), anonymous_paths: open.map(str::to_owned).into() }
    }
}

/// What authentication is to accept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Authorities whose client certificates are users (DER). Empty: none are.
    pub client_authorities: Vec<CertificateDer<'static>>,
    /// ServiceAccount tokens: how they are signed and checked. `None`: there are none.
    pub service_accounts: Option<token::Options>,
    /// Tokens that are known from the start.
    pub static_tokens: Vec<StaticToken>,
    /// Whether Secrets of type `bootstrap.kubernetes.io/token` are accepted.
    pub bootstrap_tokens: bool,
    /// The front proxy that may tell who a user is.
    pub request_header: Option<RequestHeader>,
    /// A server that is asked about tokens nobody else knows.
    pub webhook: Option<webhook::Options>,
    /// What is accepted at the start ([`Authentication::configure`] changes it).
    pub configured: Configured,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_authorities: Vec::new(),
            service_accounts: None,
            static_tokens: Vec::new(),
            bootstrap_tokens: true,
            request_header: None,
            webhook: None,
            configured: Configured::default(),
        }
    }
}

/// What the rest of the server needs of authentication.
#[derive(Clone)]
pub struct Authentication {
    /// The whole chain, anonymous last where allowed.
    pub authenticator: Arc<dyn Authenticator>,
    /// The ways a bearer token is checked, for TokenReview.
    pub tokens: Arc<dyn Authenticator>,
    /// Who issues ServiceAccount tokens; `None` where there are none.
    pub issuer: Option<Arc<token::Issuer>>,
    configured: Arc<ArcSwap<Configured>>,
}

impl Authentication {
    /// Accepts this from the next request on.
    pub fn configure(&self, configured: Configured) {
        self.configured.store(Arc::new(configured));
    }
}

/// Builds the chain that `options` asks for.
///
/// # Errors
/// 500 with the reason where a key or certificate in the options cannot be used.
pub fn build(
    options: &Options,
    cluster: &Arc<dyn ClusterState>,
    clock: &SharedClock,
    randomness: &SharedRandomness,
) -> Result<Authentication, Status> {
    let own: Arc<[String]> = options
        .service_accounts
        .as_ref()
        .map(|accounts| accounts.audiences.clone())
        .unwrap_or_default()
        .into();
    let for_us = |tokens: Arc<dyn Authenticator>| -> Arc<dyn Authenticator> {
        Arc::new(ForOwnAudiences { tokens, own: own.clone() })
    };
    let mut tokens: Vec<Arc<dyn Authenticator>> = Vec::new();
    if !options.static_tokens.is_empty() {
        tokens.push(for_us(Arc::new(static_token::StaticTokens::new(&options.static_tokens))));
    }
    let mut issuer = None;
    if let Some(accounts) = &options.service_accounts {
        let keys = Arc::new(token::Keys::new(accounts));
        tokens.push(Arc::new(token::Verifier::new(keys.clone(), accounts, cluster.clone(), clock.clone())));
        let randomness = randomness.clone();
        issuer =
            Some(Arc::new(token::Issuer::new(keys, accounts, cluster.clone(), clock.clone(), randomness)));
    }
    if options.bootstrap_tokens {
        let bootstrap = bootstrap_token::BootstrapTokens::new(cluster.clone(), clock.clone());
        tokens.push(for_us(Arc::new(bootstrap)));
    }
    let configured = Arc::new(ArcSwap::from_pointee(options.configured.clone()));
    tokens.push(for_us(Arc::new(oidc::Tokens { configured: configured.clone(), clock: clock.clone() })));
    if let Some(webhook) = &options.webhook {
        tokens.push(Arc::new(webhook::TokenWebhook::new(webhook.clone(), clock.clone())));
    }
    let tokens: Arc<dyn Authenticator> = Arc::new(bearer::Bearer(Chain(tokens)));

    let mut chain: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(header) = &options.request_header {
        chain.push(Arc::new(request_header::FrontProxy::new(header, clock.clone())?));
    }
    if !options.client_authorities.is_empty() {
        chain.push(Arc::new(certificate::ClientCertificates::new(
            &options.client_authorities,
            clock.clone(),
        )?));
    }
    chain.push(tokens.clone());
    let authenticator =
        Arc::new(anonymous::OrAnonymous { known: Chain(chain), configured: configured.clone() });
    Ok(Authentication { authenticator, tokens, issuer, configured })
}

#[cfg(test)]
mod tests;
