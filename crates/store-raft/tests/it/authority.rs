//! Certificates of members, for tests of the transport, inside of the crate and outside.

use std::sync::Arc;

use store_raft::transport::tls::{PROTOCOL, Security, names};

/// Makes certificates of members.
pub struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Default for Authority {
    fn default() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
}

/// What a member has in its files, as DER.
pub struct Leaf {
    pub authority: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Authority {
    /// What a member proves itself with.
    pub fn security(&self, member: u64) -> Security {
        self.leaf(member).security()
    }

    /// The same, to be written to files.
    pub fn leaf(&self, member: u64) -> Leaf {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(names(member)).unwrap();
        Leaf {
            authority: self.0.as_ref().der().to_vec(),
            certificate: leaf.signed_by(&key, &self.0).unwrap().der().to_vec(),
            key: key.serialize_der(),
        }
    }
}

impl Leaf {
    pub fn security(&self) -> Security {
        let chain = vec![self.certificate.clone().into()];
        let private = || rustls::pki_types::PrivatePkcs8KeyDer::from(self.key.clone()).into();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.clone().into()).unwrap();
        let roots = Arc::new(roots);
        let mut client = foundation::tls::client()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private())
            .unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, foundation::tls::provider());
        let mut server = foundation::tls::server()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, private())
            .unwrap();
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        Security { client: Arc::new(client), server: Arc::new(server) }
    }
}
