//! Whether the certificate that a signer puts into a PodCertificateRequest is the one that was asked for.
//!
//! Reads the request and its status as they are to be stored, and the time. The conditions are judged by the kind's own
//! validation; here is what takes reading X.509.
//! Not here: who may sign (`admission`), the proof that the requester has the key (the signer checks it).
//! Upstream: ValidatePodCertificateRequestStatusUpdate in pkg/apis/certificates/validation.

use api::field::{self, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// How far from now a certificate may begin.
const NEAR: SignedDuration = SignedDuration::from_mins(5);
/// The shortest life of a certificate.
const LEAST: SignedDuration = SignedDuration::from_hours(1);
/// How far from both its ends a certificate may be renewed.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);
/// The most bytes of a chain.
const CHAIN_MAX: usize = 100 * 1024;

/// What is wrong with the status of `new`, if it says that a certificate was issued.
pub(super) fn issuance_errors(new: &Value, old: &Value, now: Timestamp) -> ErrorList {
    let conditions = new.pointer("/status/conditions").and_then(Value::as_array);
    if !conditions.into_iter().flatten().any(|condition| condition["type"] == "Issued") {
        return ErrorList::new();
    }
    certificate(new, old, now).err().unwrap_or_default()
}

fn certificate(new: &Value, old: &Value, now: Timestamp) -> Result<(), ErrorList> {
    let path = Path::new("status").child("certificateChain");
    let chain = new.pointer("/status/certificateChain").and_then(Value::as_str).unwrap_or_default();
    let wrong = |message: &str| vec![field::invalid(&path, chain, message)];
    if chain.len() > CHAIN_MAX {
        return Err(vec![field::too_long(&path, CHAIN_MAX)]);
    }
    let mut blocks = Pem::iter_from_buffer(chain.as_bytes());
    let Some(Ok(leaf)) = blocks.next() else {
        return Err(wrong("issued certificate chain must contain at least one certificate"));
    };
    let only = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
    if leaf.label != "CERTIFICATE" {
        return Err(wrong(only));
    }
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf.contents) else {
        return Err(wrong("leaf certificate does not parse as valid X.509"));
    };

    let request = old.pointer("/spec/stubPKCS10Request").and_then(Value::as_str).unwrap_or_default();
    let request = STANDARD.decode(request).unwrap_or_default();
    let Ok((_, request)) = X509CertificationRequest::from_der(&request) else {
        let path = Path::new("spec").child("stubPKCS10Request");
        return Err(vec![field::invalid(
            &path,
            "<omitted>",
            "must be a valid PKCS#10 certificate signing request",
        )]);
    };
    if request.certification_request_info.subject_pki.raw != leaf.public_key().raw {
        return Err(wrong("leaf certificate was not issued to the requested public key"));
    }
    times(new, &leaf, now)?;
    for block in blocks {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(wrong(only));
        }
        if X509Certificate::from_der(&block.contents).is_err() {
            return Err(wrong("intermediate certificate does not parse as valid X.509"));
        }
    }
    Ok(())
}

/// The status repeats the times of the certificate, and they are within what was asked for.
fn times(new: &Value, leaf: &X509Certificate<'_>, now: Timestamp) -> Result<(), ErrorList> {
    let path = |name: &'static str| Path::new("status").child(name);
    let time = |name: &str| -> Option<Timestamp> { new["status"][name].as_str()?.parse().ok() };
    let consistent = "must be present and consistent with the issued certificate";
    let mut missing = ErrorList::new();
    for (name, message) in [
        ("notBefore", consistent),
        ("notAfter", consistent),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if time(name).is_none() {
            missing.push(field::required(&path(name), message));
        }
    }
    let (Some(before), Some(after), Some(refresh)) =
        (time("notBefore"), time("notAfter"), time("beginRefreshAt"))
    else {
        return Err(missing);
    };
    let wrong = |name: &'static str, message: &str| {
        vec![field::invalid(&path(name), new["status"][name].clone(), message)]
    };
    let validity = leaf.validity();
    if before.as_second() != validity.not_before.timestamp() {
        return Err(wrong("notBefore", "must be set to the NotBefore time encoded in the leaf certificate"));
    }
    if before.duration_since(now).abs() > NEAR {
        return Err(wrong("notBefore", "must be set to within 5 minutes of kube-apiserver's current time"));
    }
    if after.as_second() != validity.not_after.timestamp() {
        return Err(wrong("notAfter", "must be set to the NotAfter time encoded in the leaf certificate"));
    }
    let life = after.duration_since(before);
    let most = new.pointer("/spec/maxExpirationSeconds").and_then(Value::as_i64).unwrap_or_default();
    let life_wrong = |message: String| {
        let path = path("certificateChain");
        vec![field::invalid(&path, format!("{}s", life.as_secs()), message)]
    };
    if life < LEAST {
        return Err(life_wrong("leaf certificate lifetime must be >= 1 hour".to_owned()));
    }
    if life.as_secs() > most {
        return Err(life_wrong(format!(
            "leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})"
        )));
    }
    if refresh.duration_since(before) < MARGIN {
        return Err(wrong("beginRefreshAt", "must be at least 10 minutes after status.notBefore"));
    }
    if after.duration_since(refresh) < MARGIN {
        return Err(wrong("beginRefreshAt", "must be at least 10 minutes before status.notAfter"));
    }
    Ok(())
}
