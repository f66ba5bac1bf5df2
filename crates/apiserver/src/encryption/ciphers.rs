//! The ciphers with keys out of the configuration: AES-GCM, AES-CBC and secretbox, in upstream's form.
//!
//! AES-GCM: nonce (12), ciphertext, tag, bound to the key in the store. AES-CBC: IV (16), ciphertext with PKCS#7
//! padding, bound to nothing. secretbox: nonce (24), XSalsa20-Poly1305.
//! Upstream: apiserver/pkg/storage/value/encrypt/{aes,secretbox}.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// A cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// `aesgcm`
    AesGcm,
    /// `aescbc`
    AesCbc,
    /// `secretbox`
    SecretBox,
}

/// A key of one of them.
pub struct Key {
    /// What it is a key of.
    pub cipher: Cipher,
    /// Its name, which is stored with what it encrypts.
    pub name: String,
    /// The key itself, of a length that the cipher takes.
    pub secret: Vec<u8>,
}

const GCM_NONCE: usize = 12;
const CBC_IV: usize = 16;
const BOX_NONCE: usize = 24;

/// The system gave no random bytes, or a key has the wrong length: nothing can be encrypted.
const UNUSABLE: &str = "the cipher cannot be used";
/// The bytes were not encrypted with this key, for this place in the store.
const REFUSED: &str = "the data cannot be decrypted with this key";

impl Key {
    /// What stored values begin with.
    pub fn prefix(&self) -> String {
        let cipher = match self.cipher {
            Cipher::AesGcm => "aesgcm",
            Cipher::AesCbc => "aescbc",
            Cipher::SecretBox => "secretbox",
        };
        format!("k8s:enc:{cipher}:v1:{}:", self.name)
    }

    /// Encrypts `plain` for the store's key `place`.
    ///
    /// # Errors
    /// No randomness can be had.
    pub fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, &'static str> {
        match self.cipher {
            Cipher::AesGcm => seal_gcm(&self.secret, plain, place),
            Cipher::AesCbc => {
                let iv: [u8; CBC_IV] = random()?;
                let iv_and = |sealed: Vec<u8>| [iv.as_slice(), &sealed].concat();
                let sealed = match self.secret.len() {
                    16 => cbc::Encryptor::<aes::Aes128>::new_from_slices(&self.secret, &iv)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                    24 => cbc::Encryptor::<aes::Aes192>::new_from_slices(&self.secret, &iv)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                    _ => cbc::Encryptor::<aes::Aes256>::new_from_slices(&self.secret, &iv)
                        .map(|cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain)),
                };
                sealed.map(iv_and).map_err(|_| UNUSABLE)
            }
            Cipher::SecretBox => {
                let nonce: [u8; BOX_NONCE] = random()?;
                let cipher = XSalsa20Poly1305::new_from_slice(&self.secret).map_err(|_| UNUSABLE)?;
                let sealed = cipher.encrypt(&nonce.into(), plain).map_err(|_| UNUSABLE)?;
                Ok([nonce.as_slice(), &sealed].concat())
            }
        }
    }

    /// Decrypts what [`Key::seal`] made for the same `place`.
    ///
    /// # Errors
    /// It was made with another key, for another place, or was changed since.
    pub fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, &'static str> {
        match self.cipher {
            Cipher::AesGcm => open_gcm(&self.secret, sealed, place),
            Cipher::AesCbc => {
                let (iv, rest) = sealed.split_at_checked(CBC_IV).ok_or(REFUSED)?;
                match self.secret.len() {
                    16 => cbc::Decryptor::<aes::Aes128>::new_from_slices(&self.secret, iv)
                        .map_err(|_| UNUSABLE)?
                        .decrypt_padded_vec_mut::<Pkcs7>(rest),
                    24 => cbc::Decryptor::<aes::Aes192>::new_from_slices(&self.secret, iv)
                        .map_err(|_| UNUSABLE)?
                        .decrypt_padded_vec_mut::<Pkcs7>(rest),
                    _ => cbc::Decryptor::<aes::Aes256>::new_from_slices(&self.secret, iv)
                        .map_err(|_| UNUSABLE)?
                        .decrypt_padded_vec_mut::<Pkcs7>(rest),
                }
                .map_err(|_| REFUSED)
            }
            Cipher::SecretBox => {
                let (nonce, rest) = sealed.split_at_checked(BOX_NONCE).ok_or(REFUSED)?;
                let nonce: [u8; BOX_NONCE] = nonce.try_into().map_err(|_| REFUSED)?;
                let cipher = XSalsa20Poly1305::new_from_slice(&self.secret).map_err(|_| UNUSABLE)?;
                cipher.decrypt(&nonce.into(), rest).map_err(|_| REFUSED)
            }
        }
    }
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], &'static str> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| UNUSABLE)?;
    Ok(bytes)
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, &'static str> {
    let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| UNUSABLE)
}

/// AES-GCM: nonce, ciphertext, tag.
pub(super) fn seal_gcm(key: &[u8], plain: &[u8], place: &[u8]) -> Result<Vec<u8>, &'static str> {
    let nonce: [u8; GCM_NONCE] = random()?;
    let mut sealed = plain.to_vec();
    gcm(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
        .map_err(|_| UNUSABLE)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// The other way round.
pub(super) fn open_gcm(key: &[u8], sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (nonce, rest) = sealed.split_at_checked(GCM_NONCE).ok_or(REFUSED)?;
    let nonce: [u8; GCM_NONCE] = nonce.try_into().map_err(|_| REFUSED)?;
    let mut rest = rest.to_vec();
    let plain = gcm(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut rest)
        .map_err(|_| REFUSED)?
        .len();
    rest.truncate(plain);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_key_only() {
        for (cipher, length) in [
            (Cipher::AesGcm, 16),
            (Cipher::AesGcm, 32),
            (Cipher::AesCbc, 16),
            (Cipher::AesCbc, 24),
            (Cipher::AesCbc, 32),
            (Cipher::SecretBox, 32),
        ] {
            let key = |byte| Key { cipher, name: "k".into(), secret: vec![byte; length] };
            for plain in [&b""[..], b"x", &[7; 64]] {
                let sealed = key(1).seal(plain, b"/here").unwrap();
                assert_ne!(sealed, key(1).seal(plain, b"/here").unwrap(), "never the same twice");
                assert_eq!(key(1).open(&sealed, b"/here").unwrap(), plain);
                // CBC has no tag: another key usually, but not always, finds the padding broken.
                let other = key(2).open(&sealed, b"/here");
                assert!(other.map_or(true, |opened| opened != plain), "{cipher:?}");
            }
            assert!(key(1).open(b"short", b"/here").is_err());
        }
    }

    #[test]
    fn gcm_is_bound_to_its_place() {
        let key = Key { cipher: Cipher::AesGcm, name: "k".into(), secret: vec![1; 32] };
        let sealed = key.seal(b"secret", b"/a").unwrap();
        assert!(key.open(&sealed, b"/b").is_err());
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(key.open(&changed, b"/a").is_err());
    }
}
