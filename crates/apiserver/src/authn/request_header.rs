//! A front proxy that has authenticated the user already and says so in headers.
//!
//! Believed only over a connection with a client certificate of the front-proxy authority.
//! Upstream: apiserver/pkg/authentication/request/headerrequest.

use std::collections::BTreeMap;

use api::Status;
use async_trait::async_trait;
use foundation::SharedClock;
use http::{HeaderMap, HeaderValue};
use rustls_pki_types::CertificateDer;

use super::certificate::{self, Roots};
use super::{Authenticated, Authenticator, Credentials};
use crate::filters::extra_key;
use crate::request::User;

/// Which proxy is believed, and in which headers it speaks.
#[derive(Clone, Debug)]
pub struct RequestHeader {
    /// The authorities of the proxy's client certificate (DER).
    pub authorities: Vec<CertificateDer<'static>>,
    /// Common names that the certificate may have; empty: any.
    pub allowed_names: Vec<String>,
    /// Headers with the user name, the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers with the user's UID, the first that is there counts.
    pub uid_headers: Vec<String>,
    /// Headers with a group each.
    pub group_headers: Vec<String>,
    /// Prefixes of headers with extra values.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeader {
    /// The headers of kubeadm's and k3s' set-ups: `X-Remote-User`, `X-Remote-Uid`, `X-Remote-Group`,
    /// `X-Remote-Extra-`.
    pub fn usual(authorities: Vec<CertificateDer<'static>>, allowed_names: Vec<String>) -> Self {
        Self {
            authorities,
            allowed_names,
            username_headers: vec!["x-remote-user".into()],
            uid_headers: vec!["x-remote-uid".into()],
            group_headers: vec!["x-remote-group".into()],
            extra_prefixes: vec!["x-remote-extra-".into()],
        }
    }
}

pub(super) struct FrontProxy {
    settings: RequestHeader,
    roots: Roots,
    clock: SharedClock,
}

impl FrontProxy {
    pub(super) fn new(settings: &RequestHeader, clock: SharedClock) -> Result<Self, Status> {
        Ok(Self { roots: Roots::new(&settings.authorities)?, settings: settings.clone(), clock })
    }

    /// The user in the headers. A value that cannot be read is an error: without it the user would be another.
    fn user(&self, headers: &HeaderMap) -> Result<Option<User>, Status> {
        let first = |names: &[String]| -> Result<Option<String>, Status> {
            names.iter().find_map(|name| headers.get(name)).map(text).transpose()
        };
        let Some(name) = first(&self.settings.username_headers)?.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let uid = first(&self.settings.uid_headers)?.unwrap_or_default();
        let groups = self.settings.group_headers.iter().flat_map(|name| headers.get_all(name)).map(text);
        let groups = groups.collect::<Result<_, _>>()?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            for prefix in &self.settings.extra_prefixes {
                let key = header.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str());
                if let Some(key) = key {
                    extra.entry(extra_key(key)).or_default().push(text(value)?);
                }
            }
        }
        Ok(Some(User { name, uid, groups, extra }))
    }
}

fn text(value: &HeaderValue) -> Result<String, Status> {
    let text = std::str::from_utf8(value.as_bytes());
    text.map(str::to_owned).map_err(|_| Status::unauthorized("a header of the front proxy is no UTF-8"))
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let Some(leaf) = credentials.certificates.first() else { return Ok(None) };
        // Nearly every request: it names nobody, so that it does not matter whose the certificate is.
        if !self.settings.username_headers.iter().any(|name| credentials.headers.contains_key(name)) {
            return Ok(None);
        }
        // Somebody else's certificate is not wrong, it only does not make them a proxy.
        if self.roots.verify(credentials.certificates, self.clock.now()).is_err() {
            return Ok(None);
        }
        let Some(user) = self.user(credentials.headers)? else { return Ok(None) };
        let allowed = &self.settings.allowed_names;
        let name = certificate::user(leaf).map(|(user, _)| user.name).unwrap_or_default();
        if !allowed.is_empty() && !allowed.contains(&name) {
            return Err(Status::unauthorized(format!("subject with cn={name} is not in the allowed list")));
        }
        Ok(Some(Authenticated::plain(user)))
    }
}
