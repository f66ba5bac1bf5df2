//! The etcd v3 API of a store: of a server, for the cluster's administrators, or alone as `ironclad etcd`.
//!
//! Reads the files of the TLS; opens the store in the data directory. Whoever may use a server's is `administrators`'s to
//! say.

mod administrators;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use foundation::{CancellationToken, SystemClock, Tasks};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use store::embedded::Engine;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::members::Peers;
use super::store::Opened;

/// Settings of `ironclad etcd`. The names are etcd's.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of this member
    #[arg(long, env = "ETCD_NAME", default_value = "default", value_name = "NAME")]
    pub name: String,
    /// Directory of the store
    #[arg(long, env = "ETCD_DATA_DIR", default_value = "default.etcd", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// URL to listen on for clients: http://address:port or https://address:port
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        default_value = "http://127.0.0.1:2379",
        value_name = "URL"
    )]
    pub listen_client_urls: String,
    /// URLs that clients are told; the one listened on by default
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',', value_name = "URL")]
    pub advertise_client_urls: Vec<String>,
    /// Certificate of the server
    #[arg(long, env = "ETCD_CERT_FILE", requires = "key_file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, env = "ETCD_KEY_FILE", requires = "cert_file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Authorities that clients' certificates must come from; clients need none by default
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE", value_name = "FILE")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Comparisons and operations that a transaction may have
    #[arg(long, env = "ETCD_MAX_TXN_OPS", default_value_t = 128, value_name = "N")]
    pub max_txn_ops: usize,
    #[command(flatten)]
    pub logs: crate::config::logs::Logs,
}

/// Runs the store behind its API until it is told to stop.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let (secure, address) = listen_url(&options.listen_client_urls)?;
    let tls = tls(&options)?;
    if secure != tls.is_some() {
        bail!("--listen-client-urls must be https with --cert-file, and http without");
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let clock = SystemClock::shared();
    let engine = super::store::open_embedded(&options.data_dir, clock.clone())?;
    let urls = match options.advertise_client_urls.is_empty() {
        true => vec![options.listen_client_urls.clone()],
        false => options.advertise_client_urls.clone(),
    };
    let described = etcd::Options {
        name: options.name,
        max_txn_ops: options.max_txn_ops,
        scratch: Some(options.data_dir.clone()),
        ..describe(&engine, urls)
    };
    let server = etcd::Server::new(engine.clone(), described, clock);
    tokio::select! {
        () = etcd::serve(server, listener, tls, CancellationToken::new()) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    engine.shutdown();
    Ok(())
}

/// Answers the API for the cluster's administrators.
pub async fn start(
    context: &Context,
    opened: &Opened,
    address: SocketAddr,
    tasks: &Tasks,
) -> anyhow::Result<SocketAddr> {
    let tls = administrators::tls(context)?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let urls = vec![format!("https://{address}")];
    let described = match opened {
        Opened::Embedded(engine) => describe(engine, urls),
        Opened::Replicated(member) => etcd::Options {
            id: member.identity().member,
            name: context.node.name.clone(),
            client_urls: urls,
            members: Some(Arc::new(Peers(member.clone()))),
            ..etcd::Options::default()
        },
        // The flags exclude each other.
        Opened::External(_) => bail!("--etcd-listen is for the servers' own store"),
    };
    let scratch = Some(context.config.dirs.data_dir.clone());
    let described = etcd::Options { scratch, ..described };
    let server = etcd::Server::new(opened.store(), described, SystemClock::shared());
    tasks.spawn("etcd", etcd::serve(server, listener, Some(tls), tasks.token()));
    Ok(address)
}

fn describe(engine: &Engine, client_urls: Vec<String>) -> etcd::Options {
    // Clients take 0 for nobody.
    etcd::Options { id: engine.id().max(1), client_urls, ..etcd::Options::default() }
}

fn listen_url(url: &str) -> anyhow::Result<(bool, SocketAddr)> {
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

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let problem = || format!("cannot read the certificates in {}", path.display());
    CertificateDer::pem_file_iter(path).with_context(problem)?.collect::<Result<_, _>>().with_context(problem)
}

fn tls(options: &Options) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    let (Some(certificate), Some(key)) = (&options.cert_file, &options.key_file) else {
        if options.trusted_ca_file.is_some() {
            bail!("--trusted-ca-file needs --cert-file and --key-file");
        }
        return Ok(None);
    };
    let provider = foundation::tls::provider();
    let builder = foundation::tls::server_for_others();
    let builder = match &options.trusted_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).with_context(|| format!("cannot use {}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().context("clients cannot be verified")?)
        }
    };
    let private =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read {}", key.display()))?;
    let mut config = builder
        .with_single_cert(certificates(certificate)?, private)
        .with_context(|| format!("cannot use {}", certificate.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
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
            let found = listen_url(url).ok().map(|(secure, address)| (secure, address.to_string()));
            assert_eq!(found, expected.map(|(secure, address)| (secure, address.to_owned())), "{url}");
        }
    }
}
