//! Seals what the servers of a cluster keep in their common store, and nobody else who can read the store may read: by a key
//! that is derived (HKDF with SHA-256) from the authority's own, which all servers have and no other part of the cluster.
//!
//! Pure. Not here: what is sealed and where it is kept.

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{Authority, Error};

const SALT: &[u8] = b"ironclad sealed 1";

fn key(authority: &Authority, purpose: &str) -> Result<LessSafeKey, Error> {
    let refused = |_| Error::Crypto("derive a key of the authority's");
    let from = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(authority.secret());
    let key: UnboundKey =
        from.expand(&[purpose.as_bytes()], &aead::CHACHA20_POLY1305).map_err(refused)?.into();
    Ok(LessSafeKey::new(key))
}

impl Authority {
    /// Seals a text for whoever has this authority's key. `purpose` keeps one use of it apart from others.
    ///
    /// # Errors
    /// The cryptography library's.
    pub fn seal(&self, purpose: &str, text: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::Crypto("give random bytes"))?;
        let mut body = text.to_vec();
        key(self, purpose)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), &mut body)
            .map_err(|_| Error::Crypto("seal a text"))?;
        Ok([&nonce[..], &body].concat())
    }

    /// What was sealed with this authority's key for the same purpose; `None` if it was sealed otherwise, or is damaged.
    pub fn unseal(&self, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let key = key(self, purpose).ok()?;
        let length = key.open_in_place(nonce, Aad::from(purpose), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Key;

    #[test]
    fn only_the_same_key_and_purpose_open_what_was_sealed() {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let authority = || Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
        let ours = authority();
        let sealed = ours.seal("tokens", b"secret").unwrap();
        assert_eq!(ours.unseal("tokens", &sealed).as_deref(), Some(&b"secret"[..]));
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(ours.seal("tokens", b"secret").unwrap(), sealed, "each with a nonce of its own");
        assert!(ours.unseal("other", &sealed).is_none() && authority().unseal("tokens", &sealed).is_none());
        for at in [0, NONCE_LEN, sealed.len() - 1] {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(ours.unseal("tokens", &damaged).is_none(), "byte {at}");
        }
        assert!(ours.unseal("tokens", b"short").is_none());
        // A renewed authority has the same key.
        let later = "2034-11-22T10:00:00Z".parse().unwrap();
        assert!(ours.renewed(later).unwrap().unseal("tokens", &sealed).is_some());
    }
}
