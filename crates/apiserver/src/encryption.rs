//! Encryption at rest: what the store holds of chosen resources is unreadable without a key.
//!
//! [`configuration`] reads an EncryptionConfiguration; [`transformer`] turns an object into what is stored and
//! back, by the [`ciphers`] with local keys or by a [`kms`] plugin; [`EncryptedStore`] does so for everything
//! that passes to and from another store. The rest of the server sees plain objects.
//!
//! The first provider of a resource writes, every one of them reads: so keys are rotated by adding a new first
//! one, restarting or reloading, and writing every object once more. What is stored begins with upstream's
//! prefixes (`k8s:enc:aesgcm:v1:key1:`) and is bound to its key in the store, so that nobody who can write
//! the store can put one object's secret in another's place.
//! Upstream: apiserver/pkg/storage/value/encrypt, apiserver/pkg/server/options/encryptionconfig.

pub mod ciphers;
pub mod configuration;
mod kms;
mod store;
pub mod transformer;

pub use configuration::{Configuration, Error};
pub use store::EncryptedStore;
