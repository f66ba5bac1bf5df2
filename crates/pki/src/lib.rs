//! The cluster's public key infrastructure: made at the first start, kept in `<data-dir>/pki`, renewed in
//! place before it expires.
//!
//! Read first: [`Pki`] (open or make everything; hand out credentials), [`Leaf`] (the table of the
//! certificates we issue ourselves), [`Credential`] (one certificate with its key, in the forms that TLS and
//! kubeconfigs want), [`csr::sign`] (certificates for keys that others hold), [`PrivateKey`] (a key made for a pod),
//! [`PublicKey`] (anybody's, and whether it made a signature), [`SigningKey`] (what signs tokens) and [`Token`] (by which
//! machines join, kept beside the folder).
//!
//! Layout, under the names kubeadm gives them: `ca.{crt,key}`, `front-proxy-ca.{crt,key}`, `sa.{key,pub}`, and
//! a `.crt`/`.key` pair for each leaf that somebody asked for. Servers that keep the store together also have
//! `peer-ca.{crt,key}`: whoever the cluster's authority signs for must not become a member. [`handover`] is how a server
//! that joins gets these keys; `sealed` keeps what they share in their store from others. All keys that are made here are
//! ECDSA P-256 in PKCS#8; `sa.key` may also be another that was brought along. Directories are 0700, keys 0600. Nothing is
//! generated before it is asked for, so that a start costs a handful of keys.
//!
//! To add a certificate: a variant in [`Leaf`] and its row in `Leaf::profile`.
//!
//! Not here: who checks a certificate (rustls and the API server's `authn`), when to renew (the caller sets
//! its timer by [`Pki::next_renewal`] and calls [`Pki::renew_due`]), the policy on whose requests are signed
//! (the certificate controllers).

mod authority;
pub mod csr;
mod der;
mod files;
pub mod handover;
mod key;
pub mod kubeconfig;
mod leaf;
pub mod pem;
mod public_key;
mod requested;
mod sealed;
mod signing_key;
mod store;
pub mod token;

pub use authority::{Authority, Certificate, Usage};
pub use key::{KeyType, PrivateKey};
pub use leaf::{Credential, KUBELET_CLIENT_NAME, Leaf, PEER_NAME};
pub use public_key::{Curve, Hash, PublicKey, Scheme};
pub use requested::{Requested, private_dir, write_private, write_public};
pub use signing_key::SigningKey;
pub use store::{Pki, ServiceAccountKey, Settings};
pub use token::{Token, Tokens};

use std::path::PathBuf;

/// What can go wrong with the keys and certificates; each message is one sentence that says what to do or what
/// is in the way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried, as a verb ("read", "write", "create").
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what its name promises.
    #[error(
        "{path} is not usable: {reason}; restore it from a backup, or remove it with its certificate to have a new one made",
        path = path.display()
    )]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An authority's certificate exists without its key, so nothing can be signed with it.
    #[error(
        "{certificate} exists but {key} does not: nothing can be signed without it; restore the key, or remove the whole folder to begin a new cluster identity",
        certificate = certificate.display(), key = key.display()
    )]
    MissingKey {
        /// The certificate that is there.
        certificate: PathBuf,
        /// The key that is not.
        key: PathBuf,
    },
    /// The clock lies before the moment an authority was made.
    #[error(
        "the clock says {now}, but the certificate authority {path} is valid only from {from}: set the clock",
        path = path.display()
    )]
    ClockTooEarly {
        /// The authority's certificate.
        path: PathBuf,
        /// The time that was given.
        now: jiff::Timestamp,
        /// The start of validity.
        from: jiff::Timestamp,
    },
    /// An authority is past its end; leaves can no longer be issued under it.
    #[error("the certificate authority {path} expired at {until}: the clock says {now}", path = path.display())]
    AuthorityExpired {
        /// The authority's certificate.
        path: PathBuf,
        /// The time that was given.
        now: jiff::Timestamp,
        /// The end of validity.
        until: jiff::Timestamp,
    },
    /// A certificate that was asked for and cannot be used.
    #[error("the certificate that was issued cannot be used: {0}")]
    BadCertificate(String),
    /// A signing request that is not to be signed as it stands.
    #[error("the certificate signing request is not acceptable: {0}")]
    BadRequest(String),
    /// What another server has handed over is not whole.
    #[error("what the cluster's server has handed over cannot be used: {0}")]
    HandOver(String),
    /// The folder has keys already, and they are others than the cluster's.
    #[error(
        "{path} is a key of another cluster: join with an empty data directory",
        path = path.display()
    )]
    OtherKeys {
        /// The key that is there.
        path: PathBuf,
    },
    /// A token that was given cannot be the cluster's.
    #[error("the token cannot be used: {0}")]
    Token(String),
    /// The cryptography library refused (no entropy, a malformed key).
    #[error("the cryptography library refused to {0}")]
    Crypto(&'static str),
}
