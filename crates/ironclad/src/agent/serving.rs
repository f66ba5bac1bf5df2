//! How an agent's kubelet shows who it is: by a certificate that the cluster signs for the addresses of its Node.
//!
//! Asked for as soon as the Node is registered with its addresses, again when these change, and before it ends. Until there
//! is one, whoever connects is turned away in the handshake: nobody is ever shown a certificate that proves nothing.
//! Reads the Node; reads and writes `<data-dir>/agent/kubelet-serving.pem`.
//! Upstream: `pkg/kubelet/certificate` (`serverTLSBootstrap`).

use std::sync::Arc;

use anyhow::Context as _;
use api::types::core::v1::Node;
use arc_swap::ArcSwapOption;
use client::{Client, Informer, Informers, ListOptions};
use foundation::Tasks;
use pki::Credential;
use pki::csr::Subject;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::certificates::{self, Held};
use super::{Context, keep};
use crate::node;

/// The certificate as it is when a connection is made.
#[derive(Debug, Default)]
struct Shown(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Shown {
    fn show(&self, credential: &Credential) {
        match rustls::crypto::ring::sign::any_supported_type(&credential.key()) {
            Ok(key) => self.0.store(Some(Arc::new(CertifiedKey::new(credential.chain(), key)))),
            Err(error) => tracing::error!(%error, "the kubelet's certificate cannot be used"),
        }
    }
}

/// Begins to look after the certificate; returns the TLS of the kubelet's server.
///
/// # Errors
/// An authority that cannot be used; a file that cannot be read.
pub(super) fn start(
    context: &Context,
    authority_pem: &str,
    client: Client,
    informers: &Informers,
    tasks: &Tasks,
) -> anyhow::Result<node::Serving> {
    let roots = client::trust::authorities(authority_pem.as_bytes()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("client certificates cannot be verified")?;
    let shown = Arc::new(Shown::default());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS 1.3 is not available")?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown.clone());
    // Streams (exec, attach) upgrade an HTTP/1.1 connection.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let now = context.clock.now();
    let held = Credential::read(&context.serving_certificate())?.filter(|held| now < held.not_after());
    if let Some(held) = &held {
        shown.show(held);
    }
    let own = ListOptions::fields(format!("metadata.name={}", context.node.name));
    let nodes = informers.informer_with::<Node>(own);
    tasks.spawn_until_cancelled("certificates", look_after(context.clone(), client, nodes, shown, held));
    let tls = Arc::new(tls);
    Ok(Arc::new(move || tls.clone()))
}

async fn look_after(
    context: Context,
    client: Client,
    nodes: Informer<Node>,
    shown: Arc<Shown>,
    held: Option<Credential>,
) {
    let hold = |credential| Held::new(credential, &*context.randomness);
    let mut held = held.map(hold);
    let mut changes = nodes.subscribe();
    let path = context.serving_certificate();
    loop {
        let wanted = nodes.get(None, &context.node.name).and_then(|node| subject(&context, &node));
        match (&wanted, &held) {
            (Some(wanted), Some(held)) if held.credential.is_of(wanted) => tokio::select! {
                () = held.due(&*context.clock) => {}
                _ = changes.recv() => continue,
            },
            (None, _) => {
                changes.recv().await;
                continue;
            }
            (Some(_), _) => {}
        }
        let Some(wanted) = wanted else { continue };
        // The addresses may change while nobody approves the old ones.
        let asked = certificates::renewed(&context, &client, certificates::Kind::Serving, &wanted);
        let fresh = tokio::select! {
            fresh = asked => fresh,
            () = changed(&context, &nodes, &wanted) => continue,
        };
        keep(&fresh, &path);
        shown.show(&fresh);
        held = Some(hold(fresh));
    }
}

/// Returns once the node is another than `subject`.
async fn changed(context: &Context, nodes: &Informer<Node>, subject: &Subject) {
    let mut changes = nodes.subscribe();
    loop {
        let now = nodes.get(None, &context.node.name).and_then(|node| self::subject(context, &node));
        if now.is_some_and(|now| now != *subject) {
            return;
        }
        changes.recv().await;
    }
}

/// Whom the certificate is to name: the node, by its name and its addresses. `None` while it has none.
fn subject(context: &Context, node: &Node) -> Option<Subject> {
    let addresses = node.status.as_ref()?.addresses.as_deref().unwrap_or_default();
    let of = |kind: &'static str| addresses.iter().filter(move |address| address.type_ == kind);
    let ips = of("InternalIP").chain(of("ExternalIP")).filter_map(|address| address.address.parse().ok());
    let names =
        of("Hostname").map(|address| address.address.clone()).filter(|name| *name == context.node.name);
    let subject = Subject { ip_addresses: ips.collect(), dns_names: names.collect(), ..context.subject() };
    (!subject.ip_addresses.is_empty()).then_some(subject)
}
