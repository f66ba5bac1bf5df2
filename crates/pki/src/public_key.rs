//! Public keys of others, whatever their type: read, written, and asked whether they made a signature.
//!
//! ring checks all but P-521, which it does not know; that curve is the work of `p521`.
//! Upstream: what Go's `crypto/x509` takes; client-go `util/keyutil` ([`PublicKey::read_all`]).
//! Not here: private keys (`signing_key`), which key is believed.

use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
use ring::digest;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::{der, pem, signing_key::SigningKey};

pub(crate) const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10045, 2, 1];
const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113549, 1, 1, 1];
const ED25519: &[u64] = &[1, 3, 101, 112];

/// An elliptic curve of NIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curve {
    /// P-256 (prime256v1).
    P256,
    /// P-384 (secp384r1).
    P384,
    /// P-521 (secp521r1).
    P521,
}

impl Curve {
    /// All of them.
    pub const ALL: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    /// Its name in a JSON Web Key.
    pub fn name(self) -> &'static str {
        match self {
            Curve::P256 => "P-256",
            Curve::P384 => "P-384",
            Curve::P521 => "P-521",
        }
    }

    /// How many bytes a coordinate has.
    pub fn size(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// The arcs of its object identifier.
    pub(crate) fn oid(self) -> &'static [u64] {
        match self {
            Curve::P256 => &[1, 2, 840, 10045, 3, 1, 7],
            Curve::P384 => &[1, 3, 132, 0, 34],
            Curve::P521 => &[1, 3, 132, 0, 35],
        }
    }

    /// The curve of an object identifier, written with dots.
    pub(crate) fn from_oid(text: &str) -> Option<Curve> {
        Curve::ALL.into_iter().find(|curve| {
            let arcs: Vec<String> = curve.oid().iter().map(u64::to_string).collect();
            arcs.join(".") == text
        })
    }
}

/// What a message is condensed with before it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// How a signature is made and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSA with PKCS#1 v1.5.
    Pkcs1(Hash),
    /// RSA with PSS, whose salt is as long as the hash.
    Pss(Hash),
    /// ECDSA as two numbers of fixed length (JSON Web Signatures).
    EcdsaFixed(Hash),
    /// ECDSA as a DER sequence (certificates and requests).
    EcdsaAsn1(Hash),
    /// Ed25519.
    Ed25519,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: modulus and exponent, big-endian and without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The exponent.
        exponent: Vec<u8>,
    },
    /// A point on a curve: 4 and two coordinates.
    Ec {
        /// The curve.
        curve: Curve,
        /// The point.
        point: Vec<u8>,
    },
    /// Ed25519: 32 bytes.
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// An RSA key; numbers may begin with zeros.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> PublicKey {
        let plain = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
        PublicKey::Rsa { modulus: plain(modulus), exponent: plain(exponent) }
    }

    /// A key on a curve from its coordinates; `None` where they have the wrong length.
    pub fn ec(curve: Curve, x: &[u8], y: &[u8]) -> Option<PublicKey> {
        let fits = x.len() == curve.size() && y.len() == curve.size();
        fits.then(|| PublicKey::Ec { curve, point: [&[4], x, y].concat() })
    }

    /// Reads a SubjectPublicKeyInfo (DER). `None` for what is none, or a type that is not known here.
    pub fn from_info(der: &[u8]) -> Option<PublicKey> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        if !rest.is_empty() { None } else { PublicKey::of(&info) }
    }

    pub(crate) fn of(info: &SubjectPublicKeyInfo<'_>) -> Option<PublicKey> {
        use x509_parser::public_key::PublicKey as Parsed;
        let algorithm = info.algorithm.algorithm.to_id_string();
        let is = |arcs: &[u64]| algorithm == arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
        if is(ED25519) {
            return Some(PublicKey::Ed25519(info.subject_public_key.data.to_vec()));
        }
        match info.parsed().ok()? {
            Parsed::RSA(key) if is(RSA_ENCRYPTION) => Some(PublicKey::rsa(key.modulus, key.exponent)),
            Parsed::EC(point) if is(EC_PUBLIC_KEY) => {
                let curve =
                    Curve::from_oid(&info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string())?;
                let (form, coordinates) = point.data().split_first()?;
                let uncompressed = *form == 4 && coordinates.len() == 2 * curve.size();
                uncompressed.then(|| PublicKey::Ec { curve, point: point.data().to_vec() })
            }
            _ => None,
        }
    }

    /// Every RSA or ECDSA key of a text in PEM: public keys, certificates, and private keys, whose public half is taken.
    /// Blocks that hold none are passed over, as upstream does.
    pub fn read_all(text: &str) -> Vec<PublicKey> {
        let keys = pem::blocks(text).filter_map(|(label, der)| match label.as_str() {
            "PUBLIC KEY" => PublicKey::from_info(&der),
            "CERTIFICATE" => {
                let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
                PublicKey::of(&certificate.tbs_certificate.subject_pki)
            }
            label => SigningKey::from_block(label, &der).ok().map(|key| key.public()),
        });
        keys.filter(|key| !matches!(key, PublicKey::Ed25519(_))).collect()
    }

    /// SubjectPublicKeyInfo (DER).
    pub fn info(&self) -> Vec<u8> {
        let (algorithm, bits) = match self {
            PublicKey::Rsa { modulus, exponent } => {
                let numbers = der::sequence(&[&der::unsigned(modulus), &der::unsigned(exponent)]);
                (der::sequence(&[&der::oid(RSA_ENCRYPTION), der::NULL]), numbers)
            }
            PublicKey::Ec { curve, point } => {
                (der::sequence(&[&der::oid(EC_PUBLIC_KEY), &der::oid(curve.oid())]), point.clone())
            }
            PublicKey::Ed25519(key) => (der::sequence(&[&der::oid(ED25519)]), key.clone()),
        };
        der::sequence(&[&algorithm, &der::bit_string(&bits)])
    }

    /// Whether the holder of the private half has signed the message in this way.
    pub fn verify(&self, scheme: Scheme, message: &[u8], signed: &[u8]) -> bool {
        let ring = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signed).is_ok()
        };
        match (self, scheme) {
            (PublicKey::Rsa { modulus, exponent }, Scheme::Pkcs1(hash)) => {
                let algorithm = match hash {
                    Hash::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Hash::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Hash::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(algorithm, message, signed).is_ok()
            }
            (PublicKey::Rsa { modulus, exponent }, Scheme::Pss(hash)) => {
                let algorithm = match hash {
                    Hash::Sha256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Hash::Sha384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Hash::Sha512 => &signature::RSA_PSS_2048_8192_SHA512,
                };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(algorithm, message, signed).is_ok()
            }
            (PublicKey::Ec { curve: Curve::P521, point }, Scheme::EcdsaFixed(hash)) => {
                p521::ecdsa::Signature::from_slice(signed)
                    .is_ok_and(|signature| verify_p521(point, hash, message, &signature))
            }
            (PublicKey::Ec { curve: Curve::P521, point }, Scheme::EcdsaAsn1(hash)) => {
                p521::ecdsa::Signature::from_der(signed)
                    .is_ok_and(|signature| verify_p521(point, hash, message, &signature))
            }
            (PublicKey::Ec { curve, point }, Scheme::EcdsaFixed(hash)) => match (curve, hash) {
                (Curve::P256, Hash::Sha256) => ring(&signature::ECDSA_P256_SHA256_FIXED, point),
                (Curve::P384, Hash::Sha384) => ring(&signature::ECDSA_P384_SHA384_FIXED, point),
                _ => false,
            },
            (PublicKey::Ec { curve, point }, Scheme::EcdsaAsn1(hash)) => match (curve, hash) {
                (Curve::P256, Hash::Sha256) => ring(&signature::ECDSA_P256_SHA256_ASN1, point),
                (Curve::P256, Hash::Sha384) => ring(&signature::ECDSA_P256_SHA384_ASN1, point),
                (Curve::P384, Hash::Sha256) => ring(&signature::ECDSA_P384_SHA256_ASN1, point),
                (Curve::P384, Hash::Sha384) => ring(&signature::ECDSA_P384_SHA384_ASN1, point),
                _ => false,
            },
            (PublicKey::Ed25519(key), Scheme::Ed25519) => ring(&signature::ED25519, key),
            _ => false,
        }
    }
}

fn verify_p521(point: &[u8], hash: Hash, message: &[u8], signature: &p521::ecdsa::Signature) -> bool {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    let condensed = digest::digest(algorithm, message);
    let Ok(key) = p521::ecdsa::VerifyingKey::from_sec1_bytes(point) else { return false };
    key.verify_prehash(condensed.as_ref(), signature).is_ok()
}

#[cfg(test)]
mod tests;
