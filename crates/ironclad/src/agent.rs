//! `ironclad agent`: a node of a cluster whose servers are elsewhere.
//!
//! Joins by a token ([`join`]), has its certificates signed by the cluster and renewed in place ([`certificates`],
//! [`serving`]), follows where the servers are ([`servers`]), and runs the parts of a node ([`crate::node`]).
//!
//! Reads and writes `<data-dir>/agent`: the cluster's authority (`ca.crt`), the node's two certificates with their keys
//! (`kubelet-client.pem`, `kubelet-serving.pem`, 0600), and the servers that were known last (`servers.json`).
//! Upstream: a kubelet with `--bootstrap-kubeconfig`, `rotateCertificates` and `serverTLSBootstrap`; k3s' agent.

mod certificates;
mod join;
mod servers;
mod serving;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use api::types::core::v1::ConfigMap;
use client::{Client, Informers, ManyServers};
use foundation::{SharedClock, SharedRandomness, SystemClock, SystemRandomness, Tasks};
use jiff::Timestamp;
use pki::Credential;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    config::agent::Agent,
    node, preflight,
    progress::{self, Progress},
    uninstall,
};

/// How long all parts together have to stop.
const STOP: Duration = Duration::from_secs(12);
/// First and longest wait before a server is asked again for what nothing goes on without.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What every part of the agent is given.
#[derive(Clone)]
struct Context {
    dir: PathBuf,
    node: node::Identity,
    clock: SharedClock,
    randomness: SharedRandomness,
}

impl Context {
    fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn client_certificate(&self) -> PathBuf {
        self.dir.join("kubelet-client.pem")
    }

    fn serving_certificate(&self) -> PathBuf {
        self.dir.join("kubelet-serving.pem")
    }

    /// The node, as its certificates name it.
    fn subject(&self) -> pki::csr::Subject {
        pki::csr::Subject {
            common_name: format!("system:node:{}", self.node.name),
            organizations: vec!["system:nodes".to_owned()],
            ..pki::csr::Subject::default()
        }
    }
}

/// What a node that has joined is shown by, and whom it believes.
struct Joined {
    authority_pem: String,
    credential: Credential,
}

/// Runs the agent until it is told to stop.
pub async fn run(config: Agent) -> anyhow::Result<()> {
    let mut progress = Progress::default();
    // Handlers first: a signal during the start must stop it in order too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    preflight::check_agent(&config)?;
    let stop_pods = config.node.stop_pods;
    // Held until this process ends: who removes the node knows by it that somebody is at home.
    let _lock = uninstall::announce(&config.dirs, &config.node)?;
    let tasks = Tasks::new("ironclad");
    let nodes = tasks.child("node");
    let mut parts = node::Parts::default();
    let outcome = tokio::select! {
        outcome = run_parts(&config, &tasks, &nodes, &mut parts, &mut progress) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // From here on every step is taken whatever the one before came to; the first failure is what is told.
    let stopped = if stop_pods { parts.stop_pods(STOP / 4).await } else { Ok(()) };
    // The node first: it still has something to report.
    for scope in [&nodes, &tasks] {
        let late = scope.shutdown(STOP / 4).await;
        if !late.is_empty() {
            tracing::warn!(?late, "did not stop in time");
        }
    }
    outcome.and(stopped)
}

async fn run_parts(
    config: &Agent,
    tasks: &Tasks,
    nodes: &Tasks,
    parts: &mut node::Parts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (started, clock, randomness) = (Instant::now(), SystemClock::shared(), SystemRandomness::shared());
    let dir = config.dirs.data_dir.join("agent");
    pki::private_dir(&dir)?;
    let context = Context { dir, node: node::identity::of(&config.node)?, clock, randomness };
    let joined = match join::joined_before(&context, &config.join)? {
        Some(joined) => joined,
        None => {
            let joined = join::join(&context, &config.join).await?;
            progress.done("joined", &format!("node {}", context.node.name), started.elapsed());
            joined
        }
    };
    let known = servers::Known::open(&context.dir, &config.join.server)?;
    let transport = Arc::new(known.transport(&context, &joined)?);
    let client = Client::new(transport.clone(), "kubelet");
    let cluster = settings(&context, &client).await?;
    progress.done("cluster", &cluster.to_string(), started.elapsed());
    let on_node = on_node(config, &context, cluster, &joined, client.clone(), tasks)?;
    known.follow(transport.clone(), &on_node.informers, tasks);
    let ended = renew(&context, joined.credential, transport, client, tasks);
    let run = async {
        parts.start(&on_node, nodes, progress).await?;
        parts.ready(&on_node, nodes, progress).await?;
        let ready = progress.bold("Ready");
        progress.say(&format!("\n{ready} in {}.\n", progress::duration(progress.elapsed())));
        tasks.token().cancelled().await;
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = run => outcome,
        Ok(until) = ended => bail!(
            "the certificate by which this node is a client of the cluster ended at {until}, and was not renewed: start the \
             agent with --token or --token-file to have it join again"
        ),
    }
}

/// What the cluster's nodes have to agree on. Waits for a server: nothing goes on without.
async fn settings(context: &Context, client: &Client) -> anyhow::Result<node::Cluster> {
    let mut wait = RETRY.0;
    loop {
        let asked = client.get::<ConfigMap>(Some(node::Cluster::NAMESPACE), node::Cluster::NAME).await;
        match asked {
            Ok(told) => return Ok(node::Cluster::read(&told)?),
            Err(error) if error.status().is_some_and(|status| matches!(status.code, 401 | 403 | 404)) => {
                return Err(error).context("the servers do not tell this node their settings");
            }
            Err(error) => tracing::warn!(%error, "no server tells the cluster's settings, asking again"),
        }
        context.clock.sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// What the node's parts are given.
fn on_node(
    config: &Agent,
    context: &Context,
    cluster: node::Cluster,
    joined: &Joined,
    client: Client,
    tasks: &Tasks,
) -> anyhow::Result<node::Context> {
    let informers = Informers::new(client.clone(), tasks, context.clock.clone());
    let serving = serving::start(context, &joined.authority_pem, client.clone(), &informers, tasks)?;
    Ok(node::Context {
        dirs: config.dirs.clone(),
        config: config.node.clone(),
        cluster,
        identity: context.node.clone(),
        clock: context.clock.clone(),
        randomness: context.randomness.clone(),
        client,
        informers,
        serving,
    })
}

/// Has the node's certificate as a client renewed before it ends, and shown from then on. What is returned says when it
/// ended, if nobody renewed it (the machine slept, or was cut off): with it nothing can be asked for any more. As upstream's
/// kubelet this agent ends then; whoever starts it again may have given it a token.
fn renew(
    context: &Context,
    credential: Credential,
    transport: Arc<ManyServers>,
    client: Client,
    tasks: &Tasks,
) -> oneshot::Receiver<Timestamp> {
    let (context, path) = (context.clone(), context.client_certificate());
    let (say, ended) = oneshot::channel();
    tasks.spawn_until_cancelled("certificates", async move {
        let mut held = certificates::Held::new(credential, &*context.randomness);
        loop {
            held.due(&*context.clock).await;
            let subject = context.subject();
            let renewed = certificates::renewed(&context, &client, certificates::Kind::Client, &subject);
            let fresh = tokio::select! {
                fresh = renewed => fresh,
                () = held.ended(&*context.clock) => {
                    // Nobody waits for it when this process is about to end anyway.
                    let _ = say.send(held.credential.not_after());
                    return;
                }
            };
            keep(&fresh, &path);
            if let Err(error) = transport.set_identity(certificates::identity(&fresh)) {
                tracing::error!(%error, "the renewed certificate cannot be used");
            }
            held = certificates::Held::fresh(fresh, &*context.randomness, context.clock.now());
        }
    });
    ended
}

/// Keeps a certificate for the next start; without it this node would have to join again.
fn keep(credential: &Credential, path: &Path) {
    if let Err(error) = credential.write(path) {
        tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "a renewed certificate is not kept"
        );
    }
}
