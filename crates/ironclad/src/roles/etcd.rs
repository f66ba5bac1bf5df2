//! The etcd v3 API of a store: of a server, for the cluster's administrators, or alone as `ironclad etcd`.
//!
//! Opens the store in the data directory, and the ports. Whoever may use a server's is `administrators`'s to say; of
//! `ironclad etcd`, `flags` are the settings, `others` etcd's flags that mean nothing here, `listeners` the ports,
//! `quota`, `retention` and `notify` what it does beside. `client_urls` is how members know where the others are reached.

mod administrators;
pub mod client_urls;
pub mod flags;
mod listeners;
mod notify;
pub mod others;
mod quota;
mod retention;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use foundation::{SharedClock, SystemClock, Tasks};
use futures::FutureExt as _;
use store::embedded::Engine;
use store_raft::RaftStore;
use store_raft::peers::Peers;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::store::Opened;
pub use flags::Options;
use flags::Retention;

/// How long the tasks of `ironclad etcd` may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Runs the store behind its API until it is told to stop.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    options.others.check()?;
    refuse_etcds_own(&options.data_dir)?;
    let (retention, settings) = (options.retention()?, options.engine(quota::memory())?);
    let (clock, tasks) = (SystemClock::shared(), Tasks::new("etcd"));
    apiserver::metrics::process::register();
    let tls = listeners::tls(&options, &clock, &tasks)?;
    let ports = listeners::open(&options.listen_client_urls, tls.as_ref()).await?;
    if ports.is_empty() {
        bail!("--listen-client-urls has no URL");
    }
    if let Some(port) = ports.iter().find(|port| port.tls.is_none()).filter(|_| tls.is_some()) {
        tracing::warn!(url = port.url, "neither certificates nor encryption there: the URL is http");
    }
    let pages = listeners::open(&options.listen_metrics_urls, tls.as_ref()).await?;
    let engine = super::store::open_with(&options.data_dir, settings, clock.clone())?;
    let given = |urls: &[String]| urls.iter().filter(|url| !url.is_empty()).cloned().collect::<Vec<_>>();
    let mut client_urls = given(&options.advertise_client_urls);
    if client_urls.is_empty() {
        client_urls = ports.iter().map(|port| port.url.clone()).collect();
    }
    let described = etcd::Options {
        name: options.name.clone(),
        peer_urls: given(&options.initial_advertise_peer_urls),
        max_txn_ops: options.max_txn_ops,
        progress_interval: options.progress_interval(),
        scratch: Some(options.data_dir.clone()),
        ..describe(&engine, client_urls)
    };
    let server = etcd::Server::new(engine.clone(), described, clock.clone());
    for port in ports {
        tasks.spawn("etcd", etcd::serve(server.clone(), port.listener, port.tls, tasks.token()));
    }
    for port in pages {
        tasks.spawn("pages", etcd::serve_pages(server.clone(), port.listener, port.tls, tasks.token()));
    }
    if let Retention::Revisions(revisions) = retention {
        let store = engine.clone();
        tasks.spawn_until_cancelled("retention", async move {
            retention::keep(&*store, clock, revisions).await;
        });
    }
    notify::ready();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tasks.shutdown(ENDING).await;
    engine.shutdown();
    Ok(())
}

/// Refuses the data directory of an etcd: beside what is in it an empty store would be made.
fn refuse_etcds_own(directory: &Path) -> anyhow::Result<()> {
    let member = directory.join("member");
    if ["snap", "wal"].iter().any(|below| member.join(below).exists()) {
        let shown = directory.display();
        bail!(
            "{shown} is the data directory of an etcd, whose files are not read here: save what is in it with `etcdctl \
             snapshot save` while that etcd runs, restore that with `ironclad store snapshot restore --data-dir=NEW`, and \
             start with --data-dir=NEW/store"
        );
    }
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
    let urls = vec![format!("https://{}", listeners::reachable(address, Some(context.node.ip)))];
    if let Some(member) = opened.member() {
        tell(context, member, urls.clone(), tasks);
    }
    let described = match opened {
        Opened::Embedded(engine) => describe(engine, urls),
        Opened::Replicated(member) => etcd::Options {
            id: member.identity().member,
            name: context.node.name.clone(),
            client_urls: urls,
            members: Some(Arc::new(peers(member.clone(), context.clock.clone()))),
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

/// The members, and where they say that they are.
fn peers(member: Arc<RaftStore>, clock: SharedClock) -> Peers {
    let client_urls = |member: Arc<RaftStore>| async move { client_urls::known(&*member).await }.boxed();
    Peers::new(member, Box::new(client_urls), clock)
}

/// Has the other members know where this one is reached; nowhere, where there are no URLs. What former members have said is
/// removed.
pub fn tell(context: &Context, member: &Arc<RaftStore>, urls: Vec<String>, tasks: &Tasks) {
    let (clock, member) = (context.clock.clone(), member.clone());
    tasks.spawn_until_cancelled("client-urls", async move {
        client_urls::publish(&*member, clock.clone(), member.identity().member, &urls).await;
        client_urls::tidy(&*member, clock, member.standing()).await;
    });
}

fn describe(engine: &Engine, client_urls: Vec<String>) -> etcd::Options {
    // Clients take 0 for nobody.
    etcd::Options { id: engine.id().max(1), client_urls, ..etcd::Options::default() }
}
