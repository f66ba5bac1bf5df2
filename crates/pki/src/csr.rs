//! Signs certificate requests (PKCS#10) for keys that others hold: nodes that join, users' certificates.
//!
//! The subject is copied byte for byte, so that every organisation (= group) of it stays, in order.
//! Upstream: `pkg/controller/certificates/authority` (permissive signing with the request's subject and names).
//! Not here: whether a request is to be approved, and which usages a signer allows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::authority::{Authority, Certificate, Request};
use crate::public_key::{Hash, PublicKey, Scheme};
use crate::{Error, der, pem};

/// What the signer decides; all else is the request's.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// What the key may be used for, under the names of the API (`digital signature`, `client auth`, …).
    pub usages: &'a [&'a str],
    /// From when the certificate is valid; cut to the authority's begin.
    pub not_before: Timestamp,
    /// Until when it is valid; cut to the authority's end.
    pub not_after: Timestamp,
}

/// The usages that are bits of the key usage (RFC 5280, 4.2.1.3).
const KEY_USAGES: &[(&str, u8)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// The usages that are extended ones, in the order that a certificate lists them.
const EXTENDED_USAGES: &[(&str, &[u64])] = &[
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113730, 4, 1]),
];

/// The identity that a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name: the user name.
    pub common_name: String,
    /// Organisations: the groups.
    pub organizations: Vec<String>,
    /// DNS names asked for.
    pub dns_names: Vec<String>,
    /// Addresses asked for.
    pub ip_addresses: Vec<IpAddr>,
    /// Mail addresses asked for.
    pub emails: Vec<String>,
    /// URIs asked for.
    pub uris: Vec<String>,
}

/// Reads what a request (PEM) asks for and checks that its sender holds the key.
///
/// # Errors
/// [`Error::BadRequest`] with the reason.
pub fn inspect(request_pem: &str) -> Result<Subject, Error> {
    let der = request_der(request_pem)?;
    let request = parse(&der)?;
    refuse_hidden(&request)?;
    let names = &request.certification_request_info.subject;
    let strings = |attributes: Vec<&str>| attributes.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let organizations = strings(names.iter_organization().filter_map(|value| value.as_str().ok()).collect());
    let common_name =
        names.iter_common_name().filter_map(|value| value.as_str().ok()).last().unwrap_or_default();
    let mut subject = Subject { common_name: common_name.to_owned(), organizations, ..Subject::default() };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().for_each(|name| subject.add(name));
        }
    }
    Ok(subject)
}

impl Subject {
    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => {
                if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                    self.ip_addresses.push(v4.into());
                } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                    self.ip_addresses.push(v6.into());
                }
            }
            GeneralName::RFC822Name(mail) => self.emails.push((*mail).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            _ => {}
        }
    }

    /// Whether a certificate has the same names and addresses beside its subject, in whatever order and however often.
    pub(crate) fn has_names_of(&self, certificate: &X509Certificate<'_>) -> bool {
        let mut found = Subject::default();
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            names.value.general_names.iter().for_each(|name| found.add(name));
        }
        let texts = |names: &[String]| -> BTreeSet<String> { names.iter().cloned().collect() };
        let addresses =
            |subject: &Subject| -> BTreeSet<IpAddr> { subject.ip_addresses.iter().copied().collect() };
        texts(&found.dns_names) == texts(&self.dns_names)
            && texts(&found.emails) == texts(&self.emails)
            && texts(&found.uris) == texts(&self.uris)
            && addresses(&found) == addresses(self)
    }
}

/// Refuses a request with parts that a judgement of its [`Subject`] would not see, but the certificate would have:
/// attributes of the subject that cannot be read or mean something else, other alternative names, and repetitions.
fn refuse_hidden(request: &X509CertificationRequest<'_>) -> Result<(), Error> {
    use x509_parser::cri_attributes::ParsedCriAttribute;
    use x509_parser::oid_registry as oid;
    let known = [
        oid::OID_X509_COMMON_NAME,
        oid::OID_X509_ORGANIZATION_NAME,
        oid::OID_X509_ORGANIZATIONAL_UNIT,
        oid::OID_X509_COUNTRY_NAME,
        oid::OID_X509_STATE_OR_PROVINCE_NAME,
        oid::OID_X509_LOCALITY_NAME,
        oid::OID_X509_STREET_ADDRESS,
        oid::OID_X509_POSTAL_CODE,
        oid::OID_X509_SERIALNUMBER,
    ];
    let refused = |what: String| Err(Error::BadRequest(what));
    let info = &request.certification_request_info;
    for attribute in info.subject.iter_attributes() {
        let named = attribute.attr_type();
        if !known.contains(named) || attribute.as_str().is_err() {
            return refused(format!("the attribute {named} of its subject is not known, or cannot be read"));
        }
    }
    if info.subject.iter_common_name().count() > 1 {
        return refused("its subject has more than one common name".to_owned());
    }
    let requests = info.iter_attributes().filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => Some(request),
        _ => None,
    });
    let extensions: Vec<_> = requests.flat_map(|request| &request.extensions).collect();
    let mut names = extensions.iter().filter(|extension| extension.oid == oid::OID_X509_EXT_SUBJECT_ALT_NAME);
    let Some(first) = names.next() else { return Ok(()) };
    if names.next().is_some() {
        return refused("it asks for alternative names twice".to_owned());
    }
    let ParsedExtension::SubjectAlternativeName(names) = first.parsed_extension() else {
        return refused("its alternative names are malformed".to_owned());
    };
    for name in &names.general_names {
        match name {
            GeneralName::DNSName(_) | GeneralName::RFC822Name(_) | GeneralName::URI(_) => {}
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => {}
            other => {
                return refused(format!("its alternative name {other:?} is of a kind that is not signed"));
            }
        }
    }
    Ok(())
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
/// [`Error::BadRequest`] where the request is malformed or not signed by its own key, or a usage has no meaning.
pub fn sign(authority: &Authority, request_pem: &str, terms: &Terms<'_>) -> Result<Certificate, Error> {
    let (key_usage, extended) = usages(terms.usages)?;
    let der = request_der(request_pem)?;
    let request = parse(&der)?;
    refuse_hidden(&request)?;
    let info = &request.certification_request_info;
    authority.sign(Request {
        subject: info.subject.as_raw().to_vec(),
        public_info: info.subject_pki.raw,
        not_before: terms.not_before,
        not_after: terms.not_after,
        key_usage: &key_usage,
        extended,
        alternative_names: requested_names(info)?,
    })
}

/// Bits of the key usage and encoded extended usages.
fn usages(names: &[&str]) -> Result<(Vec<u8>, Vec<Vec<u8>>), Error> {
    let known = |name: &&&str| {
        KEY_USAGES.iter().any(|(known, _)| known == *name)
            || EXTENDED_USAGES.iter().any(|(known, _)| known == *name)
    };
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(Error::BadRequest(format!("unrecognized usage values: [{unknown:?}]")));
    }
    let mut bits: Vec<u8> =
        KEY_USAGES.iter().filter(|(name, _)| names.contains(name)).map(|(_, bit)| *bit).collect();
    bits.dedup();
    let mut extended: Vec<Vec<u8>> = EXTENDED_USAGES
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(_, oid)| der::oid(oid))
        .collect();
    extended.dedup();
    Ok((bits, extended))
}

fn request_der(request_pem: &str) -> Result<Vec<u8>, Error> {
    pem::decode_only("CERTIFICATE REQUEST", request_pem).map_err(Error::BadRequest)
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, Error> {
    let (_, request) = X509CertificationRequest::from_der(der)
        .map_err(|e| Error::BadRequest(format!("it is not a PKCS#10 request ({e})")))?;
    let scheme = scheme(&request)?;
    let info = &request.certification_request_info;
    let key = PublicKey::of(&info.subject_pki)
        .ok_or_else(|| Error::BadRequest("its key is of a type that is not supported".to_owned()))?;
    if !key.verify(scheme, info.raw, &request.signature_value.data) {
        return Err(Error::BadRequest("it is not signed by the key it asks to certify".to_owned()));
    }
    Ok(request)
}

fn scheme(request: &X509CertificationRequest<'_>) -> Result<Scheme, Error> {
    match request.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" => Ok(Scheme::EcdsaAsn1(Hash::Sha256)),
        "1.2.840.10045.4.3.3" => Ok(Scheme::EcdsaAsn1(Hash::Sha384)),
        "1.2.840.10045.4.3.4" => Ok(Scheme::EcdsaAsn1(Hash::Sha512)),
        "1.2.840.113549.1.1.11" => Ok(Scheme::Pkcs1(Hash::Sha256)),
        "1.2.840.113549.1.1.12" => Ok(Scheme::Pkcs1(Hash::Sha384)),
        "1.2.840.113549.1.1.13" => Ok(Scheme::Pkcs1(Hash::Sha512)),
        "1.3.101.112" => Ok(Scheme::Ed25519),
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
