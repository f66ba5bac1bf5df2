//! The keys behind tokens: signing (JWS, ES256), checking signatures, and telling others the public half.
//! Upstream: pkg/serviceaccount/{jwt,openidmetadata}.go; RFC 7515, 7517, OpenID Connect Discovery 1.0.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Claims, Options, legacy};

/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// 0x04 and two coordinates.
const POINT: usize = 65;

/// What a token says whose signature is good.
#[derive(Clone, Debug)]
pub(super) enum Opened {
    /// Bound to objects and to a time.
    Bound(Claims),
    /// Good as long as a Secret holds it.
    Legacy(legacy::Claims),
}

/// The signing key and all keys whose signatures count.
pub struct Keys {
    signing: EcdsaKeyPair,
    signing_id: String,
    /// Points by key id.
    public: HashMap<String, Vec<u8>>,
    issuer: String,
}

impl Keys {
    /// Reads the keys of the options.
    ///
    /// # Errors
    /// A sentence about the key that cannot be used.
    pub fn new(options: &Options) -> Result<Self, String> {
        let random = SystemRandom::new();
        let signing =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &options.signing_key, &random)
                .map_err(|_| {
                    "the ServiceAccount signing key is not an ECDSA P-256 key in PKCS#8".to_owned()
                })?;
        let point = signing.public_key().as_ref().to_vec();
        let signing_id = key_id(&point);
        let mut public = HashMap::from([(signing_id.clone(), point)]);
        for info in &options.former_keys {
            let point = info
                .strip_prefix(&SPKI_PREFIX)
                .filter(|point| point.len() == POINT)
                .ok_or("a former ServiceAccount key is not an ECDSA P-256 public key")?;
            public.insert(key_id(point), point.to_vec());
        }
        Ok(Self { signing, signing_id, public, issuer: options.issuer.clone() })
    }

    /// The signed token.
    ///
    /// # Errors
    /// A sentence: the claims are no JSON, or there is no randomness.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, String> {
        let header = json!({ "alg": "ES256", "kid": self.signing_id });
        let payload = serde_json::to_vec(claims).map_err(|e| e.to_string())?;
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(payload));
        let signature = self
            .signing
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| "the token could not be signed".to_owned())?;
        token.push('.');
        token.push_str(&BASE64.encode(signature.as_ref()));
        Ok(token)
    }

    /// What a token of ours says. `Ok(None)`: not a token of this issuer at all.
    ///
    /// # Errors
    /// A token of this issuer whose signature or content is not good.
    pub(super) fn open(&self, token: &str) -> Result<Option<Opened>, String> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let json = |part: &str| -> Option<Value> { serde_json::from_slice(&BASE64.decode(part).ok()?).ok() };
        let (Some(head), Some(body)) = (json(header), json(payload)) else { return Ok(None) };
        let legacy = body["iss"] == legacy::ISSUER;
        if !legacy && body["iss"] != self.issuer.as_str() {
            return Ok(None);
        }
        if head["alg"] != "ES256" {
            return Err("token has an unsupported signature algorithm".to_owned());
        }
        let signature = BASE64.decode(signature).map_err(|_| "the signature is not base64".to_owned())?;
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let good = |point: &Vec<u8>| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, &signature).is_ok()
        };
        let known = match head["kid"].as_str() {
            Some(id) => self.public.get(id).is_some_and(good),
            None => self.public.values().any(good),
        };
        if !known {
            return Err("no keys found that verify the token's signature".to_owned());
        }
        let read = match legacy {
            true => serde_json::from_value(body).map(Opened::Legacy),
            false => serde_json::from_value(body).map(Opened::Bound),
        };
        read.map(Some).map_err(|e| format!("the token's claims cannot be read: {e}"))
    }

    /// The document at `/.well-known/openid-configuration`.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The document at `/openid/v1/jwks` (`application/jwk-set+json`).
    pub fn jwks(&self) -> Value {
        let mut ids: Vec<&String> = self.public.keys().collect();
        // The key in use first.
        ids.sort_by_key(|id| (**id != self.signing_id, id.as_str()));
        let keys: Vec<Value> = ids
            .into_iter()
            .map(|id| {
                let (x, y) = self.public[id][1..].split_at(POINT / 2);
                json!({
                    "use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
                    "x": BASE64.encode(x), "y": BASE64.encode(y),
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}

/// The id by which tokens name their key: the hash of the SubjectPublicKeyInfo.
fn key_id(point: &[u8]) -> String {
    let info = [&SPKI_PREFIX, point].concat();
    BASE64.encode(digest::digest(&digest::SHA256, &info))
}
