//! `ironclad server`: starts the parts of a cluster in order, and stops them in order.
//!
//! Prints one line per part as it gets ready, then where the kubeconfig is. The order: store and keys, API server,
//! everything else at once. Not here: how a part starts (`roles`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use foundation::{SystemClock, SystemRandomness, Tasks};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{Part, Server},
    node, preflight,
    progress::{self, Progress},
    roles::{self, Api, Context},
    tokens, uninstall,
};

/// How long all parts together have to stop.
const STOP: Duration = Duration::from_secs(12);

/// Runs the server until it is told to stop.
pub async fn run(config: Server) -> anyhow::Result<()> {
    let mut progress = Progress::default();
    // Handlers first: a signal during the start must stop it in order too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let listener = preflight::check(&config).await?;
    let started = Instant::now();
    let clock = SystemClock::shared();
    let (data_dir, stop_pods) = (config.dirs.data_dir.clone(), config.node.stop_pods);
    // Held until this process ends: who removes the cluster knows by it that somebody is at home.
    let _lock = uninstall::announce(&config.dirs, &config.node)?;
    let opened = roles::store::open(&data_dir, &config.datastore, clock.clone())?;
    progress.done("store", &opened.place(&data_dir, &config.datastore), started.elapsed());

    let scopes = Scopes::new();
    let mut node = node::Parts::default();
    let run = run_parts(config, clock, &opened, listener, &scopes, &mut node, &mut progress);
    let outcome = tokio::select! {
        outcome = run => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // From here on every step is taken whatever the one before came to; the first failure is what is told.
    let stopped = if stop_pods { node.stop_pods(STOP / 4).await } else { Ok(()) };
    scopes.shutdown().await;
    opened.shutdown();
    outcome.and(stopped)
}

/// The tasks of all parts, by when they end.
struct Scopes {
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
        Self { all, nodes, loops, control_plane }
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

/// Starts everything and waits for the end.
async fn run_parts(
    config: Server,
    clock: foundation::SharedClock,
    opened: &roles::store::Opened,
    listener: tokio::net::TcpListener,
    scopes: &Scopes,
    node: &mut node::Parts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let context = context(config, clock)?;
    let started = Instant::now();
    let api = roles::apiserver::start(&context, opened.store(), listener, &scopes.control_plane).await?;
    let (server, port) = (api.server, api.port);
    progress.done("apiserver", &format!("https://{}:{port}", context.node.ip), started.elapsed());
    let api = Api::new(server, &scopes.loops, context.clock.clone());
    if let (roles::store::Opened::Embedded(engine), Some(address)) =
        (opened, context.config.datastore.etcd_listen)
    {
        let address = roles::etcd::start(&context, engine, address, &scopes.control_plane).await?;
        progress.done("etcd", &format!("https://{address}"), started.elapsed());
    }
    if opened.is_shared() {
        roles::store::keep_compacted(&context, opened.store(), &scopes.control_plane);
    }
    roles::backup::start(&context, opened.store(), &scopes.control_plane)?;
    start_loops(&context, &api, opened.is_shared(), &scopes.loops, progress);
    start_parts(&context, &api, scopes, node, progress).await?;
    progress.say(&format!(
        "\n{} in {}.\n\n  export KUBECONFIG={}\n  kubectl get nodes\n",
        progress.bold("Ready"),
        progress::duration(progress.elapsed()),
        context.config.kubeconfig().display()
    ));
    scopes.all.token().cancelled().await;
    Ok(())
}

fn context(config: Server, clock: foundation::SharedClock) -> anyhow::Result<Context> {
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
    let tokens = Arc::new(tokens::open(&config.dirs.data_dir, &pki, None)?);
    let randomness = SystemRandomness::shared();
    Ok(Context { config: Arc::new(config), node, pki: Arc::new(pki), tokens, clock, randomness })
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
