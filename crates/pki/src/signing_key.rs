//! A private key that signs tokens: RSA, or ECDSA on P-256, P-384 or P-521, in any of the forms that files have them.
//!
//! Signatures are those of JSON Web Signatures: RS256, and ES256, ES384 or ES512 by the curve.
//! Upstream: client-go `util/keyutil` (`ParsePrivateKeyPEM`), `pkg/serviceaccount/jwt.go` (`signerFromRSAPrivateKey`, …).
//! Not here: which key signs what, keys of our own certificates (`authority`).

use p521::ecdsa::signature::Signer as _;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};

use crate::public_key::{Curve, Hash, PublicKey, Scheme};
use crate::{Error, pem};

/// A private key that signs.
pub struct SigningKey(Pair);

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, EcdsaKeyPair),
    P521(Box<p521::ecdsa::SigningKey>),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// One value of a DER text: its kind and what it holds.
fn next<'a>(text: &mut &'a [u8]) -> Option<Any<'a>> {
    let (rest, value) = Any::from_der(text).ok()?;
    *text = rest;
    Some(value)
}

fn expect<'a>(text: &mut &'a [u8], tag: Tag) -> Option<&'a [u8]> {
    let value = next(text)?;
    (value.class() == Class::Universal && value.tag() == tag).then_some(value.data)
}

/// The value behind an explicit tag `[number]`, if it comes anywhere in what is left.
fn tagged<'a>(mut text: &'a [u8], number: u32) -> Option<&'a [u8]> {
    while let Some(value) = next(&mut text) {
        if value.class() == Class::ContextSpecific && value.tag().0 == number {
            return Some(value.data);
        }
    }
    None
}

fn curve_of(mut parameters: &[u8]) -> Option<Curve> {
    let value = next(&mut parameters)?;
    let oid = value.as_oid().ok()?;
    Curve::from_oid(&oid.to_id_string())
}

impl SigningKey {
    /// Reads the first private key of a text in PEM: PKCS#8 (`PRIVATE KEY`), PKCS#1 (`RSA PRIVATE KEY`) or SEC 1
    /// (`EC PRIVATE KEY`). Blocks of other kinds are passed over.
    ///
    /// # Errors
    /// A sentence about what is in the way.
    pub fn from_pem(text: &str) -> Result<SigningKey, String> {
        let found = pem::blocks(text).find(|(label, _)| label.ends_with("PRIVATE KEY"));
        let (label, der) = found.ok_or("it holds no private key")?;
        SigningKey::from_block(&label, &der)
    }

    /// Reads a key in PKCS#8 (DER).
    ///
    /// # Errors
    /// A sentence about what is in the way.
    pub fn from_pkcs8(der: &[u8]) -> Result<SigningKey, String> {
        SigningKey::from_block("PRIVATE KEY", der)
    }

    pub(crate) fn from_block(label: &str, der: &[u8]) -> Result<SigningKey, String> {
        match label {
            "RSA PRIVATE KEY" => rsa(RsaKeyPair::from_der(der)),
            "EC PRIVATE KEY" => sec1(der, None, None),
            "PRIVATE KEY" => pkcs8(der),
            "ENCRYPTED PRIVATE KEY" => Err("it is protected by a password".to_owned()),
            other => Err(format!("a block of type {other} is no private key")),
        }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        match &self.0 {
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                PublicKey::rsa(&public.n, &public.e)
            }
            Pair::Ecdsa(curve, pair) => {
                PublicKey::Ec { curve: *curve, point: pair.public_key().as_ref().to_vec() }
            }
            Pair::P521(pair) => {
                let point = p521::ecdsa::VerifyingKey::from(&**pair).to_encoded_point(false);
                PublicKey::Ec { curve: Curve::P521, point: point.as_bytes().to_vec() }
            }
        }
    }

    /// How [`SigningKey::sign`] signs.
    pub fn scheme(&self) -> Scheme {
        match &self.0 {
            Pair::Rsa(_) => Scheme::Pkcs1(Hash::Sha256),
            Pair::Ecdsa(Curve::P384, _) => Scheme::EcdsaFixed(Hash::Sha384),
            Pair::Ecdsa(..) => Scheme::EcdsaFixed(Hash::Sha256),
            Pair::P521(_) => Scheme::EcdsaFixed(Hash::Sha512),
        }
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the system gives no entropy.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                let made = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signed);
                made.map(|()| signed).map_err(|_| Error::Crypto("sign"))
            }
            Pair::Ecdsa(_, pair) => {
                let signed = pair.sign(&random, message).map_err(|_| Error::Crypto("sign"))?;
                Ok(signed.as_ref().to_vec())
            }
            Pair::P521(pair) => {
                let signed: p521::ecdsa::Signature =
                    pair.try_sign(message).map_err(|_| Error::Crypto("sign"))?;
                Ok(signed.to_bytes().to_vec())
            }
        }
    }
}

fn rsa(read: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<SigningKey, String> {
    let pair = read.map_err(|problem| format!("the RSA key cannot be used: {problem}"))?;
    Ok(SigningKey(Pair::Rsa(Box::new(pair))))
}

/// PrivateKeyInfo (RFC 5958).
fn pkcs8(der: &[u8]) -> Result<SigningKey, String> {
    const RSA: &str = "1.2.840.113549.1.1.1";
    const EC: &str = "1.2.840.10045.2.1";
    let malformed = "it is no private key in PKCS#8";
    let parts = || {
        let mut outer = der;
        let mut info = expect(&mut outer, Tag::Sequence)?;
        expect(&mut info, Tag::Integer)?;
        let mut algorithm = expect(&mut info, Tag::Sequence)?;
        let oid = next(&mut algorithm)?.as_oid().ok()?.to_id_string();
        let key = expect(&mut info, Tag::OctetString)?;
        // The public key may stand behind the attributes, as a bit string of whole bytes.
        let public = tagged(info, 1).and_then(|bits| bits.strip_prefix(&[0]));
        Some((oid, algorithm, key, public))
    };
    let (oid, parameters, key, public) = parts().ok_or(malformed)?;
    match oid.as_str() {
        RSA => rsa(RsaKeyPair::from_pkcs8(der)),
        EC => sec1(key, curve_of(parameters), public),
        other => Err(format!("keys of the algorithm {other} do not sign tokens: RSA and ECDSA do")),
    }
}

/// ECPrivateKey (RFC 5915). `curve` and `public` are what is known from around it.
fn sec1(der: &[u8], curve: Option<Curve>, public: Option<&[u8]>) -> Result<SigningKey, String> {
    let parts = || {
        let mut outer = der;
        let mut key = expect(&mut outer, Tag::Sequence)?;
        expect(&mut key, Tag::Integer)?;
        Some((expect(&mut key, Tag::OctetString)?, key))
    };
    let (number, rest) = parts().ok_or("it is no ECDSA private key")?;
    let curve = curve.or_else(|| tagged(rest, 0).and_then(curve_of));
    let curve = curve.ok_or("an ECDSA key must be on the curve P-256, P-384 or P-521")?;
    // Some writers leave leading zeros out.
    let padding =
        curve.size().checked_sub(number.len()).ok_or("its number is longer than its curve allows")?;
    let number = [&vec![0; padding], number].concat();
    let algorithm = match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Curve::P521 => {
            let pair = p521::ecdsa::SigningKey::from_slice(&number);
            let pair = pair.map_err(|_| "the ECDSA key cannot be used")?;
            return Ok(SigningKey(Pair::P521(Box::new(pair))));
        }
    };
    let written = tagged(rest, 1).and_then(|mut bits| expect(&mut bits, Tag::BitString)?.strip_prefix(&[0]));
    let public = written.or(public).ok_or("the ECDSA key lacks its public half; openssl ec writes it")?;
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(algorithm, &number, public, &SystemRandom::new());
    let pair = pair.map_err(|problem| format!("the ECDSA key cannot be used: {problem}"))?;
    Ok(SigningKey(Pair::Ecdsa(curve, pair)))
}

#[cfg(test)]
mod tests;
