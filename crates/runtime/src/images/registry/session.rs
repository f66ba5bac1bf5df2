//! Requests for one repository of one host, with the authentication it asks for.
//!
//! Upstream: the distribution project's token authentication specification; RFC 6750, RFC 7617.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use foundation::Tasks;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::hosts::Host;
use super::http::Client;
use super::{Credentials, Failure};

/// See the module.
pub(super) struct Session {
    client: Client,
    base: String,
    repository: String,
    credentials: Option<Credentials>,
    /// The Authorization header that worked.
    authorization: Mutex<Option<String>>,
}

impl Session {
    pub(super) fn new(
        host: Host,
        repository: &str,
        credentials: Option<Credentials>,
        tasks: &Tasks,
    ) -> Result<Self, Failure> {
        let token = credentials.as_ref().map(|c| c.registry_token.clone()).filter(|t| !t.is_empty());
        Ok(Self {
            client: Client::new(host.ca.as_deref(), tasks.clone()).map_err(Failure::Other)?,
            base: format!("{}/v2/{repository}", host.url),
            repository: repository.to_owned(),
            credentials,
            authorization: Mutex::new(token.map(|t| format!("Bearer {t}"))),
        })
    }

    /// Gets something of the repository, such as `manifests/latest`.
    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<Response<Incoming>, Failure> {
        let url = format!("{}/{path}", self.base);
        let response = self.once(&url, accept).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            self.authorize(&response).await?;
            self.once(&url, accept).await?
        } else {
            response
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(Failure::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Denied("server message: insufficient_scope: authorization failed".into()))
            }
            status => Err(Failure::Status { method: "GET", url, status: status.to_string() }),
        }
    }

    async fn once(&self, url: &str, accept: &str) -> Result<Response<Incoming>, Failure> {
        let mut headers = vec![(header::ACCEPT, accept.to_owned())];
        if let Some(authorization) = self.authorization.lock().clone() {
            headers.push((header::AUTHORIZATION, authorization));
        }
        let sent = self.client.send(Method::GET, url, &headers, Bytes::new()).await;
        sent.map_err(|reason| Failure::Request { method: "Get", url: url.to_owned(), reason })
    }

    /// `user:password` in base64, if there is any.
    fn basic(&self) -> Option<String> {
        let credentials = self.credentials.as_ref()?;
        if !credentials.auth.is_empty() {
            return Some(credentials.auth.clone());
        }
        let both = format!("{}:{}", credentials.username, credentials.password);
        (!credentials.username.is_empty()).then(|| STANDARD.encode(both))
    }

    async fn authorize(&self, refused: &Response<Incoming>) -> Result<(), Failure> {
        let denied = || Failure::Denied("authorization failed: no basic auth credentials".into());
        let challenge = refused
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|h| Challenge::parse(h.to_str().ok()?))
            .next()
            .ok_or_else(denied)?;
        let authorization = match challenge {
            Challenge::Basic => format!("Basic {}", self.basic().ok_or_else(denied)?),
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                format!("Bearer {}", self.token(&realm, &service, &scope).await?)
            }
        };
        *self.authorization.lock() = Some(authorization);
        Ok(())
    }

    async fn token(&self, realm: &str, service: &str, scope: &str) -> Result<String, Failure> {
        let refresh = self.credentials.as_ref().map(|c| c.identity_token.clone()).filter(|t| !t.is_empty());
        let query = |more: &str| format!("service={}&scope={}{more}", escape(service), escape(scope));
        let sent = if let Some(refresh) = refresh {
            let more =
                format!("&grant_type=refresh_token&client_id=ironclad&refresh_token={}", escape(&refresh));
            let headers = [(header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned())];
            self.client.send(Method::POST, realm, &headers, query(&more).into()).await
        } else {
            let join = if realm.contains('?') { '&' } else { '?' };
            let url = format!("{realm}{join}{}", query(""));
            let basic = self.basic().map(|b| (header::AUTHORIZATION, format!("Basic {b}")));
            self.client.send(Method::GET, &url, basic.as_slice(), Bytes::new()).await
        };
        let response = sent.map_err(Failure::Token)?;
        if !response.status().is_success() {
            return Err(Failure::Denied(format!(
                "authorization failed: unexpected status from token request: {}",
                response.status()
            )));
        }
        let body = Limited::new(response.into_body(), 1 << 20).collect().await;
        let bytes = body.map_err(|e| Failure::Token(e.to_string()))?.to_bytes();
        let answer: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| Failure::Token(e.to_string()))?;
        let token = answer["token"].as_str().or_else(|| answer["access_token"].as_str());
        token.map(str::to_owned).ok_or_else(|| Failure::Token("no token in the answer".into()))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: Option<String> },
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |wanted: &str| {
            let mut rest = rest;
            // Values are quoted and may contain commas.
            while let Some((name, tail)) = rest.split_once('=') {
                let (value, after) = match tail.strip_prefix('"') {
                    Some(quoted) => quoted.split_once('"')?,
                    None => tail.split_once(',').unwrap_or((tail, "")),
                };
                if name.trim_matches([',', ' ']).eq_ignore_ascii_case(wanted) {
                    return Some(value.to_owned());
                }
                rest = after;
            }
            None
        };
        Some(Self::Bearer {
            realm: parameter("realm")?,
            service: parameter("service").unwrap_or_default(),
            scope: parameter("scope"),
        })
    }
}

/// Percent-encodes a query's value.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: &str, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scope: scope.map(str::to_owned),
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth/token\",service=\"reg\",scope=\"repository:a/b:pull,push\"",
                Some(bearer("https://auth/token", "reg", Some("repository:a/b:pull,push"))),
            ),
            ("bearer realm=\"r\"", Some(bearer("r", "", None))),
            ("Negotiate", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
