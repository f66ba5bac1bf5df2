//! ServiceAccount tokens: signed claims about an account, bound to objects that must still be there.
//!
//! Read first: [`Options`], [`Issuer`] (serves `serviceaccounts/token`), [`Verifier`] (an authenticator),
//! [`Keys`] (also describes the public keys to others: discovery and JWKS). Tokens that stand in Secrets are [`legacy`].
//! Not here: where the token goes (the kubelet), the key on disk (`pki`).
//! Upstream: pkg/serviceaccount, pkg/registry/core/serviceaccount/storage/token.go.

mod bound;
mod claims;
mod issue;
mod keys;
pub mod legacy;
mod verify;

pub use claims::{Claims, Private, Reference};
pub use issue::Issuer;
pub use keys::Keys;
pub use verify::Verifier;

use std::sync::Arc;
use std::time::Duration;

use pki::{PublicKey, SigningKey};

/// How tokens are made and judged.
#[derive(Clone)]
pub struct Options {
    /// The `iss` claim of new tokens, an https URL; also where discovery says the keys are.
    pub issuer: String,
    /// Other issuers whose tokens are still good.
    pub former_issuers: Vec<String>,
    /// Where discovery says the keys are; `None`: below the issuer.
    pub keys_at: Option<String>,
    /// The audiences that mean this API server. The first ones are given to tokens that ask for none.
    pub audiences: Vec<String>,
    /// The private key: RSA, or ECDSA on P-256, P-384 or P-521.
    pub signing_key: Arc<SigningKey>,
    /// Public keys of former signing keys: their tokens are still good.
    pub former_keys: Vec<PublicKey>,
    /// The longest life of a token; longer ones are cut, with a warning.
    pub max_expiration: Option<Duration>,
    /// Give the tokens that pods get by themselves a year instead of an hour, for clients that do not read the
    /// file again. As upstream, on.
    pub extend_expiration: bool,
}

impl Options {
    /// Settings for an issuer with one key.
    pub fn new(issuer: impl Into<String>, signing_key: Arc<SigningKey>) -> Self {
        let issuer = issuer.into();
        Self {
            audiences: vec![issuer.clone()],
            issuer,
            former_issuers: Vec::new(),
            keys_at: None,
            signing_key,
            former_keys: Vec::new(),
            max_expiration: None,
            extend_expiration: true,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

/// The user name of a ServiceAccount.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of every ServiceAccount of a namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

#[cfg(test)]
mod tests;
