//! Certificates that somebody else signs: a key made here, which never leaves, the request for its certificate, and the pair
//! in one file, so that neither is ever there without the other.
//!
//! Reads and writes the file that it is told. Upstream: client-go `util/certificate` (its store keeps key and certificate
//! in one file too). Not here: sending the request, and who signs it.

use std::path::Path;

use jiff::Timestamp;

use crate::authority::{self, AlternativeNames, Key};
use crate::csr::Subject;
use crate::{Certificate, Credential, Error, der, files, pem};

const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];

/// A key whose certificate has been asked for.
pub struct Requested {
    key: Key,
    request: Vec<u8>,
}

impl std::fmt::Debug for Requested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Requested(..)")
    }
}

fn names(subject: &Subject) -> Vec<u8> {
    let names = AlternativeNames { dns: subject.dns_names.clone(), ip: subject.ip_addresses.clone() };
    authority::general_names(&names)
}

impl Requested {
    /// A new key (ECDSA P-256) and its request. Mail addresses and URIs are not asked for.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the system gives no entropy.
    pub fn new(subject: &Subject) -> Result<Requested, Error> {
        let key = Key::generate()?;
        let names = names(subject);
        let attributes = if names.is_empty() {
            Vec::new()
        } else {
            let name = der::sequence(&[&der::oid(SUBJECT_ALT_NAME), &der::octets(&names)]);
            let extensions = der::set_of_one(&der::sequence(&[&name]));
            der::sequence(&[&der::oid(EXTENSION_REQUEST), &extensions])
        };
        let info = der::sequence(&[
            &der::unsigned(&[0]),
            &authority::name(&subject.common_name, &subject.organizations),
            &key.public_info(),
            &der::explicit(0, &attributes),
        ]);
        let signature = key.sign(&info)?;
        let algorithm = der::sequence(&[&der::oid(ECDSA_WITH_SHA256)]);
        let request = der::sequence(&[&info, &algorithm, &der::bit_string(&signature)]);
        Ok(Requested { key, request })
    }

    /// The request as a `CERTIFICATE REQUEST` block.
    pub fn pem(&self) -> String {
        pem::encode("CERTIFICATE REQUEST", &self.request)
    }

    /// The pair, now that the certificate (PEM) has come.
    ///
    /// # Errors
    /// [`Error::BadCertificate`] when it is none, or another key's.
    pub fn complete(self, certificate_pem: &str) -> Result<Credential, Error> {
        pair(certificate_pem, self.key).map_err(Error::BadCertificate)
    }
}

fn pair(certificate_pem: &str, key: Key) -> Result<Credential, String> {
    let mut blocks = pem::decode("CERTIFICATE", certificate_pem)?;
    if blocks.is_empty() {
        return Err("there is no CERTIFICATE block".to_owned());
    }
    Credential::load(Certificate::from_der(blocks.swap_remove(0)), key)
}

impl Credential {
    /// The pair in a file. What is no pair of certificate and key counts as absent: another one can be asked for.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(path: &Path) -> Result<Option<Credential>, Error> {
        let Some(text) = files::read(path)? else { return Ok(None) };
        Ok(Key::from_pem(&text).and_then(|key| pair(&text, key)).ok())
    }

    /// Puts the pair into a file (0600), whole or not at all, and on disk before it returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = self.certificate_pem() + &self.key_pem();
        files::replace_durably(path, &text, files::SECRET)?;
        path.parent().map_or(Ok(()), files::sync_dir)
    }

    /// The begin of validity.
    pub fn not_before(&self) -> Timestamp {
        self.validity().0
    }

    /// Whether it says of whom it is what `subject` says: the same names and addresses, in whatever order and however often.
    pub fn is_of(&self, subject: &Subject) -> bool {
        let chain = self.chain();
        let Some(Ok((_, parsed))) = chain.first().map(|der| x509_parser::parse_x509_certificate(der)) else {
            return false;
        };
        parsed.subject().as_raw() == authority::name(&subject.common_name, &subject.organizations)
            && subject.has_names_of(&parsed)
    }
}

/// Replaces a file that anybody may read (an authority), whole or not at all, and on disk before it returns.
///
/// # Errors
/// [`Error::Io`].
pub fn write_public(path: &Path, text: &str) -> Result<(), Error> {
    files::replace_durably(path, text, files::PUBLIC)?;
    path.parent().map_or(Ok(()), files::sync_dir)
}

/// Replaces a file that only its owner may read, whole or not at all, and on disk before it returns.
///
/// # Errors
/// [`Error::Io`].
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    files::replace_durably(path, text, files::SECRET)?;
    path.parent().map_or(Ok(()), files::sync_dir)
}

/// Makes a directory that only its owner may look into, or narrows one to that.
///
/// # Errors
/// [`Error::Io`].
pub fn private_dir(path: &Path) -> Result<(), Error> {
    files::private_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::{Terms, inspect, sign};
    use crate::{Pki, Settings};

    #[test]
    fn a_request_says_who_asks_and_its_certificate_comes_back_to_the_key() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { dir: directory.path().join("pki"), ..Settings::default() };
        let pki = Pki::open(settings, now).unwrap();
        let terms = Terms {
            usages: &["digital signature", "server auth"],
            not_before: now,
            not_after: now + jiff::SignedDuration::from_hours(1),
        };
        let client = Subject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Subject::default()
        };
        let server = Subject {
            dns_names: vec!["n1".to_owned()],
            ip_addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ..client.clone()
        };
        let path = directory.path().join("pair.pem");
        for (subject, other) in [(&client, &server), (&server, &client)] {
            let requested = Requested::new(subject).unwrap();
            assert_eq!(&inspect(&requested.pem()).unwrap(), subject);
            let certificate = sign(pki.cluster_authority(), &requested.pem(), &terms).unwrap();
            let strange = Requested::new(subject).unwrap().complete(&certificate.pem()).unwrap_err();
            assert!(strange.to_string().contains("does not belong to the key"), "{strange}");
            let credential = requested.complete(&certificate.pem()).unwrap();
            assert!(credential.is_of(subject) && !credential.is_of(other));
            let mut shuffled = subject.clone();
            shuffled.ip_addresses.reverse();
            shuffled.ip_addresses.extend(subject.ip_addresses.first().copied());
            assert!(credential.is_of(&shuffled), "the same names in another order, one of them twice");
            shuffled.dns_names.push("more".to_owned());
            assert!(!credential.is_of(&shuffled));
            credential.write(&path).unwrap();
            let read = Credential::read(&path).unwrap().unwrap();
            assert_eq!(
                (read.key_pem(), read.not_before(), read.not_after()),
                (credential.key_pem(), now, terms.not_after)
            );
        }
        std::fs::write(&path, "half of it").unwrap();
        assert!(Credential::read(&path).unwrap().is_none());
        assert!(Credential::read(&directory.path().join("none")).unwrap().is_none());
    }
}
