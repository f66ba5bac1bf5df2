//! Keys that the node makes for its pods, and the bare request by which it shows that it holds one.
//!
//! The request (PKCS#10) names nobody: who asks is said beside it, by the object that carries it. ring makes and uses the
//! keys, but for P-521, which it does not know, and for RSA, whose keys it uses but does not make.
//! Upstream: `generateKeyAndProof` in pkg/kubelet/podcertificate.
//! Not here: the cluster's own keys (`authority`), which certificate the key gets.

use p521::ecdsa::signature::Signer as _;
use p521::elliptic_curve::rand_core::OsRng;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use rsa::pkcs8::EncodePrivateKey as _;

use crate::public_key::{Curve, EC_PUBLIC_KEY, PublicKey};
use crate::{Error, der, pem};

const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const ECDSA_WITH_SHA384: &[u64] = &[1, 2, 840, 10045, 4, 3, 3];
const ECDSA_WITH_SHA512: &[u64] = &[1, 2, 840, 10045, 4, 3, 4];
const SHA256_WITH_RSA: &[u64] = &[1, 2, 840, 113549, 1, 1, 11];
const ED25519: &[u64] = &[1, 3, 101, 112];

/// A type of key that can be made here, under the names that pods use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `ED25519`.
    Ed25519,
    /// `ECDSAP256`.
    EcdsaP256,
    /// `ECDSAP384`.
    EcdsaP384,
    /// `ECDSAP521`.
    EcdsaP521,
    /// `RSA3072`.
    Rsa3072,
    /// `RSA4096`.
    Rsa4096,
}

impl KeyType {
    /// The type of this name; `None` for one that cannot be made here.
    pub fn parse(name: &str) -> Option<KeyType> {
        match name {
            "ED25519" => Some(KeyType::Ed25519),
            "ECDSAP256" => Some(KeyType::EcdsaP256),
            "ECDSAP384" => Some(KeyType::EcdsaP384),
            "ECDSAP521" => Some(KeyType::EcdsaP521),
            "RSA3072" => Some(KeyType::Rsa3072),
            "RSA4096" => Some(KeyType::Rsa4096),
            _ => None,
        }
    }
}

/// A private key for somebody else.
pub struct PrivateKey {
    pkcs8: Vec<u8>,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    P521(Box<p521::ecdsa::SigningKey>),
    Rsa(Box<RsaKeyPair>),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// A new key from the system's entropy. One of RSA takes seconds of a core: not on a thread that others wait for.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the system gives no entropy.
    pub fn generate(kind: KeyType) -> Result<PrivateKey, Error> {
        match kind {
            KeyType::Ed25519 => ed25519(),
            KeyType::EcdsaP256 => ecdsa(Curve::P256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::EcdsaP384 => ecdsa(Curve::P384, &ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::EcdsaP521 => p521(),
            KeyType::Rsa3072 => rsa(3072),
            KeyType::Rsa4096 => rsa(4096),
        }
    }

    /// The key as a `PRIVATE KEY` block (PKCS#8).
    pub fn pem(&self) -> String {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// A certificate request (PKCS#10, DER) with an empty subject and no attributes, signed by the key.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the system gives no entropy.
    pub fn bare_request(&self) -> Result<Vec<u8>, Error> {
        let info = der::sequence(&[
            &der::unsigned(&[0]),
            &der::sequence(&[]),
            &self.public_info(),
            &der::explicit(0, &[]),
        ]);
        let (algorithm, signature) = match &self.pair {
            Pair::Ed25519(pair) => (der::sequence(&[&der::oid(ED25519)]), pair.sign(&info).as_ref().to_vec()),
            Pair::Ecdsa(curve, pair) => {
                let signature = pair.sign(&SystemRandom::new(), &info).map_err(|_| Error::Crypto("sign"))?;
                let algorithm = if *curve == Curve::P384 { ECDSA_WITH_SHA384 } else { ECDSA_WITH_SHA256 };
                (der::sequence(&[&der::oid(algorithm)]), signature.as_ref().to_vec())
            }
            Pair::P521(pair) => {
                let signature: p521::ecdsa::Signature =
                    pair.try_sign(&info).map_err(|_| Error::Crypto("sign"))?;
                (der::sequence(&[&der::oid(ECDSA_WITH_SHA512)]), signature.to_der().as_bytes().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &info, &mut signature)
                    .map_err(|_| Error::Crypto("sign"))?;
                // Of these algorithms it is the one that has parameters: none.
                (der::sequence(&[&der::oid(SHA256_WITH_RSA), der::NULL]), signature)
            }
        };
        Ok(der::sequence(&[&info, &algorithm, &der::bit_string(&signature)]))
    }

    /// SubjectPublicKeyInfo.
    fn public_info(&self) -> Vec<u8> {
        let key = match &self.pair {
            Pair::Ed25519(pair) => PublicKey::Ed25519(pair.public_key().as_ref().to_vec()),
            Pair::Ecdsa(curve, pair) => {
                PublicKey::Ec { curve: *curve, point: pair.public_key().as_ref().to_vec() }
            }
            Pair::P521(pair) => PublicKey::Ec { curve: Curve::P521, point: point(pair) },
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                PublicKey::rsa(&public.n, &public.e)
            }
        };
        key.info()
    }
}

fn ed25519() -> Result<PrivateKey, Error> {
    let mut seed = [0u8; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| Error::Crypto("generate a key"))?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
        .map_err(|_| Error::Crypto("use a seed of its own making"))?;
    // The older form, without the public key: ring's own, which has it, is not read by OpenSSL.
    let algorithm = der::sequence(&[&der::oid(ED25519)]);
    let pkcs8 = der::sequence(&[&der::unsigned(&[0]), &algorithm, &der::octets(&der::octets(&seed))]);
    Ok(PrivateKey { pkcs8, pair: Pair::Ed25519(pair) })
}

fn ecdsa(curve: Curve, algorithm: &'static EcdsaSigningAlgorithm) -> Result<PrivateKey, Error> {
    let random = SystemRandom::new();
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| Error::Crypto("generate a key"))?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random)
        .map_err(|_| Error::Crypto("read a key of its own making"))?;
    Ok(PrivateKey { pkcs8: pkcs8.as_ref().to_vec(), pair: Pair::Ecdsa(curve, pair) })
}

fn p521() -> Result<PrivateKey, Error> {
    let pair = p521::ecdsa::SigningKey::random(&mut OsRng);
    let algorithm = der::sequence(&[&der::oid(EC_PUBLIC_KEY), &der::oid(Curve::P521.oid())]);
    let public = der::explicit(1, &der::bit_string(&point(&pair)));
    let key = der::sequence(&[&der::unsigned(&[1]), &der::octets(&pair.to_bytes()), &public]);
    let pkcs8 = der::sequence(&[&der::unsigned(&[0]), &algorithm, &der::octets(&key)]);
    Ok(PrivateKey { pkcs8, pair: Pair::P521(Box::new(pair)) })
}

fn rsa(bits: usize) -> Result<PrivateKey, Error> {
    let key = rsa::RsaPrivateKey::new(&mut OsRng, bits).map_err(|_| Error::Crypto("generate a key"))?;
    let unreadable = || Error::Crypto("read a key of its own making");
    let pkcs8 = key.to_pkcs8_der().map_err(|_| unreadable())?;
    let pair = RsaKeyPair::from_pkcs8(pkcs8.as_bytes()).map_err(|_| unreadable())?;
    Ok(PrivateKey { pkcs8: pkcs8.as_bytes().to_vec(), pair: Pair::Rsa(Box::new(pair)) })
}

/// The public half, as 4 and two coordinates.
fn point(pair: &p521::ecdsa::SigningKey) -> Vec<u8> {
    p521::ecdsa::VerifyingKey::from(pair).to_encoded_point(false).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_request_shows_who_holds_the_key() {
        // The larger one of RSA takes too long without optimization.
        for name in ["ED25519", "ECDSAP256", "ECDSAP384", "ECDSAP521", "RSA3072"] {
            let key = PrivateKey::generate(KeyType::parse(name).unwrap()).unwrap();
            let mut request = key.bare_request().unwrap();
            crate::csr::verify(&request).unwrap();
            assert!(key.pem().starts_with("-----BEGIN PRIVATE KEY-----\n"), "{name}");
            if name != "ED25519" {
                crate::SigningKey::from_pem(&key.pem()).unwrap();
            }
            let last = request.len() - 1;
            request[last] ^= 1;
            assert!(crate::csr::verify(&request).is_err(), "{name}: a signature of nobody was believed");
        }
        assert_eq!(KeyType::parse("RSA4096"), Some(KeyType::Rsa4096));
        assert_eq!(KeyType::parse("RSA2048"), None);
    }
}
