//! The keys behind tokens: signing (JWS), checking signatures, and telling others the public halves.
//!
//! One key signs; any number of others may have signed before, here or in the cluster that this one takes over from.
//! Upstream: pkg/serviceaccount/{jwt,openidmetadata}.go; RFC 7515, 7517, OpenID Connect Discovery 1.0.
//! Not here: files (`pki` and the settings), what the claims mean (`verify`).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use pki::{PublicKey, SigningKey};
use ring::digest;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Claims, Options, legacy};
use crate::authn::jose;

/// How tokens of ServiceAccounts may be signed.
const ALGORITHMS: &[&str] = &["RS256", "ES256", "ES384", "ES512"];

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
    signing: Arc<SigningKey>,
    /// The key that signs first; each by its id.
    public: Vec<(String, PublicKey)>,
    /// The first is the one that new tokens name.
    issuers: Vec<String>,
    /// Where discovery says that the keys are.
    keys_at: String,
}

impl Keys {
    /// The keys of the options, each once.
    pub fn new(options: &Options) -> Self {
        let mut public: Vec<(String, PublicKey)> = Vec::new();
        for key in std::iter::once(&options.signing_key.public()).chain(&options.former_keys) {
            let id = key_id(key);
            if public.iter().all(|(known, _)| *known != id) {
                public.push((id, key.clone()));
            }
        }
        let issuers = [std::slice::from_ref(&options.issuer), &options.former_issuers].concat();
        let below = || format!("{}/openid/v1/jwks", options.issuer.trim_end_matches('/'));
        let keys_at = options.keys_at.clone().unwrap_or_else(below);
        Self { signing: options.signing_key.clone(), public, issuers, keys_at }
    }

    /// The signed token.
    ///
    /// # Errors
    /// A sentence: the claims are no JSON, or there is no randomness.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, String> {
        let (id, key) = &self.public[0];
        let header = json!({ "alg": jose::algorithm(key), "kid": id });
        let payload = serde_json::to_vec(claims).map_err(|e| e.to_string())?;
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(payload));
        let signature = self.signing.sign(token.as_bytes());
        let signature = signature.map_err(|_| "the token could not be signed".to_owned())?;
        token.push('.');
        token.push_str(&BASE64.encode(signature));
        Ok(token)
    }

    /// What a token of ours says. `Ok(None)`: not a token of these issuers at all.
    ///
    /// # Errors
    /// A token of one of these issuers whose signature or content is not good.
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
        if !legacy && !self.issuers.iter().any(|issuer| body["iss"] == issuer.as_str()) {
            return Ok(None);
        }
        let algorithm = head["alg"].as_str().unwrap_or_default();
        if !ALGORITHMS.contains(&algorithm) {
            return Err("token has an unsupported signature algorithm".to_owned());
        }
        let signature = BASE64.decode(signature).map_err(|_| "the signature is not base64".to_owned())?;
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        // Tokens of old clusters name no key.
        let named = head["kid"].as_str().filter(|id| !id.is_empty());
        let mut keys = self.public.iter().filter(|(id, _)| named.is_none_or(|named| named == id));
        if !keys.any(|(_, key)| jose::verify(key, algorithm, signed, &signature)) {
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
        let mut algorithms: Vec<&str> = self.public.iter().map(|(_, key)| jose::algorithm(key)).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuers[0],
            "jwks_uri": self.keys_at,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// The document at `/openid/v1/jwks` (`application/jwk-set+json`).
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.public.iter().map(|(id, key)| jose::write_key(key, id)).collect();
        json!({ "keys": keys })
    }
}

/// The id by which tokens name their key: the hash of the SubjectPublicKeyInfo.
fn key_id(key: &PublicKey) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, &key.info()))
}
