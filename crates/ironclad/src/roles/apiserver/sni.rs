//! Further serving certificates, chosen by the name that a client asks for (`--tls-sni-cert-key`).
//!
//! Reads the files when it is made: at the start, when they change, and when the cluster's own certificates are renewed.
//! Not here: seeing that they change, the certificate for everybody else. Upstream: apiserver/pkg/server/dynamiccertificates/named_certificates.go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use super::pem;

/// One flag: `cert.pem,key.pem` or `cert.pem,key.pem:name,*.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// Those that the certificate itself has, when there are none.
    names: Vec<String>,
}

impl NamedCertificate {
    /// The names that the flag gives it.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The certificate's file and the key's.
    pub fn files(&self) -> [&PathBuf; 2] {
        [&self.certificate, &self.key]
    }
}

impl std::str::FromStr for NamedCertificate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is not of the form certFilePath,keyFilePath[:domain patterns]");
        let (files, names) = match text.split_once(':') {
            Some((_, names)) if names.is_empty() || names.contains(':') => return Err(problem()),
            Some((files, names)) => {
                (files, names.split(',').map(|name| name.trim().to_lowercase()).collect())
            }
            None => (text, Vec::new()),
        };
        let (certificate, key) = files.split_once(',').ok_or_else(problem)?;
        let (certificate, key) = (certificate.trim(), key.trim());
        if certificate.is_empty() || key.is_empty() || key.contains(',') {
            return Err(problem());
        }
        Ok(Self { certificate: certificate.into(), key: key.into(), names })
    }
}

/// Chooses a certificate by the name that a client asks for.
#[derive(Debug)]
pub struct ByName {
    named: Vec<Loaded>,
    other: Arc<CertifiedKey>,
}

#[derive(Debug)]
struct Loaded {
    names: Vec<String>,
    /// Whether the flag says the names: these win over those that are read out of a certificate.
    explicit: bool,
    key: Arc<CertifiedKey>,
}

impl ByName {
    /// Reads the files; whoever asks for no name of theirs gets `other`.
    pub fn load(flags: &[NamedCertificate], other: Arc<CertifiedKey>) -> anyhow::Result<Self> {
        let named = flags.iter().map(|flag| {
            let key = pem::certified_key(&flag.certificate, &flag.key)?;
            let names = match (flag.names.as_slice(), key.end_entity_cert()) {
                ([], Ok(leaf)) => names_of(leaf)?,
                (names, _) => names.to_vec(),
            };
            Ok(Loaded { names, explicit: !flag.names.is_empty(), key: Arc::new(key) })
        });
        Ok(Self { named: named.collect::<anyhow::Result<_>>()?, other })
    }

    fn find(&self, name: &str) -> Arc<CertifiedKey> {
        let name = name.to_lowercase();
        // `*.name` stands for exactly one more label.
        let wild = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let pick = |wanted: &str| {
            let has = |loaded: &&Loaded| loaded.names.iter().any(|known| known == wanted);
            let mut explicit = self.named.iter().filter(|loaded| loaded.explicit);
            let mut read = self.named.iter().filter(|loaded| !loaded.explicit);
            explicit.find(has).or_else(|| read.find(has))
        };
        let found = pick(&name).or_else(|| wild.as_deref().and_then(pick));
        found.map_or_else(|| self.other.clone(), |loaded| loaded.key.clone())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or_else(|| self.other.clone(), |name| self.find(name)))
    }
}

/// The names in the first certificate of a file.
pub fn names_in(path: &Path) -> anyhow::Result<Vec<String>> {
    let chain = pem::certificates(path)?;
    chain.first().map_or_else(|| Ok(Vec::new()), names_of)
}

/// The names in a certificate: its subject's common name and its alternative names.
fn names_of(leaf: &CertificateDer<'_>) -> anyhow::Result<Vec<String>> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).context("a certificate cannot be parsed")?;
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_lowercase).collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_lowercase()),
            _ => None,
        }));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_files_and_names() {
        let read = |text: &str| text.parse::<NamedCertificate>();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(read("c,k").unwrap().names, names(&[]));
        assert_eq!(read("c,k:A.example,*.b").unwrap().names, names(&["a.example", "*.b"]));
        assert_eq!(read("c,k").unwrap().key, PathBuf::from("k"));
        for wrong in ["c", "c,", ",k", "c,k:", "c,k,x", "c,k:a:b"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    fn made(folder: &std::path::Path, name: &str) -> String {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        format!("{},{}", certificate.display(), key.display())
    }

    #[test]
    fn exact_names_win_over_patterns_and_said_ones_over_read_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let flags: Vec<NamedCertificate> = [
            made(path, "a.example"),
            format!("{}:*.example", made(path, "wild")),
            format!("{}:b.example", made(path, "said")),
            made(path, "b.example"),
        ]
        .iter()
        .map(|flag| flag.parse().unwrap())
        .collect();
        let other = ByName::load(&flags[..1], dummy(path)).unwrap().named[0].key.clone();
        let by_name = ByName::load(&flags, other.clone()).unwrap();
        let is = |name: &str, index: usize| Arc::ptr_eq(&by_name.find(name), &by_name.named[index].key);
        assert!(is("A.example", 0) && is("c.example", 1) && is("b.example", 2));
        assert!(Arc::ptr_eq(&by_name.find("x.y.example"), &other), "a pattern is one label");
    }

    #[test]
    fn a_key_must_belong_to_its_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (made(folder.path(), "one"), made(folder.path(), "two"));
        let mixed = format!("{},{}", one.split_once(',').unwrap().0, two.split_once(',').unwrap().1);
        let flag = mixed.parse().unwrap();
        let error = ByName::load(&[flag], dummy(folder.path())).unwrap_err();
        assert!(format!("{error:#}").contains("is not the key of"), "{error:#}");
    }

    /// Any certificate.
    fn dummy(folder: &std::path::Path) -> Arc<CertifiedKey> {
        let flag: NamedCertificate = made(folder, "other").parse().unwrap();
        Arc::new(pem::certified_key(&flag.certificate, &flag.key).unwrap())
    }
}
