//! A certificate authority: its key, its certificate, and how it signs.
//! Upstream's forms of the fields: client-go `util/cert`, `pkg/controller/certificates/authority`.
//! Not here: files and renewal (`store`), which certificates there are (`leaf`).

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::{Error, der, pem};

/// How long an authority lives. Ten years, as kubeadm.
pub(crate) const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// How far validity begins before the present, for machines whose clocks differ.
pub(crate) const BACKDATE: SignedDuration = SignedDuration::from_mins(60);

const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10045, 2, 1];
const PRIME256V1: &[u64] = &[1, 2, 840, 10045, 3, 1, 7];
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];

/// An ECDSA P-256 key pair and its PKCS#8 form.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl Key {
    /// A new key from the system's entropy. (Keys are the one place where randomness is never injected.)
    pub(crate) fn generate() -> Result<Self, Error> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| Error::Crypto("generate a key"))?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
            .map_err(|_| Error::Crypto("read the key: it is not an ECDSA P-256 key in PKCS#8"))?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec() })
    }

    pub(crate) fn from_pem(text: &str) -> Result<Self, String> {
        let blocks = pem::decode("PRIVATE KEY", text)?;
        let block = blocks.first().ok_or("it holds no PRIVATE KEY block (PKCS#8)")?;
        Self::from_pkcs8(block).map_err(|_| "it is not an ECDSA P-256 key in PKCS#8".to_owned())
    }

    pub(crate) fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn public_info(&self) -> Vec<u8> {
        let algorithm = der::sequence(&[&der::oid(EC_PUBLIC_KEY), &der::oid(PRIME256V1)]);
        der::sequence(&[&algorithm, &der::bit_string(self.pair.public_key().as_ref())])
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| Error::Crypto("sign"))?;
        Ok(signature.as_ref().to_vec())
    }
}

/// What a certificate may be used for (the extended key usages that Kubernetes knows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS server authentication.
    Server,
    /// TLS client authentication.
    Client,
}

impl Usage {
    fn oid(self) -> Vec<u8> {
        match self {
            Usage::Server => der::oid(&[1, 3, 6, 1, 5, 5, 7, 3, 1]),
            Usage::Client => der::oid(&[1, 3, 6, 1, 5, 5, 7, 3, 2]),
        }
    }
}

/// A signed certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
}

impl Certificate {
    pub(crate) fn from_der(der: Vec<u8>) -> Self {
        Self { der }
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The PEM text of this one certificate.
    pub fn pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }
}

/// The names a certificate carries as alternative names of its subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AlternativeNames {
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
}

/// Everything to be certified about a subject.
pub(crate) struct Request<'a> {
    /// Encoded distinguished name.
    pub(crate) subject: Vec<u8>,
    /// Encoded SubjectPublicKeyInfo.
    pub(crate) public_info: &'a [u8],
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// Named bits of the key usage extension (RFC 5280, 4.2.1.3).
    pub(crate) key_usage: &'a [u8],
    /// Encoded object identifiers of the extended key usages.
    pub(crate) extended: Vec<Vec<u8>>,
    /// Encoded GeneralNames, or empty.
    pub(crate) alternative_names: Vec<u8>,
}

pub(crate) fn extended(usages: &[Usage]) -> Vec<Vec<u8>> {
    usages.iter().map(|usage| usage.oid()).collect()
}

/// A distinguished name: organisations first, then the common name, each in a set of its own.
pub(crate) fn name(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let attribute =
        |oid: &[u64], text: &str| der::set_of_one(&der::sequence(&[&der::oid(oid), &der::utf8(text)]));
    let mut sets: Vec<Vec<u8>> = organizations.iter().map(|o| attribute(ORGANIZATION, o)).collect();
    sets.push(attribute(COMMON_NAME, common_name));
    der::value(0x30, &sets.concat())
}

/// GeneralNames, or nothing where there are no names.
pub(crate) fn general_names(names: &AlternativeNames) -> Vec<u8> {
    let mut out = Vec::new();
    for dns in &names.dns {
        out.extend(der::value(0x82, dns.as_bytes()));
    }
    for ip in &names.ip {
        match ip {
            IpAddr::V4(v4) => out.extend(der::value(0x87, &v4.octets())),
            IpAddr::V6(v6) => out.extend(der::value(0x87, &v6.octets())),
        }
    }
    if out.is_empty() { out } else { der::value(0x30, &out) }
}

/// SHA-256 of a SubjectPublicKeyInfo, cut to the 20 bytes that key identifiers have by custom (RFC 7093).
fn key_identifier(public_info: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, public_info).as_ref()[..20].to_vec()
}

/// A key with the right to sign others.
pub struct Authority {
    key: Key,
    certificate: Certificate,
    subject: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Certifies `key` by itself, from now for ten years.
    pub(crate) fn self_signed(common_name: &str, key: Key, now: Timestamp) -> Result<Self, Error> {
        Self::certify(name(common_name, &[]), key, now - BACKDATE, now + AUTHORITY_LIFE)
    }

    /// The same authority (subject and key) for another ten years: what it has signed stays good, and who trusts the
    /// certificate before trusts what it signs from now on. It begins when it did, so that a clock that was ahead for
    /// a moment does no harm.
    pub(crate) fn renewed(self, now: Timestamp) -> Result<Self, Error> {
        Self::certify(self.subject, self.key, self.not_before, now + AUTHORITY_LIFE)
    }

    /// From when on the certificate should be renewed: four fifths of its life.
    pub(crate) fn renew_at(&self) -> Timestamp {
        self.not_after - self.not_after.duration_since(self.not_before) / 5
    }

    /// Whether this is an authority as [`Authority::self_signed`] makes it, and not somebody else's.
    pub(crate) fn is_own(&self, common_name: &str) -> bool {
        self.subject == name(common_name, &[])
    }

    fn certify(
        subject: Vec<u8>,
        key: Key,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Result<Self, Error> {
        let public_info = key.public_info();
        let request = Request {
            subject: subject.clone(),
            public_info: &public_info,
            not_before,
            not_after,
            // digitalSignature, keyEncipherment, keyCertSign: what client-go gives an authority
            key_usage: &[0, 2, 5],
            extended: Vec::new(),
            alternative_names: Vec::new(),
        };
        let certificate = build(&key, &subject, &key.public_info(), &request, true)?;
        let (not_before, not_after) = (whole_second(request.not_before), whole_second(request.not_after));
        Ok(Self { key, certificate, subject, not_before, not_after })
    }

    /// An authority from its stored certificate and key.
    pub(crate) fn load(certificate: Certificate, key: Key) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der())
            .map_err(|e| format!("it is not an X.509 certificate ({e})"))?;
        if !parsed.is_ca() {
            return Err("it is not the certificate of an authority".to_owned());
        }
        if parsed.public_key().raw != key.public_info() {
            return Err("it does not belong to the key beside it".to_owned());
        }
        let subject = parsed.subject().as_raw().to_vec();
        let (not_before, not_after) = validity(&parsed)?;
        Ok(Self { key, certificate, subject, not_before, not_after })
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// From when the authority is valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when the authority is valid; it certifies nothing beyond.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// `sha256:` and the hexadecimal digest of the public key, by which a joining node knows the authority
    /// (kubeadm's discovery token CA hash).
    pub fn public_key_hash(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.key.public_info());
        let mut out = String::from("sha256:");
        for byte in hash.as_ref() {
            out.push_str(&format!("{byte:02x}"));
        }
        out
    }

    /// The private key's bytes, from which keys of other uses are derived.
    pub(crate) fn secret(&self) -> &[u8] {
        self.key.pkcs8()
    }

    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub(crate) fn key_identifier(&self) -> Vec<u8> {
        key_identifier(&self.key.public_info())
    }

    /// Signs; the end of validity is cut to the authority's own.
    pub(crate) fn sign(&self, mut request: Request<'_>) -> Result<Certificate, Error> {
        request.not_after = request.not_after.min(self.not_after);
        request.not_before = request.not_before.max(self.not_before);
        build(&self.key, &self.subject, &self.key.public_info(), &request, false)
    }
}

/// The validity of a parsed certificate.
pub(crate) fn validity(
    certificate: &x509_parser::certificate::X509Certificate<'_>,
) -> Result<(Timestamp, Timestamp), String> {
    let second = |at: x509_parser::time::ASN1Time| {
        Timestamp::from_second(at.timestamp()).map_err(|_| "its validity is out of range".to_owned())
    };
    let validity = certificate.validity();
    Ok((second(validity.not_before)?, second(validity.not_after)?))
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("a timestamp's second is in the range of timestamps")
}

fn build(
    signer: &Key,
    issuer: &[u8],
    issuer_public_info: &[u8],
    request: &Request<'_>,
    authority: bool,
) -> Result<Certificate, Error> {
    let mut serial = [0u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Crypto("give random bytes"))?;
    serial[0] = serial[0] & 0x7f | 0x40;

    let extension = |arcs: &[u64], critical: bool, content: &[u8]| {
        let critical = if critical { der::TRUE } else { &[] };
        der::sequence(&[&der::oid(arcs), critical, &der::octets(content)])
    };
    let mut extensions = vec![extension(&[2, 5, 29, 15], true, &der::named_bits(request.key_usage))];
    if !request.extended.is_empty() {
        extensions.push(extension(&[2, 5, 29, 37], false, &der::value(0x30, &request.extended.concat())));
    }
    let constraints = if authority { der::sequence(&[der::TRUE]) } else { der::sequence(&[]) };
    extensions.push(extension(&[2, 5, 29, 19], true, &constraints));
    if authority {
        extensions.push(extension(
            &[2, 5, 29, 14],
            false,
            &der::octets(&key_identifier(request.public_info)),
        ));
    } else {
        let identifier = der::value(0x80, &key_identifier(issuer_public_info));
        extensions.push(extension(&[2, 5, 29, 35], false, &der::value(0x30, &identifier)));
    }
    if !request.alternative_names.is_empty() {
        extensions.push(extension(&[2, 5, 29, 17], false, &request.alternative_names));
    }

    let algorithm = der::sequence(&[&der::oid(ECDSA_WITH_SHA256)]);
    let body = der::sequence(&[
        &der::explicit(0, &der::unsigned(&[2])),
        &der::unsigned(&serial),
        &algorithm,
        issuer,
        &der::sequence(&[&der::time(request.not_before), &der::time(request.not_after)]),
        &request.subject,
        request.public_info,
        &der::explicit(3, &der::value(0x30, &extensions.concat())),
    ]);
    let signature = signer.sign(&body)?;
    Ok(Certificate { der: der::sequence(&[&body, &algorithm, &der::bit_string(&signature)]) })
}
