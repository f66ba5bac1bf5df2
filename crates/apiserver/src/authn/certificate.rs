//! Client certificates: the common name is the user, the organisations are the groups.
//!
//! TLS asks for a certificate and checks that the client holds its key, but lets any chain pass
//! ([`tls_verifier`]); the chain is checked here, so that a bad one is answered with a 401 and not with a
//! broken connection. What was verified once is remembered until the certificate ends.
//! Not here: who issued it (`pki`).
//! Upstream: apiserver/pkg/authentication/request/x509.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use foundation::SharedClock;
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::digest;
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{Authenticated, Authenticator, Credentials};
use crate::request::User;

/// How many verified certificates are remembered: every node of the largest cluster, twice.
const REMEMBERED: usize = 10_000;
/// A user's UID as an attribute of the subject (upstream: `AllowParsingUserUIDFromCertAuth`).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// Checks chains against some authorities.
pub(super) struct Roots(Arc<dyn ClientCertVerifier>);

impl Roots {
    pub(super) fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, Status> {
        let unusable =
            |e: &dyn std::fmt::Display| Status::internal(format!("a client authority is unusable: {e}"));
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|e| unusable(&e))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| unusable(&e))?;
        Ok(Self(verifier))
    }

    pub(super) fn verify(&self, chain: &[CertificateDer<'static>], now: Timestamp) -> Result<(), Status> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Status::unauthorized("no certificate"));
        };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match self.0.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(Status::unauthorized(format!("verifying the client certificate: {error}"))),
        }
    }
}

/// The user a certificate names; `None` without a common name.
pub(super) fn user(leaf: &CertificateDer<'_>) -> Option<(User, Timestamp)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().filter_map(|value| value.as_str().ok()).last()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|value| value.as_str().ok()).map(str::to_owned);
    let uid = subject.iter_attributes().find(|attribute| attribute.attr_type().to_id_string() == UID);
    let fingerprint = digest::digest(&digest::SHA256, leaf);
    let mut credential = String::from("X509SHA256=");
    for byte in fingerprint.as_ref() {
        credential.push_str(&format!("{byte:02x}"));
    }
    let user = User {
        name: name.to_owned(),
        uid: uid.and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned(),
        groups: groups.collect(),
        extra: [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])].into(),
    };
    let end = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some((user, end))
}

/// The client certificate authenticator.
pub(super) struct ClientCertificates {
    roots: Roots,
    clock: SharedClock,
    verified: Mutex<HashMap<CertificateDer<'static>, (User, Timestamp)>>,
}

impl ClientCertificates {
    pub(super) fn new(authorities: &[CertificateDer<'static>], clock: SharedClock) -> Result<Self, Status> {
        Ok(Self { roots: Roots::new(authorities)?, clock, verified: Mutex::default() })
    }
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let Some(leaf) = credentials.certificates.first() else { return Ok(None) };
        let now = self.clock.now();
        if let Some((user, end)) = self.verified.lock().get(leaf)
            && now < *end
        {
            crate::metrics::access::certificate(end.duration_since(now));
            return Ok(Some(Authenticated::plain(user.clone())));
        }
        self.roots.verify(credentials.certificates, now)?;
        let Some((user, end)) = user(leaf) else { return Ok(None) };
        crate::metrics::access::certificate(end.duration_since(now));
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.retain(|_, (_, end)| now < *end);
            if verified.len() >= REMEMBERED {
                verified.clear();
            }
        }
        verified.insert(leaf.clone(), (user.clone(), end));
        Ok(Some(Authenticated::plain(user)))
    }
}

/// What a TLS listener uses: asks every client for a certificate, names the authorities it would know, demands
/// the proof of the key, and leaves the judgement of the chain to authentication.
pub fn tls_verifier(authorities: &[CertificateDer<'static>]) -> Arc<dyn ClientCertVerifier> {
    let names = authorities.iter().filter_map(|authority| {
        let (_, certificate) = x509_parser::parse_x509_certificate(authority).ok()?;
        Some(rustls::DistinguishedName::from(certificate.subject().as_raw().to_vec()))
    });
    Arc::new(AskOnly { hints: names.collect(), provider: Arc::new(rustls::crypto::ring::default_provider()) })
}

#[derive(Debug)]
struct AskOnly {
    hints: Vec<rustls::DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;
    use http::HeaderMap;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    };

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn authority() -> Issuer {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn client(issuer: &Issuer, name: &str, group: &str, until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    async fn who(
        authenticator: &ClientCertificates,
        certificates: &[CertificateDer<'static>],
    ) -> Result<Option<User>, Status> {
        let headers = HeaderMap::new();
        let credentials =
            Credentials { headers: &headers, certificates, remote: None, audiences: &[], path: "/api" };
        Ok(authenticator.authenticate(credentials).await?.map(|found| found.user))
    }

    #[tokio::test]
    async fn the_subject_is_the_user_if_the_authority_says_so() {
        let (ours, theirs) = (authority(), authority());
        let clock = Arc::new(ManualClock::new(time("2026-11-21T10:00:00Z")));
        let authenticator = ClientCertificates::new(&[ours.der().clone()], clock.clone()).unwrap();
        assert_eq!(who(&authenticator, &[]).await.unwrap(), None);

        let jane = client(&ours, "jane", "dev", 2027);
        for _ in 0..2 {
            let user = who(&authenticator, std::slice::from_ref(&jane)).await.unwrap().unwrap();
            assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jane", &["dev".to_owned()][..]));
            assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
        }
        for bad in [client(&theirs, "jane", "system:masters", 2027), client(&ours, "jane", "dev", 2020)] {
            assert!(who(&authenticator, &[bad]).await.unwrap_err().is_unauthorized());
        }
        clock.advance(Duration::from_secs(365 * 24 * 60 * 60));
        assert!(who(&authenticator, &[jane]).await.is_err(), "what was good once ends with the certificate");
    }

    #[tokio::test]
    async fn the_front_proxy_speaks_for_others() {
        use super::super::request_header::{FrontProxy, RequestHeader};
        let (proxy, users) = (authority(), authority());
        let clock = Arc::new(ManualClock::new(time("2026-11-21T10:00:00Z")));
        let settings = RequestHeader::usual(vec![proxy.der().clone()], vec!["front".to_owned()]);
        let authenticator = FrontProxy::new(&settings, clock).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "jane".parse().unwrap());
        headers.append("x-remote-group", "dev".parse().unwrap());
        headers.append("x-remote-group", "ops".parse().unwrap());
        headers.insert("x-remote-extra-scopes", "all".parse().unwrap());
        for (certificate, good) in [
            (client(&proxy, "front", "", 2027), true),
            (client(&proxy, "somebody", "", 2027), false),
            (client(&users, "front", "", 2027), false),
        ] {
            let credentials = Credentials {
                headers: &headers,
                certificates: &[certificate],
                remote: None,
                audiences: &[],
                path: "/api",
            };
            let found = authenticator.authenticate(credentials).await.ok().flatten();
            assert_eq!(found.is_some(), good);
            if let Some(found) = found {
                assert_eq!((found.user.name.as_str(), found.user.groups.len()), ("jane", 2));
                assert_eq!(found.user.extra["scopes"], ["all"]);
            }
        }
    }
}
