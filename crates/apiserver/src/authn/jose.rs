//! JSON Web Signatures and Keys: the names by which tokens and key sets speak of algorithms, curves and keys.
//!
//! What providers sign (`oidc`) and what this server signs itself (`token`) is checked here alike.
//! Upstream: github.com/go-jose/go-jose; RFC 7515, 7517, 7518.
//! Not here: the mathematics (`pki`), which key is believed, what a token says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use pki::{Curve, Hash, PublicKey, Scheme};
use serde_json::{Value, json};

/// How an algorithm signs; `None` for one that is not known, or needs a shared secret, or is none.
fn scheme(algorithm: &str) -> Option<Scheme> {
    Some(match algorithm {
        "RS256" => Scheme::Pkcs1(Hash::Sha256),
        "RS384" => Scheme::Pkcs1(Hash::Sha384),
        "RS512" => Scheme::Pkcs1(Hash::Sha512),
        "PS256" => Scheme::Pss(Hash::Sha256),
        "PS384" => Scheme::Pss(Hash::Sha384),
        "PS512" => Scheme::Pss(Hash::Sha512),
        "ES256" => Scheme::EcdsaFixed(Hash::Sha256),
        "ES384" => Scheme::EcdsaFixed(Hash::Sha384),
        "ES512" => Scheme::EcdsaFixed(Hash::Sha512),
        _ => return None,
    })
}

/// Whether the holder of the key has signed the message by this algorithm.
pub(super) fn verify(key: &PublicKey, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
    // An algorithm for curves names one of them.
    let fits = match key {
        PublicKey::Ec { curve, .. } => of_curve(*curve) == algorithm,
        _ => true,
    };
    fits && scheme(algorithm).is_some_and(|scheme| key.verify(scheme, message, signature))
}

fn of_curve(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "ES256",
        Curve::P384 => "ES384",
        Curve::P521 => "ES512",
    }
}

/// The algorithm by which this server signs with a key of this type.
pub(super) fn algorithm(key: &PublicKey) -> &'static str {
    match key {
        PublicKey::Ec { curve, .. } => of_curve(*curve),
        PublicKey::Rsa { .. } => "RS256",
        PublicKey::Ed25519(_) => "EdDSA",
    }
}

/// The key in a JSON Web Key; `None` for what is none, or a type that is not known here.
pub(super) fn read_key(key: &Value) -> Option<PublicKey> {
    let part = |name: &str| BASE64.decode(key[name].as_str()?).ok();
    match key["kty"].as_str()? {
        "RSA" => Some(PublicKey::rsa(&part("n")?, &part("e")?)),
        "EC" => {
            let curve = Curve::ALL.into_iter().find(|curve| key["crv"] == curve.name())?;
            PublicKey::ec(curve, &part("x")?, &part("y")?)
        }
        _ => None,
    }
}

/// A key as a JSON Web Key.
pub(super) fn write_key(key: &PublicKey, id: &str) -> Value {
    let mut out = json!({ "use": "sig", "kid": id, "alg": algorithm(key) });
    match key {
        PublicKey::Rsa { modulus, exponent } => {
            out["kty"] = "RSA".into();
            out["n"] = BASE64.encode(modulus).into();
            out["e"] = BASE64.encode(exponent).into();
        }
        PublicKey::Ec { curve, point } => {
            let (x, y) = point[1..].split_at(curve.size());
            out["kty"] = "EC".into();
            out["crv"] = curve.name().into();
            out["x"] = BASE64.encode(x).into();
            out["y"] = BASE64.encode(y).into();
        }
        PublicKey::Ed25519(key) => {
            out["kty"] = "OKP".into();
            out["crv"] = "Ed25519".into();
            out["x"] = BASE64.encode(key).into();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use pki::SigningKey;

    use super::*;

    #[test]
    fn every_kind_of_key_goes_through_a_key_set_and_verifies_what_it_signed() {
        let files = [
            (include_str!("../../../pki/src/signing_key/testdata/rsa.pem"), "RS256"),
            (include_str!("../../../pki/src/signing_key/testdata/p256.pem"), "ES256"),
            (include_str!("../../../pki/src/signing_key/testdata/p384.pem"), "ES384"),
            (include_str!("../../../pki/src/signing_key/testdata/p521.pem"), "ES512"),
        ];
        for (pem, name) in files {
            let key = SigningKey::from_pem(pem).unwrap();
            let public = key.public();
            assert_eq!(algorithm(&public), name);
            let read = read_key(&write_key(&public, "id")).unwrap();
            assert_eq!(read, public);
            let signed = key.sign(b"said").unwrap();
            assert!(verify(&read, name, b"said", &signed), "{name}");
            for other in ["", "none", "HS256", "RS384", "PS256", "ES256", "ES384", "ES512"] {
                assert_eq!(verify(&read, other, b"said", &signed), other == name, "{name} as {other}");
            }
        }
    }

    #[test]
    fn probabilistic_signatures_are_checked() {
        let key = include_str!("../../../pki/src/signing_key/testdata/rsa.pub");
        let key = &PublicKey::read_all(key)[0];
        let signed = include_bytes!("../../../pki/src/signing_key/testdata/rsa-pss.signature");
        assert!(verify(key, "PS256", b"said", signed) && !verify(key, "PS512", b"said", signed));
    }

    #[test]
    fn what_is_no_key_is_none() {
        for key in [
            json!({}),
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "RSA", "n": "AAAA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"}),
        ] {
            assert_eq!(read_key(&key), None, "{key}");
        }
    }
}
