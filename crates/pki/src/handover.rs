//! How a cluster's keys go to a server that joins: proof that it knows the secret, and an answer that only it can read.
//!
//! The asker makes a nonce. From it and the secret of the server token HKDF (SHA-256) derives two keys: one proves, by an
//! HMAC over the nonce, that the asker knows the secret; the other seals the answer (ChaCha20-Poly1305). This happens inside
//! of TLS to a server that the token has proven, so the seal is a second lock: neither alone gives the keys away.
//!
//! Reads and writes `<data-dir>/pki` in [`export`] and [`take_over`]. Not here: the request itself, who may ask how often.

use std::collections::BTreeMap;
use std::path::Path;

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{hkdf, hmac};

use crate::{Error, files};

/// What a server of the same cluster must have; everything else of the folder it makes itself.
pub const FILES: [&str; 7] =
    ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "peer-ca.crt", "peer-ca.key", "sa.key"];

/// Bytes of an asker's nonce.
pub const NONCE: usize = 32;

const PROOF: &[u8] = b"ironclad join 1 proof";
const SEAL: &[u8] = b"ironclad join 1 seal";

/// The keys of one request.
struct Keys {
    proof: hmac::Key,
    seal: LessSafeKey,
}

impl Keys {
    fn derive(secret: &str, nonce: &[u8; NONCE]) -> Result<Self, Error> {
        let refused = |_| Error::Crypto("derive the keys of a request to join");
        let from = hkdf::Salt::new(hkdf::HKDF_SHA256, nonce).extract(secret.as_bytes());
        let proof = from.expand(&[PROOF], hmac::HMAC_SHA256).map_err(refused)?.into();
        let seal: UnboundKey = from.expand(&[SEAL], &aead::CHACHA20_POLY1305).map_err(refused)?.into();
        Ok(Self { proof, seal: LessSafeKey::new(seal) })
    }
}

/// A request to join, as its asker holds it.
pub struct Request {
    nonce: [u8; NONCE],
    keys: Keys,
}

impl Request {
    /// A request by who knows `secret`.
    ///
    /// # Errors
    /// The cryptography library's.
    pub fn new(secret: &str) -> Result<Self, Error> {
        let mut nonce = [0; NONCE];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Crypto("give random bytes"))?;
        Ok(Self { nonce, keys: Keys::derive(secret, &nonce)? })
    }

    /// What makes it this request.
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// Shows that the asker knows the secret.
    pub fn proof(&self) -> Vec<u8> {
        hmac::sign(&self.keys.proof, &self.nonce).as_ref().to_vec()
    }

    /// What was sealed for this request; `None` if it was sealed for another, with another secret, or is damaged.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let length = self.keys.seal.open_in_place(nonce, Aad::from(SEAL), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

/// What can be sealed for an asker who has shown that he knows the secret.
pub struct Sealer(Keys);

/// Whether an asker knows the secret (told in constant time); what to seal the answer with, if so.
pub fn check(secret: &str, nonce: &[u8], proof: &[u8]) -> Option<Sealer> {
    let keys = Keys::derive(secret, nonce.try_into().ok()?).ok()?;
    hmac::verify(&keys.proof, nonce, proof).ok()?;
    Some(Sealer(keys))
}

impl Sealer {
    /// Seals an answer.
    ///
    /// # Errors
    /// The cryptography library's.
    pub fn seal(&self, answer: &[u8]) -> Result<Vec<u8>, Error> {
        // Random, though the key is of one request: who sends a request again must not be given two answers under one.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Crypto("give random bytes"))?;
        let mut body = answer.to_vec();
        self.0
            .seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(SEAL), &mut body)
            .map_err(|_| Error::Crypto("seal an answer"))?;
        Ok([&nonce[..], &body].concat())
    }
}

/// The texts of [`FILES`] in a folder.
///
/// # Errors
/// A file that is missing or cannot be read.
pub fn export(dir: &Path) -> Result<BTreeMap<String, String>, Error> {
    let read = |name: &&str| {
        let path = dir.join(name);
        let missing = || Error::BadFile { path: path.clone(), reason: "it is not there".to_owned() };
        Ok(((*name).to_owned(), files::read(&path)?.ok_or_else(missing)?))
    };
    FILES.iter().map(read).collect()
}

/// Writes files that were handed over to a folder, durably. Keys that are there already must be the same.
///
/// # Errors
/// Files that are missing from what was handed over; keys of another cluster; what cannot be written.
pub fn take_over(dir: &Path, handed: &BTreeMap<String, String>) -> Result<(), Error> {
    if let Some(missing) = FILES.iter().find(|name| !handed.contains_key(**name)) {
        return Err(Error::HandOver(format!("{missing} is missing from it")));
    }
    files::private_dir(dir)?;
    let is_key = |name: &str| name.ends_with(".key");
    for name in FILES.into_iter().filter(|name| is_key(name)) {
        let path = dir.join(name);
        if files::read(&path)?.is_some_and(|known| known.trim() != handed[name].trim()) {
            return Err(Error::OtherKeys { path });
        }
    }
    for name in FILES {
        let mode = if is_key(name) { files::SECRET } else { files::PUBLIC };
        files::replace_durably(&dir.join(name), &handed[name], mode)?;
    }
    files::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_who_knows_the_secret_is_answered_and_only_it_reads_the_answer() {
        let request = Request::new(SECRET).unwrap();
        let (nonce, proof) = (request.nonce(), request.proof());
        let sealed = check(SECRET, nonce, &proof).unwrap().seal(b"keys").unwrap();
        assert_eq!(request.open(&sealed).unwrap(), b"keys");
        assert!(!sealed.windows(4).any(|window| window == b"keys"));
        let again = check(SECRET, nonce, &proof).unwrap().seal(b"keys").unwrap();
        assert_ne!(again, sealed, "an answer is never sealed twice alike");

        let other = Request::new(SECRET).unwrap();
        let stranger = Request::new("another secret of some length").unwrap();
        assert!(other.open(&sealed).is_none(), "it is another request's");
        assert!(stranger.open(&sealed).is_none());
        for (what, nonce, proof) in [
            ("another secret", stranger.nonce(), stranger.proof()),
            ("another's proof", nonce, other.proof()),
            ("another's nonce", other.nonce(), proof.clone()),
            ("no proof", nonce, Vec::new()),
            ("a cut proof", nonce, proof[..31].to_vec()),
            ("a short nonce", &nonce[1..], proof.clone()),
        ] {
            assert!(check(SECRET, nonce, &proof).is_none(), "{what}");
        }
        for place in [0, NONCE_LEN, sealed.len() - 1] {
            let mut damaged = sealed.clone();
            damaged[place] ^= 1;
            assert!(request.open(&damaged).is_none(), "byte {place}");
        }
        assert!(request.open(b"").is_none());
    }

    #[test]
    fn keys_are_taken_over_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let open = |name: &str| {
            let settings = crate::Settings { dir: at(name), ..crate::Settings::default() };
            crate::Pki::open(settings, now).unwrap()
        };
        let first = open("first");
        assert!(
            export(&at("first")).unwrap_err().to_string().contains("peer-ca.crt"),
            "nobody is its peer yet"
        );
        first.credential(crate::Leaf::Peer { member: 1 }, now).unwrap();
        let handed = export(&at("first")).unwrap();
        take_over(&at("second"), &handed).unwrap();
        take_over(&at("second"), &handed).unwrap();
        let mode = std::fs::metadata(at("second/ca.key")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let second = open("second");
        assert_eq!(second.cluster_authority().public_key_hash(), first.cluster_authority().public_key_hash());
        second.credential(crate::Leaf::Peer { member: 2 }, now).unwrap();
        assert_eq!(export(&at("second")).unwrap(), handed, "it made no keys of its own");

        open("third");
        let error = take_over(&at("third"), &handed).unwrap_err().to_string();
        assert!(error.contains("another cluster"), "{error}");
        let mut incomplete = handed;
        incomplete.remove("sa.key");
        assert!(take_over(&at("fourth"), &incomplete).unwrap_err().to_string().contains("sa.key"));
        assert!(!at("fourth").exists());
    }
}
