//! Whether the stub request of a PodCertificateRequest shows that its sender holds a key that may be certified.
//!
//! Signers rely on it: they take the public key and look no further.
//! Not here: the rest of the request (its kind's validation), the certificate (`issuance`).
//! Upstream: ValidatePodCertificateRequestCreate in pkg/apis/certificates/validation.

use api::field::{self, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// The most bytes of a request; a longer one is its kind's to refuse.
const SIZE_MAX: usize = 10 * 1024;

/// What is wrong with the stub request of a new PodCertificateRequest.
pub(super) fn stub_errors(object: &Value) -> ErrorList {
    let path = Path::new("spec").child("stubPKCS10Request");
    let text = object.pointer("/spec/stubPKCS10Request").and_then(Value::as_str).unwrap_or_default();
    let der = STANDARD.decode(text).unwrap_or_default();
    if der.len() > SIZE_MAX {
        return ErrorList::new();
    }
    let wrong = |message: String| vec![field::invalid(&path, "<omitted>", message)];
    let Ok((_, request)) = X509CertificationRequest::from_der(&der) else {
        return wrong("must be a valid PKCS#10 certificate signing request".to_owned());
    };
    let key = &request.certification_request_info.subject_pki;
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if !matches!(rsa.key_size(), 3072 | 4096) => {
            let bits = format!("{}-bit modulus", rsa.key_size());
            return vec![field::invalid(&path, bits, "RSA keys must have modulus size 3072 or 4096")];
        }
        Ok(PublicKey::EC(point)) if !matches!(point.key_size(), 256 | 384 | 521) => {
            let curve = format!("curve P-{}", point.key_size());
            return vec![field::invalid(
                &path,
                curve,
                "elliptic public keys must use curve P256, P384, or P521",
            )];
        }
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => {}
        _ if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => {}
        _ => {
            return wrong("unknown public key type; supported types are Ed25519, ECDSA, and RSA".to_owned());
        }
    }
    match pki::csr::verify(&der) {
        Ok(()) => ErrorList::new(),
        Err(error) => wrong(format!("could not verify signature: {error}")),
    }
}
