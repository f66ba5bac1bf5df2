//! Signs certificate requests (PKCS#10) for keys that others hold: nodes that join, users' certificates.
//!
//! The subject is copied byte for byte, so that every organisation (= group) of it stays, in order.
//! Upstream: `pkg/controller/certificates/authority` (permissive signing with the request's subject and names).
//! Not here: whether a request is to be approved, and which usages a signer allows.

use jiff::{SignedDuration, Timestamp};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use crate::authority::{self, Authority, Certificate, Request};
use crate::{Error, Usage, pem};

/// What the signer decides; all else is the request's.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// Extended key usages to certify.
    pub usages: &'a [Usage],
    /// Whether `key encipherment` is among the usages (meaningful for RSA keys only).
    pub key_encipherment: bool,
    /// How long the certificate is to be valid, from now; cut to the authority's end.
    pub life: SignedDuration,
}

/// The identity that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Common name: the user name.
    pub common_name: String,
    /// Organisations: the groups.
    pub organizations: Vec<String>,
    /// DNS names asked for.
    pub dns_names: Vec<String>,
    /// Addresses asked for.
    pub ip_addresses: Vec<std::net::IpAddr>,
}

/// Reads what a request (PEM) asks for and checks that its sender holds the key.
///
/// # Errors
/// [`Error::BadRequest`] with the reason.
pub fn inspect(request_pem: &str) -> Result<Subject, Error> {
    let der = request_der(request_pem)?;
    let request = parse(&der)?;
    let names = &request.certification_request_info.subject;
    let strings = |attributes: Vec<&str>| attributes.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let organizations = strings(names.iter_organization().filter_map(|value| value.as_str().ok()).collect());
    let common_name =
        names.iter_common_name().filter_map(|value| value.as_str().ok()).last().unwrap_or_default();
    let mut subject = Subject {
        common_name: common_name.to_owned(),
        organizations,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                match name {
                    x509_parser::extensions::GeneralName::DNSName(dns) => {
                        subject.dns_names.push((*dns).to_owned());
                    }
                    x509_parser::extensions::GeneralName::IPAddress(bytes) => {
                        if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                            subject.ip_addresses.push(v4.into());
                        } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                            subject.ip_addresses.push(v6.into());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(subject)
}

/// Checks that a request (DER) is signed by the key that it asks to certify.
///
/// # Errors
/// [`Error::BadRequest`] with the reason.
pub fn verify(der: &[u8]) -> Result<(), Error> {
    parse(der).map(drop)
}

/// Signs a request (PEM).
///
/// # Errors
/// [`Error::BadRequest`] where the request is malformed or not signed by its own key.
pub fn sign(
    authority: &Authority,
    request_pem: &str,
    terms: &Terms<'_>,
    now: Timestamp,
) -> Result<Certificate, Error> {
    let der = request_der(request_pem)?;
    let request = parse(&der)?;
    let info = &request.certification_request_info;
    authority.sign(Request {
        subject: info.subject.as_raw().to_vec(),
        public_info: info.subject_pki.raw,
        not_before: now - authority::BACKDATE,
        not_after: now + terms.life,
        key_usage: if terms.key_encipherment { &[0, 2] } else { &[0] },
        extended: authority::extended(terms.usages),
        alternative_names: requested_names(info)?,
    })
}

fn request_der(request_pem: &str) -> Result<Vec<u8>, Error> {
    let blocks = pem::decode("CERTIFICATE REQUEST", request_pem).map_err(Error::BadRequest)?;
    blocks
        .into_iter()
        .next()
        .ok_or_else(|| Error::BadRequest("PEM block type must be CERTIFICATE REQUEST".into()))
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, Error> {
    let (_, request) = X509CertificationRequest::from_der(der)
        .map_err(|e| Error::BadRequest(format!("it is not a PKCS#10 request ({e})")))?;
    let algorithm = verification(&request)?;
    let info = &request.certification_request_info;
    UnparsedPublicKey::new(algorithm, info.subject_pki.subject_public_key.data.as_ref())
        .verify(info.raw, request.signature_value.data.as_ref())
        .map_err(|_| Error::BadRequest("it is not signed by the key it asks to certify".to_owned()))?;
    Ok(request)
}

fn verification(request: &X509CertificationRequest<'_>) -> Result<&'static dyn VerificationAlgorithm, Error> {
    const P384: &str = "1.3.132.0.34";
    let parameters = &request.certification_request_info.subject_pki.algorithm.parameters;
    let curve = parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok())
        .map(|oid| oid.to_id_string())
        .unwrap_or_default();
    match request.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" if curve == P384 => Ok(&signature::ECDSA_P384_SHA256_ASN1),
        "1.2.840.10045.4.3.2" => Ok(&signature::ECDSA_P256_SHA256_ASN1),
        "1.2.840.10045.4.3.3" if curve == P384 => Ok(&signature::ECDSA_P384_SHA384_ASN1),
        "1.2.840.10045.4.3.3" => Ok(&signature::ECDSA_P256_SHA384_ASN1),
        "1.2.840.113549.1.1.11" => Ok(&signature::RSA_PKCS1_2048_8192_SHA256),
        "1.2.840.113549.1.1.12" => Ok(&signature::RSA_PKCS1_2048_8192_SHA384),
        "1.2.840.113549.1.1.13" => Ok(&signature::RSA_PKCS1_2048_8192_SHA512),
        "1.3.101.112" => Ok(&signature::ED25519),
        other => Err(Error::BadRequest(format!("its signature algorithm {other} is not supported"))),
    }
}

/// The encoded GeneralNames of the request's extension request attribute, as they stand.
fn requested_names(
    info: &x509_parser::certification_request::X509CertificationRequestInfo<'_>,
) -> Result<Vec<u8>, Error> {
    for attribute in info.iter_attributes() {
        if let x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(request) =
            attribute.parsed_attribute()
        {
            for extension in &request.extensions {
                if extension.oid == x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME {
                    if let ParsedExtension::ParseError { error } = extension.parsed_extension() {
                        return Err(Error::BadRequest(format!(
                            "its alternative names are malformed ({error})"
                        )));
                    }
                    return Ok(extension.value.to_vec());
                }
            }
        }
    }
    Ok(Vec::new())
}
