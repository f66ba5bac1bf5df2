//! Certificates and keys out of files that people bring along.
//!
//! Not here: the cluster's own (`pki`), when the files are read again (`follow`).

use std::path::Path;

use anyhow::{Context as _, bail};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The certificates in a file, of which there is at least one.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no certificate", path.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(found)
}

/// A certificate, with those that it is signed by behind it, and its key.
pub fn certified_key(certificate: &Path, key: &Path) -> anyhow::Result<CertifiedKey> {
    let chain = certificates(certificate)?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?).with_context(|| format!("{} is no key", key.display()))?;
    let private = any_supported_type(&private)
        .with_context(|| format!("the key in {} cannot be used", key.display()))?;
    let certified = CertifiedKey::new(chain, private);
    certified
        .keys_match()
        .with_context(|| format!("{} is not the key of {}", key.display(), certificate.display()))?;
    Ok(certified)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let made = |name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            let certificate = file(&format!("{name}.crt"), &made.cert.pem());
            (certificate, file(&format!("{name}.key"), &made.signing_key.serialize_pem()))
        };
        let ((one, one_key), (_, two_key)) = (made("one.example"), made("two.example"));
        let (empty, absent) = (file("empty", ""), folder.path().join("absent"));
        assert_eq!(certified_key(&one, &one_key).unwrap().cert.len(), 1);
        for (certificate, key, want) in [
            (&absent, &one_key, "absent cannot be read"),
            (&empty, &one_key, "empty holds no certificate"),
            (&one, &empty, "empty is no key"),
            (&one, &two_key, "two.example.key is not the key of"),
        ] {
            let problem = format!("{:#}", certified_key(certificate, key).unwrap_err());
            assert!(problem.contains(want), "{problem}");
        }
    }
}
