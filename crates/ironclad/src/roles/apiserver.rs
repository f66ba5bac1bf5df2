//! The API server: its keys, its TLS, its kubeconfig.
//!
//! Reads the PKI; writes the administrator's kubeconfig. Certificates are renewed in place while it serves.

mod access;
pub mod follow;
pub mod pem;
pub mod sni;

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use ::apiserver::admission::AllManifests;
use ::apiserver::beside::Page;
use ::apiserver::encryption::{Configuration as Encryption, EncryptedStore};
use ::apiserver::{ApiServer, Cidr, Options, aggregation, authn, listen::Tls};
use ::controllers::certificates::api_servers;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use foundation::Tasks;
use jiff::Timestamp;
use pki::Leaf;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use store::Store;
use tokio::net::TcpListener;

use super::Context;
use super::members::MembersPage;
use super::store::Opened;
use super::tokens::{Changes, Pages};
use crate::config::manifests;
use crate::join::door::{self, Door};
use crate::tokens::bootstrap_secret;
use crate::tokens::shared::{Known, Settled, Shared};
use follow::{
    AUTHENTICATION, AUTHORIZATION, ENCRYPTION, MANIFESTS, SERVING_CERTIFICATES, follow, follow_directory,
};

/// Common name of the aggregator's client certificate.
const FRONT_PROXY_CLIENT: &str = "front-proxy-client";

/// A running API server.
pub struct Running {
    /// The server.
    pub server: ApiServer,
    /// Its port.
    pub port: u16,
    /// What changes the tokens.
    pub changes: Arc<Changes>,
}

/// Starts the server over a store, with the tokens in it, and serves on a listener.
pub async fn start(
    context: &Context,
    opened: &Opened,
    tokens: &Settled,
    listener: TcpListener,
    tasks: &Tasks,
) -> anyhow::Result<Running> {
    let port = listener.local_addr().context("cannot read the listener's address")?.port();
    let now = context.clock.now();
    let (store, encryption) = encrypted(context, opened.store(), tasks)?;
    let mut options = options(context, &tokens.known, port, now)?;
    options.beside = Some(Arc::new(door(context, opened, tokens.shared.clone())));
    let changes = Arc::new(Changes::new(tokens.shared.clone()));
    let mut pages: Vec<Arc<dyn Page>> = vec![changes.clone()];
    pages.extend(opened.member().map(|member| Arc::new(MembersPage(member.clone())) as Arc<dyn Page>));
    options.pages = Some(Arc::new(Pages(pages)));
    follow_manifests(context, &options.admission.manifests, tasks)?;
    let server = ApiServer::new(store, options, tasks, context.clock.clone(), context.randomness.clone())
        .await
        .context("the API server cannot start")?;
    if let Some(encryption) = encryption {
        server.check_encryption(encryption);
    }
    if let Some(member) = opened.member().cloned() {
        server.checks().register("store-members", move || super::store::member::check(&member));
    }
    follow_files(context, &server, tasks)?;
    let tls: Tls = Arc::new(ArcSwap::new(serving(context, now)?));
    let (serve, swap) = (server.clone(), tls.clone());
    tasks.spawn("listener", async move { serve.serve(listener, tls).await });
    follow_certificates(context, swap.clone(), tasks)?;
    tasks.spawn_until_cancelled("certificates", renew(context.clone(), swap));
    write_kubeconfig(context, port, now)?;
    Ok(Running { server, port, changes })
}

/// What machines are told that want to join.
fn door(context: &Context, opened: &Opened, tokens: Arc<Shared>) -> Door {
    let cluster = match opened {
        Opened::Embedded(_) => door::Cluster::Alone,
        Opened::External(_) => door::Cluster::External,
        Opened::Replicated(store) => {
            door::Cluster::Members { store: store.clone(), config: context.config.clone() }
        }
    };
    Door {
        authority: context.pki.cluster_authority().certificate().pem(),
        keys: context.config.dirs.data_dir.join("pki"),
        tokens,
        cluster,
        clock: context.clock.clone(),
        attempts: Default::default(),
    }
}

/// The store as the server sees it: with what is to be kept encrypted, if anything is; and what of that is to be checked.
fn encrypted(
    context: &Context,
    store: Arc<dyn Store>,
    tasks: &Tasks,
) -> anyhow::Result<(Arc<dyn Store>, Option<Arc<ArcSwap<Encryption>>>)> {
    let flags = context.config.apiserver.clone();
    let Some(configuration) = flags.encryption(&context.clock)? else { return Ok((store, None)) };
    configuration.follow(tasks);
    let configuration = Arc::new(ArcSwap::from_pointee(configuration));
    if flags.encryption_provider_config_automatic_reload
        && let Some(path) = flags.encryption_provider_config.clone()
    {
        let (current, clock, plugins) = (configuration.clone(), context.clock.clone(), tasks.clone());
        follow(ENCRYPTION, &[path], &context.clock, tasks, move || {
            if let Some(fresh) = flags.encryption(&clock)? {
                fresh.follow(&plugins);
                current.store(Arc::new(fresh));
            }
            Ok(())
        })?;
    }
    // As upstream: whether there is something to check may change only with the file.
    let checked = context.config.apiserver.encryption_provider_config_automatic_reload
        || configuration.load().has_plugins();
    Ok((Arc::new(EncryptedStore::new(store, configuration.clone())), checked.then_some(configuration)))
}

/// Takes changes of the files that say who is believed and who decides into use. Upstream does so without being asked.
fn follow_files(context: &Context, server: &ApiServer, tasks: &Tasks) -> anyhow::Result<()> {
    let flags = &context.config.apiserver;
    if let Some(path) = &flags.authentication_config {
        let issuers = flags.service_accounts.issuers(&context.config.cluster_domain);
        let (flags, clock, server) = (flags.clone(), context.clock.clone(), server.clone());
        follow(AUTHENTICATION, std::slice::from_ref(path), &context.clock, tasks, move || {
            server.configure_authentication(flags.configured_authentication(&issuers, &clock)?);
            Ok(())
        })?;
    }
    if let Some(path) = &flags.authorization_config {
        let (flags, server) = (flags.clone(), server.clone());
        follow(AUTHORIZATION, std::slice::from_ref(path), &context.clock, tasks, move || {
            server.configure_authorization(&flags.authorization()?);
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes changes of the files with configurations of admission into use.
fn follow_manifests(context: &Context, manifests: &AllManifests, tasks: &Tasks) -> anyhow::Result<()> {
    for (plugin, manifests) in manifests.each() {
        let Some(directory) = manifests.directory().map(Path::to_owned) else { continue };
        let reloads = foundation::metrics::registry().counter(
            "apiserver_manifest_admission_config_controller_automatic_reloads_total",
            "Number of times that changed manifests of an admission plugin were taken into use, or could not be.",
            &["plugin", "status"],
        );
        let manifests = manifests.clone();
        follow_directory(MANIFESTS, &directory, &context.clock, tasks, move || {
            let taken = manifests::take(&manifests);
            match &taken {
                Ok(false) => {}
                Ok(true) => reloads.with(&[plugin, "success"]).inc(),
                Err(_) => reloads.with(&[plugin, "failure"]).inc(),
            }
            taken.map(drop).with_context(|| format!("plugin {plugin}"))
        })?;
    }
    Ok(())
}

/// Takes changes of the certificates of `--tls-cert-file` and `--tls-sni-cert-key` into use.
fn follow_certificates(context: &Context, tls: Tls, tasks: &Tasks) -> anyhow::Result<()> {
    let flags = &context.config.apiserver;
    let named = flags.tls_sni_cert_key.iter().map(sni::NamedCertificate::files);
    let files: Vec<_> = named.chain(flags.serving.certificate()).flatten().cloned().collect();
    if files.is_empty() {
        return Ok(());
    }
    let again = context.clone();
    follow(SERVING_CERTIFICATES, &files, &context.clock, tasks, move || {
        tls.store(serving(&again, again.clock.now())?);
        Ok(())
    })
}

fn options(context: &Context, tokens: &Known, port: u16, now: Timestamp) -> anyhow::Result<Options> {
    let pki = &context.pki;
    let service_cidr = context.config.service_cidr.to_string();
    let authority = pki.cluster_authority().certificate().der().to_vec();
    let domain = &context.config.cluster_domain;
    let front_proxy = pki.front_proxy_authority().certificate().der().to_vec();
    let flags = &context.config.apiserver;
    let accounts = flags.service_accounts.options(pki.service_account_key().signing_key(), domain)?;
    let mut client_authorities = vec![authority.into()];
    client_authorities.extend(other_authorities(context)?);
    let authn = authn::Options {
        client_authorities,
        service_accounts: Some(accounts),
        request_header: Some(authn::RequestHeader::usual(
            vec![front_proxy.into()],
            vec![FRONT_PROXY_CLIENT.into()],
        )),
        ..authn::Options::default()
    };
    Ok(Options {
        service_cidr: Cidr::parse(&service_cidr).context("the service network is no network")?,
        advertise: Some((context.node.ip, port)),
        endpoints: flags.endpoint_reconciler(),
        kubelet: Some(kubelet_client(context, now)?),
        authn: flags.authentication(&flags.service_accounts.issuers(domain), &context.clock, authn)?,
        authz: flags.authorization()?,
        told: vec![context.cluster().object(), api_servers::object(&context.node.name, &names(context))],
        bootstrap: access::objects()
            .into_iter()
            // Once: whoever has deleted it since has withdrawn the token.
            .chain(bootstrap_secret(&tokens.agent).filter(|_| !tokens.introduced))
            .collect(),
        admission: flags.admission()?,
        fairness: flags.fairness(),
        audit: flags.audit()?,
        traces: flags.traces()?,
        cors: flags.cors()?,
        goaway_chance: flags.goaway_chance,
        request_timeout: flags.request_timeout,
        min_request_timeout: Duration::from_secs(flags.min_request_timeout),
        event_ttl: flags.event_ttl,
        aggregation: aggregation(context)?,
        flags: context.config.flags.clone(),
        hostname: Some(context.node.name.clone()),
        ..Options::default()
    })
}

/// The names and addresses under which this server is believed: no node gets a certificate for one of them.
pub fn names(context: &Context) -> Vec<String> {
    let named = context.config.apiserver.tls_sni_cert_key.iter().flat_map(sni::NamedCertificate::names);
    let mut names = context.pki.apiserver_names();
    names.extend(named.cloned());
    let brought = context.config.apiserver.serving.certificate();
    names.extend(brought.and_then(|[certificate, _]| sni::names_in(certificate).ok()).into_iter().flatten());
    names.sort_unstable();
    names.dedup();
    names
}

/// What extension API servers are shown and told.
fn aggregation(context: &Context) -> anyhow::Result<aggregation::Options> {
    let pem = |authority: &pki::Authority| authority.certificate().pem();
    let others = other_authorities(context)?;
    let others: String = others.iter().map(|other| pki::pem::encode("CERTIFICATE", other)).collect();
    Ok(aggregation::Options {
        identity: Some(Arc::new(Current(context.clone(), Leaf::FrontProxyClient))),
        announcement: Some(aggregation::Announcement {
            client_authorities: pem(context.pki.cluster_authority()) + &others,
            front_proxy_authorities: pem(context.pki.front_proxy_authority()),
            allowed_names: vec![FRONT_PROXY_CLIENT.into()],
        }),
    })
}

/// The authorities of `--client-ca-file`.
fn other_authorities(context: &Context) -> anyhow::Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    match &context.config.apiserver.serving.client_ca_file {
        Some(path) => pem::certificates(path).context("--client-ca-file"),
        None => Ok(Vec::new()),
    }
}

/// A certificate of the server's, as it is when a connection is made: it is renewed meanwhile.
pub(super) struct Current(pub(super) Context, pub(super) Leaf);

impl Current {
    fn key(&self) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let credential = self.0.pki.credential(self.1, self.0.clock.now());
        let credential = credential.inspect_err(|error| tracing::error!(%error, "no certificate")).ok()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&credential.key()).ok()?;
        Some(Arc::new(rustls::sign::CertifiedKey::new(credential.chain(), key)))
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Current").field(&self.1).finish_non_exhaustive()
    }
}

impl rustls::client::ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Current {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.key()
    }
}

/// How the server reaches kubelets: by its client certificate, trusting the cluster's authority.
fn kubelet_client(context: &Context, now: Timestamp) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    // Made now, so that a fault in it is told at the start.
    context.pki.credential(Leaf::ApiserverKubeletClient, now)?;
    let config = foundation::tls::client()
        .with_root_certificates(authorities(context)?)
        .with_client_cert_resolver(Arc::new(Current(context.clone(), Leaf::ApiserverKubeletClient)));
    Ok(Arc::new(config))
}

pub(super) fn authorities(context: &Context) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(context.pki.cluster_authority().certificate().der().to_vec().into())
        .context("the cluster's authority cannot be used")?;
    Ok(roots)
}

/// The server's own TLS: a bad client certificate is answered with a 401, by authentication, and not with a broken handshake.
fn serving(context: &Context, now: Timestamp) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let pki = &context.pki;
    // The aggregator's own certificate comes from an authority of its own.
    let known = [pki.cluster_authority(), pki.front_proxy_authority()];
    let known = known.map(|authority| authority.certificate().der().to_vec().into());
    let known: Vec<_> = known.into_iter().chain(other_authorities(context)?).collect();
    let config = server_config(context, Leaf::ApiserverServing, authn::tls_verifier(&known), now)?;
    let named = &context.config.apiserver.tls_sni_cert_key;
    let brought = context.config.apiserver.serving.certificate();
    if named.is_empty() && brought.is_none() {
        return Ok(config);
    }
    let other = match brought {
        Some([certificate, key]) => pem::certified_key(certificate, key).context("--tls-cert-file")?,
        None => {
            let credential = pki.credential(Leaf::ApiserverServing, now)?;
            let key = rustls::crypto::ring::sign::any_supported_type(&credential.key())
                .context("the serving certificate cannot be used")?;
            rustls::sign::CertifiedKey::new(credential.chain(), key)
        }
    };
    let other = Arc::new(other);
    let mut config = (*config).clone();
    config.cert_resolver = Arc::new(sni::ByName::load(named, other)?);
    Ok(Arc::new(config))
}

/// A server's TLS with a certificate of the PKI.
fn server_config(
    context: &Context,
    leaf: Leaf,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    now: Timestamp,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let credential = context.pki.credential(leaf, now)?;
    let mut config = foundation::tls::server()
        .with_client_cert_verifier(verifier)
        .with_single_cert(credential.chain(), credential.key())
        .context("the serving certificate cannot be used")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The TLS of the kubelet's server.
pub fn kubelet_serving(context: &Context, now: Timestamp) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let provider = foundation::tls::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(context)?), provider)
        .allow_unauthenticated()
        .build()
        .context("client certificates cannot be verified")?;
    let mut config = (*server_config(context, Leaf::KubeletServing, verifier, now)?).clone();
    // Streams (exec, attach) upgrade an HTTP/1.1 connection.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn renew(context: Context, tls: Tls) {
    const AGAIN: Duration = Duration::from_secs(60);
    let mut failed = false;
    loop {
        let now = context.clock.now();
        let Some(due) = context.pki.next_renewal() else { return };
        // A certificate that was renewed but could not be taken into use (a file beside it is broken) is not due again.
        let wait = if due > now && !failed { due.duration_since(now).unsigned_abs() } else { AGAIN };
        context.clock.sleep(wait).await;
        let now = context.clock.now();
        match context.pki.renew_due(now).map_err(anyhow::Error::from).and_then(|_| serving(&context, now)) {
            Ok(fresh) => {
                tls.store(fresh);
                failed = false;
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot renew certificates, trying again");
                failed = true;
            }
        }
    }
}

fn write_kubeconfig(context: &Context, port: u16, now: Timestamp) -> anyhow::Result<()> {
    let host = match context.config.node.bind_address {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "[::1]".to_owned(),
        ip => ip.to_string(),
    };
    let credential = context.pki.credential(Leaf::Admin, now)?;
    let server = format!("https://{host}:{port}");
    let kubeconfig = pki::kubeconfig::Kubeconfig {
        server: &server,
        cluster: "ironclad",
        user: "admin",
        authority: context.pki.cluster_authority().certificate(),
        credential: &credential,
    };
    let path = context.config.kubeconfig();
    kubeconfig.write(&path).with_context(|| format!("cannot write {}", path.display()))
}
