//! Whether a signing request is one that its sender holds the key of, and whether what was issued are certificates.
//!
//! Signers read more strictly: one block and nothing beside it. What they do not sign may be stored.
//! Not here: the rest of the request (its kind's validation), who may sign (`admission`).
//! Upstream: validateCSR and validateCertificate in pkg/apis/certificates/validation, Go's `crypto/x509`.

use api::field::{self, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::trust_bundle::blocks;

/// `sha256WithRSAEncryption` and its like for 384 and 512 bits.
const RSA_WITH_SHA2: [&str; 3] = ["1.2.840.113549.1.1.11", "1.2.840.113549.1.1.12", "1.2.840.113549.1.1.13"];
const ED25519: &str = "1.3.101.112";

/// The text that a field holds in base64.
fn decoded(object: &Value, pointer: &str) -> String {
    let packed = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    String::from_utf8_lossy(&STANDARD.decode(packed).unwrap_or_default()).into_owned()
}

/// What is wrong with the request of a new CertificateSigningRequest.
pub(super) fn request_errors(object: &Value) -> ErrorList {
    let Some(problem) = request_problem(&decoded(object, "/spec/request")) else { return ErrorList::new() };
    let given = object.pointer("/spec/request").cloned().unwrap_or_default();
    vec![field::invalid(&Path::new("spec").child("request"), given, problem)]
}

fn request_problem(text: &str) -> Option<&'static str> {
    let first = blocks(text).into_iter().next();
    let Some(block) = first.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Some("PEM block type must be CERTIFICATE REQUEST");
    };
    let request = match X509CertificationRequest::from_der(&block.content) {
        Ok(([], request)) => request,
        Ok(_) => return Some("asn1: syntax error: trailing data"),
        Err(_) => return Some("asn1: structure error: not a PKCS#10 certificate request"),
    };
    if pki::csr::verify(&block.content).is_ok() {
        return None;
    }
    // Refused is what is known to be wrong: other signers may know signatures that are not known here (P-521, PSS, short
    // keys). Ours sign nothing that they cannot verify.
    let key = &request.certification_request_info.subject_pki;
    let signature = request.signature_algorithm.algorithm.to_id_string();
    match key.parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() >= 2048 && RSA_WITH_SHA2.contains(&&*signature) => {
            Some("crypto/rsa: verification error")
        }
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => {
            Some("x509: ECDSA verification failure")
        }
        _ if key.algorithm.algorithm.to_id_string() == ED25519 => Some("x509: Ed25519 verification failure"),
        _ => None,
    }
}

/// What is wrong with the certificate of a CertificateSigningRequest's new status.
pub(super) fn certificate_errors(object: &Value) -> ErrorList {
    let text = decoded(object, "/status/certificate");
    if text.is_empty() {
        return ErrorList::new();
    }
    let path = Path::new("status").child("certificate");
    let problem = certificate_problem(&text);
    problem.map(|problem| field::invalid(&path, "<certificate data>", problem)).into_iter().collect()
}

fn certificate_problem(text: &str) -> Option<String> {
    let blocks = blocks(text);
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.headers {
            return Some("no PEM block headers are permitted".to_owned());
        }
        if block.content.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        let mut rest = block.content.as_slice();
        while !rest.is_empty() {
            match X509Certificate::from_der(rest) {
                Ok((after, _)) => rest = after,
                Err(_) => return Some("x509: malformed certificate".to_owned()),
            }
        }
    }
    blocks.is_empty().then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        pki::pem::encode(label, der)
    }

    #[test]
    fn requests_are_signed_by_their_keys() {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let good = request.der().to_vec();
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        let label = "CERTIFICATE REQUEST";
        for (text, wanted) in [
            (pem(label, &good), None),
            (format!("a note\n{}{}", pem(label, &good), pem("OTHER", b"x")), None),
            (String::new(), Some("PEM block type must be CERTIFICATE REQUEST")),
            (pem("CERTIFICATE", &good), Some("PEM block type must be CERTIFICATE REQUEST")),
            (pem(label, b"nothing"), Some("asn1: structure error: not a PKCS#10 certificate request")),
            (pem(label, &[good.as_slice(), b"x"].concat()), Some("asn1: syntax error: trailing data")),
            (pem(label, &forged), Some("x509: ECDSA verification failure")),
        ] {
            assert_eq!(request_problem(&text), wanted, "{text}");
        }
        let object = json!({ "spec": { "request": "eA==" } });
        let errors: Vec<String> = request_errors(&object).iter().map(ToString::to_string).collect();
        let wanted = r#"spec.request: Invalid value: "eA==": PEM block type must be CERTIFICATE REQUEST"#;
        assert_eq!(errors, [wanted]);
    }

    #[test]
    fn certificates_are_issued_and_nothing_else() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        let label = "CERTIFICATE";
        let headers = pem(label, &der).replacen("-----\n", "-----\nA: b\n\n", 1);
        for (text, wanted) in [
            (pem(label, &der).repeat(2), None),
            ("x".to_owned(), Some("must contain at least one CERTIFICATE PEM block")),
            (pem("KEY", b"x"), Some("only CERTIFICATE PEM blocks are allowed, found \"KEY\"")),
            (headers, Some("no PEM block headers are permitted")),
            (pem(label, b"x"), Some("x509: malformed certificate")),
        ] {
            assert_eq!(certificate_problem(&text).as_deref(), wanted, "{text}");
        }
        assert_eq!(certificate_errors(&json!({ "status": {} })), []);
    }
}
