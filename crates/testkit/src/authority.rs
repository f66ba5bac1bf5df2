//! An authority of certificates for tests, and certificates of it, as files such as etcd's flags name.
//!
//! Not here: the cluster's own authorities, which every cluster makes for itself.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer, KeyPair,
    SerialNumber,
};
use tempfile::TempDir;

/// An authority with its files in a temporary directory.
#[derive(Debug)]
pub struct Authority {
    files: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Authority {
        let files = TempDir::new().expect("/tmp can be written");
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("nobody has a good name");
        // Its own: a certificate that has the name of its issuer is one that signed itself, to some.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("an authority can sign itself");
        std::fs::write(files.path().join("ca.crt"), certificate.pem()).expect("/tmp can be written");
        Authority { files, issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for the loopback address, for servers and clients alike, under a name and a serial number.
    /// One that was there under that name is replaced. Returns the files of the certificate and of its key.
    pub fn issue(&self, name: &str, serial: u64) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key can be made");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("the names are good ones");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![Usage::ServerAuth, Usage::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority can sign");
        let [to, to_key] = ["crt", "key"].map(|kind| self.files.path().join(format!("{name}.{kind}")));
        std::fs::write(&to, certificate.pem()).expect("/tmp can be written");
        std::fs::write(&to_key, key.serialize_pem()).expect("/tmp can be written");
        (to, to_key)
    }

    /// The file of the authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.files.path().join("ca.crt")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
