//! Who may use the store of a running server directly: who holds a certificate of the cluster's authority that says
//! `system:masters`, and so may do everything anyway.
//!
//! Pure but for the files of the PKI. What a node or a user of the API shows comes from the same authority and is refused in
//! the handshake.

use std::sync::Arc;

use anyhow::Context as _;
use apiserver::User;
use pki::Leaf;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::roles::Context;
use crate::roles::apiserver::{Current, authorities};

/// The TLS of the listener, with the API server's certificate.
pub(super) fn tls(context: &Context) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let provider = foundation::tls::provider();
    let known =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(context)?), provider.clone())
            .build()
            .context("client certificates cannot be verified")?;
    // Made now, so that a fault in it is told at the start.
    context.pki.credential(Leaf::ApiserverServing, context.clock.now())?;
    let mut config = foundation::tls::server_for_others()
        .with_client_cert_verifier(Arc::new(Administrators(known)))
        .with_cert_resolver(Arc::new(Current(context.clone(), Leaf::ApiserverServing)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether a certificate is for a member of `system:masters`.
fn is_administrator(leaf: &[u8]) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(leaf) else { return false };
    let mut groups = certificate.subject().iter_organization();
    groups.any(|group| group.as_str().is_ok_and(|group| group == User::MASTERS))
}

#[derive(Debug)]
struct Administrators(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Administrators {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now)?;
        if is_administrator(leaf) {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_masters_are_administrators() {
        for (organization, expected) in
            [(Some("system:masters"), true), (Some("system:nodes"), false), (None, false)]
        {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, "system:masters");
            if let Some(organization) = organization {
                params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
            }
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(is_administrator(certificate.der()), expected, "{organization:?}");
        }
        assert!(!is_administrator(b"no certificate"));
    }
}
