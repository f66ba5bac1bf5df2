//! `ironclad server`: starts the parts of a cluster in order, and stops them in order.
//!
//! Prints one line per part as it gets ready, then where the kubeconfig is. The order: keys and store, API server,
//! everything else at once. Not here: how a part starts (`roles`).

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use ::apiserver::ApiServer;
use anyhow::Context as _;
use foundation::{SystemClock, SystemRandomness, Tasks};
use pki::Tokens;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Part, Server},
    join::{self, HandedOver, agreed::Agreed},
    node, preflight,
    progress::{self, Progress},
    roles::{
        self, Api, Context,
        store::{Opened, Plan, Reset, agreement},
    },
    tokens::{
        self,
        shared::{Settled, Shared},
    },
    uninstall,
};

/// How long all parts together have to stop.
const STOP: Duration = Duration::from_secs(12);
/// How long a start is silent about other servers that it waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the server until it is told to stop.
pub async fn run(config: Server) -> anyhow::Result<()> {
    let mut progress = Progress::default();
    // Handlers first: a signal during the start must stop it in order too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let listener = preflight::check(&config).await?;
    let stop_pods = config.node.stop_pods;
    // Held until this process ends: who removes the cluster knows by it that somebody is at home.
    let _lock = uninstall::announce(&config.dirs, &config.node)?;

    let scopes = Scopes::new();
    let mut node = node::Parts::default();
    let delay = config.apiserver.serving.shutdown_delay_duration;
    let mut opened = None;
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let run = run_parts(config, &mut opened, listener, &scopes, &mut node, &mut progress);
    let ended = tokio::select! {
        outcome = run => Some(outcome),
        () = told() => None,
    };
    if let (None, Some(server), false) = (&ended, scopes.server.get(), delay.is_zero()) {
        server.announce_stop();
        tokio::select! {
            () = SystemClock::shared().sleep(delay) => {}
            // Told again: at once.
            () = told() => {}
        }
    }
    let outcome = ended.unwrap_or(Ok(()));
    // From here on every step is taken whatever the one before came to; the first failure is what is told.
    let stopped = if stop_pods { node.stop_pods(STOP / 4).await } else { Ok(()) };
    scopes.shutdown().await;
    if let Some(opened) = opened {
        // A member that leads says so to the others before it goes, through this event loop.
        tokio::task::spawn_blocking(move || opened.shutdown()).await.context("the store was not closed")?;
    }
    outcome.and(stopped)
}

/// The tasks of all parts, by when they end.
struct Scopes {
    /// The API server, once it serves: it is told of the end before its tasks are.
    server: OnceLock<ApiServer>,
    all: Tasks,
    nodes: Tasks,
    loops: Tasks,
    control_plane: Tasks,
}

impl Scopes {
    fn new() -> Self {
        let all = Tasks::new("ironclad");
        let (nodes, loops, control_plane) =
            (all.child("node"), all.child("loops"), all.child("control-plane"));
        Self { server: OnceLock::new(), all, nodes, loops, control_plane }
    }

    /// Ends the node first, which still has something to report; then the loops; then the API they use.
    async fn shutdown(&self) {
        for scope in [&self.nodes, &self.loops, &self.control_plane, &self.all] {
            let late = scope.shutdown(STOP / 4).await;
            if !late.is_empty() {
                tracing::warn!(?late, "did not stop in time");
            }
        }
    }
}

/// Opens the store: the keys first, which a server that joins has from its cluster.
async fn open_store(
    config: Server,
    slot: &mut Option<Opened>,
    progress: &mut Progress,
) -> anyhow::Result<(Context, Settled)> {
    let started = Instant::now();
    let plan = roles::store::plan(&config)?;
    let randomness = SystemRandomness::shared();
    let handed = match &plan {
        Plan::Join(server) => {
            let handed = join::enter(&config, server, randomness.u64()).await?;
            progress.done("keys", &format!("of the cluster of {server}"), started.elapsed());
            Some(handed)
        }
        _ => None,
    };
    let (context, tokens, given) =
        context(config, &plan, handed.as_ref(), SystemClock::shared(), randomness)?;
    let (data_dir, settings) = (&context.config.dirs.data_dir, &context.config.datastore);
    let opened = slot.insert(roles::store::open(&context, &plan, handed).await?);
    if let Some(member) = opened.member() {
        if plan == (Plan::Member { reset: Reset::Now }) {
            progress.say(&roles::store::member::after_reset(data_dir));
        }
        let mut joined = std::pin::pin!(member.joined());
        tokio::select! {
            joined = &mut joined => joined,
            () = context.clock.sleep(PATIENCE) => {
                progress.say("waiting until a majority of the servers runs and is reached");
                joined.await
            }
        }
        .context("this server cannot take part in its cluster's store")?;
    }
    if opened.is_shared() {
        let (store, mine) = (opened.store(), Agreed::of(&context.config)?);
        let alone = opened.is_alone(context.node.ip).await?;
        for difference in agreement::check(&*store, &context.node.name, mine, alone).await? {
            tracing::warn!("the settings of this server are not those of all others: {difference}");
        }
    }
    let shared = Arc::new(Shared::new(opened.store(), context.pki.clone(), data_dir.clone()));
    // What a person has given to a server that is alone is meant for the cluster.
    let insist = given && matches!(plan, Plan::Embedded | Plan::Found);
    let known = shared.settle(&tokens, insist).await.context("the tokens of this cluster cannot be used")?;
    progress.done("store", &opened.place(data_dir, settings), started.elapsed());
    Ok((context, Settled { shared, known }))
}

/// Starts everything and waits for the end.
async fn run_parts(
    config: Server,
    slot: &mut Option<Opened>,
    listener: tokio::net::TcpListener,
    scopes: &Scopes,
    node: &mut node::Parts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (context, tokens) = open_store(config, slot, progress).await?;
    let opened = slot.as_ref().context("the store is open")?;
    // From here on: a member may fail, or be removed, while the parts wait for each other.
    tokio::select! {
        outcome = serve(&context, opened, &tokens, listener, scopes, node, progress) => outcome,
        why = opened.ended() => Err(anyhow::Error::new(why).context("the store does not serve any more")),
    }
}

/// Starts everything over the store and waits to be told to stop.
async fn serve(
    context: &Context,
    opened: &Opened,
    tokens: &Settled,
    listener: tokio::net::TcpListener,
    scopes: &Scopes,
    node: &mut node::Parts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let running = roles::apiserver::start(context, opened, tokens, listener, &scopes.control_plane).await?;
    let (server, port) = (running.server, running.port);
    let _ = scopes.server.set(server.clone());
    progress.done("apiserver", &format!("https://{}:{port}", context.node.ip), started.elapsed());
    let api = Api::new(server, &scopes.loops, context.clock.clone());
    roles::tokens::start(context, &api, &running.changes, &tokens.known, &scopes.control_plane);
    if let Some(member) = opened.member().filter(|_| context.config.datastore.etcd_listen.is_none()) {
        // It may have been served before.
        roles::etcd::tell(context, member, Vec::new(), &scopes.control_plane);
    }
    if let Some(address) = context.config.datastore.etcd_listen {
        let address = roles::etcd::start(context, opened, address, &scopes.control_plane).await?;
        progress.done("etcd", &format!("https://{address}"), started.elapsed());
    }
    if opened.is_external() {
        roles::store::keep_compacted(context, opened.store(), &scopes.control_plane);
    }
    roles::backup::start(context, opened.store(), &scopes.control_plane)?;
    start_loops(context, &api, opened.is_shared(), &scopes.loops, progress);
    start_parts(context, &api, scopes, node, progress).await?;
    progress.say(&format!(
        "\n{} in {}.\n\n  export KUBECONFIG={}\n  kubectl get nodes\n",
        progress.bold("Ready"),
        progress::duration(progress.elapsed()),
        context.config.kubeconfig().display()
    ));
    scopes.all.token().cancelled().await;
    Ok(())
}

/// What all parts are given; the tokens of the data directory, and whether the settings give one.
fn context(
    config: Server,
    plan: &Plan,
    handed: Option<&HandedOver>,
    clock: foundation::SharedClock,
    randomness: foundation::SharedRandomness,
) -> anyhow::Result<(Context, Tokens, bool)> {
    let node = node::identity::of(&config.node)?;
    let settings = pki::Settings {
        dir: config.dirs.data_dir.join("pki"),
        node_name: node.name.clone(),
        node_ips: vec![node.ip],
        service_ips: vec![config.service_cidr.nth(1).into()],
        cluster_domain: config.cluster_domain.clone(),
        extra_names: config.tls_san.clone(),
    };
    let pki = pki::Pki::open(settings, clock.now()).context("the cluster's certificates cannot be used")?;
    let given = match plan {
        // The flags that say how to become a member do not count for one.
        Plan::Member { .. } => None,
        _ => config.cluster.given_token()?,
    };
    let tokens = tokens::open(&config.dirs.data_dir, &pki, given.as_ref(), handed)?;
    let (config, pki) = (Arc::new(config), Arc::new(pki));
    Ok((Context { config, node, pki, clock, randomness }, tokens, given.is_some()))
}

/// Starts the controllers and the scheduler: at once, or where others share the store, when this server leads them.
fn start_loops(context: &Context, api: &Api, shared: bool, loops: &Tasks, progress: &mut Progress) {
    let started = Instant::now();
    let start = |component, user, start: roles::leader::Start| match shared {
        true => roles::leader::run(context, api, loops, component, user, start),
        false => start(context, api, loops),
    };
    if context.config.enabled(Part::Controllers) {
        let user = "system:kube-controller-manager";
        start("kube-controller-manager", user, roles::controllers::start);
        progress.done("controllers", &format!("{} of them", controllers::all().len()), started.elapsed());
    }
    if context.config.enabled(Part::Scheduler) {
        start("kube-scheduler", "system:kube-scheduler", roles::scheduler::start);
        progress.done("scheduler", "default-scheduler", started.elapsed());
    }
}

async fn start_parts(
    context: &Context,
    api: &Api,
    Scopes { nodes, .. }: &Scopes,
    node: &mut node::Parts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let config = &context.config;
    let started = Instant::now();
    if config.hollow_nodes > 0 {
        roles::kubelet::start_hollow(context, api, nodes).ready().await;
        progress.done("nodes", &format!("{} simulated", config.hollow_nodes), started.elapsed());
    }
    // Simulated nodes are in place of this one.
    let is_node = config.enabled(Part::Kubelet) || config.enabled(Part::Proxy);
    let on_node = if is_node { Some(context.on_node(api)?) } else { None };
    if let Some(on_node) = &on_node {
        node.start(on_node, nodes, progress).await?;
    }
    if config.enabled(Part::Dns) {
        roles::dns::start(context, api, nodes).await?;
        progress.done(
            "dns",
            &format!("{} at {}", config.cluster_domain, config.cluster_dns()),
            started.elapsed(),
        );
    }
    if let Some(on_node) = &on_node {
        node.ready(on_node, nodes, progress).await?;
    }
    Ok(())
}
