//! One resource's providers: the first writes, all of them read.
//!
//! Upstream: apiserver/pkg/storage/value/transformer.go (prefixTransformers).

use std::sync::Arc;

use super::ciphers::Key;
use super::kms::Kms;

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// What is said of a value that no provider has written.
const NO_PREFIX: &str = "no matching prefix found";

/// Why a value cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The value, with the keys there are.
    #[error("{0}")]
    Value(String),
    /// The plugin that keeps its key gives no answer; the next value would wait for it as long.
    #[error("{0}")]
    Plugin(String),
}

impl From<String> for Error {
    fn from(problem: String) -> Self {
        Self::Value(problem)
    }
}

impl From<&str> for Error {
    fn from(problem: &str) -> Self {
        Self::Value(problem.to_owned())
    }
}

/// One way to keep a value.
pub enum Provider {
    /// As it is.
    Identity,
    /// With a key out of the configuration.
    Key(Key),
    /// With keys that a plugin keeps.
    Kms(Arc<Kms>),
}

/// The providers of a resource.
pub struct Transformer {
    providers: Vec<Provider>,
}

/// A stored value, readable.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is kept as it is.
    AsStored,
    /// It was encrypted.
    Decrypted(Vec<u8>),
}

impl Transformer {
    pub(super) fn new(providers: Vec<Provider>) -> Self {
        Self { providers }
    }

    /// The plugins among them.
    pub(super) fn plugins(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.providers.iter().filter_map(|provider| match provider {
            Provider::Kms(kms) => Some(kms),
            Provider::Identity | Provider::Key(_) => None,
        })
    }

    /// Whether new values are encrypted.
    pub fn encrypts(&self) -> bool {
        !matches!(self.providers.first(), None | Some(Provider::Identity))
    }

    /// What is to be stored for `plain` at the store's key `place`.
    ///
    /// # Errors
    /// A sentence about why it cannot be encrypted.
    pub async fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, String> {
        match self.providers.first() {
            None | Some(Provider::Identity) => Ok(plain.to_vec()),
            Some(Provider::Key(key)) => Ok([key.prefix().as_bytes(), &key.seal(plain, place)?].concat()),
            Some(Provider::Kms(kms)) => {
                Ok([kms.prefix().as_bytes(), &kms.seal(plain, place).await?].concat())
            }
        }
    }

    /// Whether what is stored at the store's key `place` is kept as the first provider keeps it today.
    pub async fn is_current(&self, stored: &[u8], place: &[u8]) -> bool {
        match self.providers.first() {
            None | Some(Provider::Identity) => !stored.starts_with(ENCRYPTED),
            // Two keys may have one name while they are rotated: only opening it tells them apart.
            Some(Provider::Key(key)) => stored
                .strip_prefix(key.prefix().as_bytes())
                .is_some_and(|sealed| key.open(sealed, place).is_ok()),
            Some(Provider::Kms(kms)) => match stored.strip_prefix(kms.prefix().as_bytes()) {
                Some(sealed) => kms.is_current(sealed).await,
                None => false,
            },
        }
    }

    /// Reads what is stored at the store's key `place`.
    ///
    /// # Errors
    /// Why none of the providers can.
    pub async fn open(&self, stored: &[u8], place: &[u8]) -> Result<Opened, Error> {
        if !stored.starts_with(ENCRYPTED) {
            let plain = self.providers.iter().any(|provider| matches!(provider, Provider::Identity));
            return if plain { Ok(Opened::AsStored) } else { Err(NO_PREFIX.into()) };
        }
        let mut refused = Error::from(NO_PREFIX);
        for provider in &self.providers {
            let opened = match provider {
                Provider::Identity => continue,
                Provider::Key(key) => match stored.strip_prefix(key.prefix().as_bytes()) {
                    Some(sealed) => key.open(sealed, place).map_err(Error::from),
                    None => continue,
                },
                Provider::Kms(kms) => match stored.strip_prefix(kms.prefix().as_bytes()) {
                    Some(sealed) => kms.open(sealed, place).await,
                    None => continue,
                },
            };
            // Two keys may have one name while they are rotated.
            match opened {
                Ok(plain) => return Ok(Opened::Decrypted(plain)),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}
