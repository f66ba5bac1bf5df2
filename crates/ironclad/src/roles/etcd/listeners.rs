//! The ports of `ironclad etcd`: which URLs, and with which certificates.
//!
//! Reads the files of the TLS; the server's own are read again when they change, as etcd does with each connection.
//! Not here: what is served (`etcd`), the flags (`flags`). Upstream: etcd's `client/pkg/transport/listener.go`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use foundation::{SharedClock, Tasks};
use rustls::RootCertStore;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;

use super::flags::Options;
use crate::roles::apiserver::follow::{ETCD_CERTIFICATE, follow};
use crate::roles::apiserver::pem;

/// A port, and how it is spoken to.
pub struct Port {
    /// The port itself.
    pub listener: TcpListener,
    /// `None`: without TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What clients are told who are told nothing else.
    pub url: String,
}

/// Opens the ports of these URLs.
///
/// # Errors
/// A URL that is none, or `https` without a certificate; a port that is taken.
pub async fn open(urls: &[String], tls: Option<&Arc<rustls::ServerConfig>>) -> anyhow::Result<Vec<Port>> {
    let mut ports = Vec::new();
    for url in urls.iter().filter(|url| !url.is_empty()) {
        let (secure, address) = parse(url)?;
        let tls = match (secure, tls) {
            (true, None) => bail!("{url} needs --cert-file and --key-file"),
            (true, Some(tls)) => Some(tls.clone()),
            (false, _) => None,
        };
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("cannot read a listener's address")?;
        let scheme = if secure { "https" } else { "http" };
        ports.push(Port { listener, tls, url: format!("{scheme}://{}", reachable(address, None)) });
    }
    Ok(ports)
}

/// An address that somebody can be told: one that means every address of the machine is none. `own` is the machine's, if it
/// is known.
pub fn reachable(address: SocketAddr, own: Option<IpAddr>) -> SocketAddr {
    let loopback: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    match address.ip().is_unspecified() {
        true => SocketAddr::new(own.unwrap_or(loopback), address.port()),
        false => address,
    }
}

/// Whether a URL wants TLS, and its address.
fn parse(url: &str) -> anyhow::Result<(bool, SocketAddr)> {
    let problem = || format!("{url:?} is no URL such as http://127.0.0.1:2379");
    let (scheme, rest) = url.split_once("://").with_context(problem)?;
    let secure = match scheme {
        "http" => false,
        "https" => true,
        _ => bail!(problem()),
    };
    let address = rest.trim_end_matches('/').replace("localhost", "127.0.0.1");
    Ok((secure, address.parse().with_context(problem)?))
}

/// The server's certificate, as it was when it was last read.
#[derive(Debug)]
struct Latest(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Latest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The TLS of the ports, if there is a certificate.
///
/// # Errors
/// Files that cannot be used; authorities of clients without a certificate to show to them.
pub fn tls(
    options: &Options,
    clock: &SharedClock,
    tasks: &Tasks,
) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    let (Some(certificate), Some(key)) = (&options.cert_file, &options.key_file) else {
        if options.trusted_ca_file.is_some() || options.client_cert_auth {
            bail!("--trusted-ca-file and --client-cert-auth need --cert-file and --key-file");
        }
        return Ok(None);
    };
    let builder = match options.tls_min_version.as_str() {
        "TLS1.3" => foundation::tls::server(),
        _ => foundation::tls::server_for_others(),
    };
    let builder = match &options.trusted_ca_file {
        None if options.client_cert_auth => {
            bail!("--client-cert-auth needs --trusted-ca-file: the system's authorities are not asked")
        }
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(clients(path)?),
    };
    let latest = Arc::new(Latest(ArcSwap::from_pointee(pem::certified_key(certificate, key)?)));
    let (files, again) = ([certificate.clone(), key.clone()], latest.clone());
    follow(ETCD_CERTIFICATE, &files.clone(), clock, tasks, move || {
        again.0.store(Arc::new(pem::certified_key(&files[0], &files[1])?));
        Ok(())
    })?;
    let mut config = builder.with_cert_resolver(latest);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// Who checks the certificates of clients.
fn clients(authorities: &Path) -> anyhow::Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in pem::certificates(authorities)? {
        roots.add(authority).with_context(|| format!("cannot use {}", authorities.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), foundation::tls::provider());
    Ok(verifier.build().context("clients cannot be verified")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_to_listen_on() {
        for (url, expected) in [
            ("http://127.0.0.1:2379", Some((false, "127.0.0.1:2379"))),
            ("https://[::1]:1/", Some((true, "[::1]:1"))),
            ("http://localhost:2379", Some((false, "127.0.0.1:2379"))),
            ("127.0.0.1:2379", None),
            ("unix:///x", None),
            ("http://host", None),
        ] {
            let found = parse(url).ok().map(|(secure, address)| (secure, address.to_string()));
            assert_eq!(found, expected.map(|(secure, address)| (secure, address.to_owned())), "{url}");
        }
    }

    #[test]
    fn nobody_is_told_an_address_that_is_none() {
        let own = "10.0.0.1".parse().unwrap();
        for (address, own, expected) in [
            ("0.0.0.0:2379", None, "127.0.0.1:2379"),
            ("[::]:2379", None, "[::1]:2379"),
            ("0.0.0.0:2379", Some(own), "10.0.0.1:2379"),
            ("10.0.0.2:2379", Some(own), "10.0.0.2:2379"),
        ] {
            assert_eq!(reachable(address.parse().unwrap(), own), expected.parse().unwrap(), "{address}");
        }
    }
}
