//! Tokens of OpenID Connect providers, as a structured AuthenticationConfiguration describes them.
//!
//! [`configuration`] reads the file; [`keys`] checks signatures with the provider's keys, which are fetched when a
//! token needs them; [`claims`] turns what a token says into a user. A token of another issuer is left to others.
//! Not here: the endpoints by which this server is a provider itself (`token`).
//! Upstream: apiserver/plugin/pkg/authenticator/token/oidc, apiserver/pkg/authentication/cel.

pub mod claims;
pub mod configuration;
pub mod keys;

use std::sync::Arc;

use api::Status;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foundation::SharedClock;
use serde_json::Value;

use super::{Authenticated, Authenticator, Configured, Credentials, bearer};
use claims::Mapping;
use keys::KeySet;

pub use configuration::Configuration;

/// A token's beginning may lie so far ahead, since clocks differ (go-oidc's leeway).
const SKEW_SECONDS: i64 = 5 * 60;

/// One provider.
#[derive(Clone)]
pub struct Issuer {
    /// The `iss` claim.
    pub url: String,
    /// A token must be meant for one of them.
    pub audiences: Vec<String>,
    /// How its tokens may be signed; empty: in every way that is known.
    pub algorithms: Vec<String>,
    /// Where its keys are.
    pub keys: Arc<KeySet>,
    /// What its claims mean.
    pub mapping: Arc<Mapping>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Authenticates by the tokens of some providers.
pub(super) struct Tokens {
    pub(super) configured: Arc<ArcSwap<Configured>>,
    pub(super) clock: SharedClock,
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let Some(token) = bearer::token(credentials.headers) else { return Ok(None) };
        let Some(claimed) = payload(&token) else { return Ok(None) };
        let issued_by = claimed["iss"].as_str().unwrap_or_default();
        let configured = self.configured.load_full();
        let Some(issuer) = configured.issuers.iter().find(|issuer| issuer.url == issued_by) else {
            return Ok(None);
        };
        let refused = |problem: String| Status::unauthorized(format!("oidc: {problem}"));
        if let Some(used) = foreign_algorithm(&token, &issuer.algorithms) {
            return Err(refused(format!(
                "verify token: oidc: id token signed with unsupported algorithm, expected {:?} got {used:?}",
                issuer.algorithms
            )));
        }
        let claims = issuer
            .keys
            .verify(&token)
            .await
            .map_err(|problem| refused(format!("verify token: {problem}")))?;
        let now = self.clock.now().as_second();
        check(&claims, issuer, now).map_err(|problem| refused(format!("verify token: {problem}")))?;
        let user = issuer.mapping.user(&claims).map_err(refused)?;
        Ok(Some(Authenticated::plain(user)))
    }
}

/// How a token is signed, where that is none of the algorithms that are accepted.
fn foreign_algorithm(token: &str, accepted: &[String]) -> Option<String> {
    if accepted.is_empty() {
        return None;
    }
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap_or_default()).unwrap_or_default();
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    let used = header["alg"].as_str().unwrap_or_default();
    (!accepted.iter().any(|name| name == used)).then(|| used.to_owned())
}

/// What a token says, unchecked; `None` if it is no JWT.
fn payload(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn check(claims: &Value, issuer: &Issuer, now: i64) -> Result<(), String> {
    // NumericDate may have a fraction.
    let time = |claim: &str| claims[claim].as_f64().map(|seconds| seconds as i64);
    match time("exp") {
        None => return Err("the token has no expiry".to_owned()),
        Some(expires) if expires <= now => return Err("token is expired".to_owned()),
        Some(_) => {}
    }
    if time("nbf").is_some_and(|begins| begins > now + SKEW_SECONDS) {
        return Err("the token is not valid yet".to_owned());
    }
    let audiences: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if audiences.iter().any(|audience| issuer.audiences.iter().any(|wanted| wanted == audience)) {
        return Ok(());
    }
    Err(format!("expected audience in {:?} got {audiences:?}", issuer.audiences))
}

#[cfg(test)]
mod tests;
