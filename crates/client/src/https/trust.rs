//! Which certificates of a server are believed: those of given authorities, of the machine's, or any.
//!
//! Reads the file of authorities that the machine's distribution keeps. Not here: who the client is.
//! Upstream: Go's crypto/x509 (`root_linux.go`) for the places; client-go `rest.TLSClientConfig`.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Where distributions keep the authorities that the machine trusts; the first that is there counts.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities in a PEM bundle.
///
/// # Errors
/// A sentence about what is wrong with the bundle, also when there is no certificate in it.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("no certificates".to_owned()) } else { Ok(roots) }
}

/// The authorities that this machine trusts; none where it keeps no list of them. Read once, by whoever needs them first.
pub fn system_authorities() -> Arc<RootCertStore> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        match SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()) {
            // A certificate in it that cannot be read is worth nothing, and no reason to trust none of the others.
            Some(pem) => {
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
            }
            None => tracing::warn!(
                looked_in = ?SYSTEM_AUTHORITIES,
                "this machine has no certificate authorities: servers without one in their settings are not believed"
            ),
        }
        Arc::new(roots)
    });
    ROOTS.clone()
}

/// Believes any certificate, though a broken signature in the handshake is refused.
pub fn any_certificate() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyCertificate(Arc::new(rustls::crypto::ring::default_provider())))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.2 is not built in.
        Err(rustls::Error::General("only TLS 1.3 is supported".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_read_whole_or_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (bundle, expected) in [
            (format!("{pem}{pem}"), Ok(2)),
            (format!("{pem}{broken}"), Err(())),
            (String::new(), Err(())),
            ("no PEM at all".to_owned(), Err(())),
        ] {
            let found = authorities(bundle.as_bytes()).map(|roots| roots.len()).map_err(drop);
            assert_eq!(found, expected, "{bundle}");
        }
    }
}
