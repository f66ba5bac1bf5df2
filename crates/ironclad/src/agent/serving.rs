//! How an agent's kubelet shows who it is: by a certificate that the cluster signs for the addresses of its Node.
//!
//! Asked for as soon as the Node is registered with its addresses, again when these change, and before it ends. Until there
//! is one, whoever connects is turned away in the handshake: nobody is ever shown a certificate that proves nothing.
//! Reads the Node; reads and writes `<data-dir>/agent/kubelet-serving.pem`.
//! Upstream: `pkg/kubelet/certificate` (`serverTLSBootstrap`).

use std::collections::BTreeSet;
use std::net::IpAddr;
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
    let provider = foundation::tls::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("client certificates cannot be verified")?;
    let shown = Arc::new(Shown::default());
    let mut tls =
        foundation::tls::server().with_client_cert_verifier(verifier).with_cert_resolver(shown.clone());
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
    let mut held = held.map(|credential| Held::new(credential, &*context.randomness));
    // What was asked for when the one that is held was issued: a signer may have given other names, and would do so again.
    let mut asked: Option<Subject> = None;
    let mut changes = nodes.subscribe();
    let path = context.serving_certificate();
    loop {
        let wanted = nodes.get(None, &context.node.name).and_then(|node| subject(&context, &node));
        let Some(wanted) = wanted else {
            changes.recv().await;
            continue;
        };
        if let Some(held) = held.as_ref().filter(|held| is_good(&held.credential, &wanted, asked.as_ref())) {
            tokio::select! {
                () = held.due(&*context.clock) => {}
                _ = changes.recv() => continue,
            }
        }
        // The addresses may change while nobody approves the old ones.
        let renewed = certificates::renewed(&context, &client, certificates::Kind::Serving, &wanted);
        let fresh = tokio::select! {
            fresh = renewed => fresh,
            () = changed(&context, &nodes, &wanted) => continue,
        };
        if !fresh.is_of(&wanted) {
            tracing::warn!(
                "the kubelet's certificate was issued for other names than were asked for; it is used"
            );
        }
        keep(&fresh, &path);
        shown.show(&fresh);
        held = Some(Held::fresh(fresh, &*context.randomness, context.clock.now()));
        asked = Some(wanted);
    }
}

/// Whether there is nothing to ask for until a certificate ends: it is for these names, or is what was issued when they were
/// asked for.
fn is_good(held: &Credential, wanted: &Subject, asked: Option<&Subject>) -> bool {
    asked == Some(wanted) || held.is_of(wanted)
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
    // Each once: a machine's two addresses may be one.
    let (ips, names): (BTreeSet<IpAddr>, BTreeSet<String>) = (ips.collect(), names.collect());
    let (ip_addresses, dns_names) = (ips.into_iter().collect(), names.into_iter().collect());
    let subject = Subject { ip_addresses, dns_names, ..context.subject() };
    (!subject.ip_addresses.is_empty()).then_some(subject)
}
