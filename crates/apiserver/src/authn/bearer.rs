//! Finds the bearer token of a request: in `Authorization`, or, for browsers' WebSockets, among the protocols.
//! Not here: whether a token is good (its authenticators).
//! Upstream: apiserver/pkg/authentication/request/{bearertoken,websocket}.

use api::Status;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;

use super::{Authenticated, Authenticator, Chain, Credentials};

const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The token a request carries.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim_start().split(' ').next().unwrap_or_default();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| {
            let bytes = URL_SAFE_NO_PAD.decode(protocol.trim().strip_prefix(PROTOCOL)?).ok()?;
            String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
        })
}

/// Takes the token out of the WebSocket protocols offered, so that whoever is behind a proxy does not get it.
pub(crate) fn remove_protocol(headers: &mut HeaderMap) {
    let name = http::header::SEC_WEBSOCKET_PROTOCOL;
    let offered: Vec<&str> =
        headers.get_all(&name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).collect();
    let kept: Vec<&str> = offered.iter().map(|p| p.trim()).filter(|p| !p.starts_with(PROTOCOL)).collect();
    if kept.len() == offered.len() {
        return;
    }
    let kept = http::HeaderValue::from_str(&kept.join(", "));
    headers.remove(&name);
    if let Some(kept) = kept.ok().filter(|kept| !kept.is_empty()) {
        headers.insert(name, kept);
    }
}

/// Bearer tokens, by any of the ways in the chain. A token that none of them knows is refused.
pub(super) struct Bearer(pub(super) Chain);

#[async_trait]
impl Authenticator for Bearer {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        if token(credentials.headers).is_none() {
            return Ok(None);
        }
        match self.0.authenticate(credentials).await {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => Err(Status::unauthorized("invalid bearer token")),
            Err(status) => Err(Status::unauthorized(format!("[invalid bearer token, {}]", status.message))),
        }
    }
}
