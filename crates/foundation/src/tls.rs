//! Which versions of TLS are spoken, and by which cryptography: said here once.
//!
//! The program's own parts speak TLS 1.3 to one another and to those who use the cluster ([`client`], [`server`]). Others'
//! programs may know 1.2 only (etcd and etcdctl 3.5 before 3.5.8; webhooks, aggregated servers, registries, what is probed):
//! for them there are [`client_of_others`] and [`server_for_others`], which prefer 1.3. `clippy.toml` forbids the builders of `rustls` that
//! take whatever versions are compiled in.
//!
//! Not here: whose certificates are trusted and which is shown; that is said to the builders by who asks for them.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier};

static LATEST: &[&SupportedProtocolVersion] = &[&TLS13];
static OTHERS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// The cryptography of every connection.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client of one of our own servers: TLS 1.3.
pub fn client() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    client_with(LATEST)
}

/// A server of our own: TLS 1.3.
pub fn server() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    server_with(LATEST)
}

/// A client of a server that is somebody else's program: TLS 1.3, or 1.2 with a server that knows no more.
pub fn client_of_others() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    client_with(OTHERS)
}

/// A server whose clients are somebody else's programs: TLS 1.3, or 1.2 with a client that knows no more.
pub fn server_for_others() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    server_with(OTHERS)
}

fn client_with(versions: &[&'static SupportedProtocolVersion]) -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder.with_protocol_versions(versions).expect("ring has cipher suites for both versions")
}

fn server_with(versions: &[&'static SupportedProtocolVersion]) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let builder = ServerConfig::builder_with_provider(provider());
    builder.with_protocol_versions(versions).expect("ring has cipher suites for both versions")
}

#[cfg(test)]
mod tests {
    use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
    use rustls::pki_types::ServerName;
    use rustls::server::ResolvesServerCertUsingSni;
    use rustls::{ClientConnection, ProtocolVersion, RootCertStore, ServerConnection};

    use super::*;

    /// What a client and a server without a certificate agree on before the server has to show one.
    fn agreed(
        client: ConfigBuilder<ClientConfig, WantsVerifier>,
        server: ConfigBuilder<ServerConfig, WantsVerifier>,
    ) -> Option<ProtocolVersion> {
        let client = client.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let server =
            server.with_no_client_auth().with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let name = ServerName::try_from("server").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        server.read_tls(&mut hello.as_slice()).unwrap();
        // Refused either way: for the version, or for want of a certificate.
        server.process_new_packets().unwrap_err();
        server.protocol_version()
    }

    #[test]
    fn only_others_may_speak_the_older_version() {
        let old = || client_with(&[&TLS12]);
        let old_server = || server_with(&[&TLS12]);
        assert_eq!(agreed(client(), server()), Some(TLSv1_3));
        assert_eq!(agreed(client_of_others(), server_for_others()), Some(TLSv1_3));
        assert_eq!(agreed(old(), server()), None);
        assert_eq!(agreed(client(), old_server()), None);
        assert_eq!(agreed(old(), server_for_others()), Some(TLSv1_2));
        assert_eq!(agreed(client_of_others(), old_server()), Some(TLSv1_2));
    }
}
