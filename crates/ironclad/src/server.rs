//! `ironclad server`: starts the parts of a cluster in order, and stops them in order.
//!
//! Prints one line per part as it gets ready, then where the kubeconfig is. The order: store and keys, API server,
//! everything else at once. Not here: how a part starts (`roles`).

use std::{
    fs,
    path::{Path, PathBuf},
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
    uninstall,
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
    let data_dir = config.dirs.data_dir.clone();
    let engine = roles::store::open(&data_dir, clock.clone())?;
    progress.done("store", &data_dir.join("store").display().to_string(), started.elapsed());
    write_pid_file(&data_dir)?;

    let tasks = Tasks::new("ironclad");
    let nodes = tasks.child("node");
    let loops = tasks.child("loops");
    let control_plane = tasks.child("control-plane");
    let context = context(config, clock)?;
    let started = Instant::now();
    let api = roles::apiserver::start(&context, engine.clone(), listener, &control_plane).await?;
    let (server, port) = (api.server, api.port);
    progress.done("apiserver", &format!("https://{}:{port}", context.node.ip), started.elapsed());
    let api = Api::new(server, &loops, context.clock.clone());
    let mut node = NodeParts::default();
    let run = async {
        start_parts(&context, &api, &nodes, &loops, &mut node, &mut progress).await?;
        progress.say(&format!(
            "\n{} in {}.\n\n  export KUBECONFIG={}\n  kubectl get nodes\n",
            progress.bold("Ready"),
            progress::duration(progress.elapsed()),
            context.config.kubeconfig().display()
        ));
        tasks.token().cancelled().await;
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = run => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    if context.config.stop_pods
        && let (Some(kubelet), Some(runtime)) = (&node.kubelet, &node.runtime)
    {
        // Without a kubelet nobody starts again what is stopped.
        kubelet.stop(STOP / 4).await;
        roles::runtime::stop_pods(runtime).await.context("not all pods could be stopped")?;
    }
    // The node first, which still has something to report; then the loops; then the API they use; then the store.
    for scope in [&nodes, &loops, &control_plane, &tasks] {
        let late = scope.shutdown(STOP / 4).await;
        if !late.is_empty() {
            tracing::warn!(?late, "did not stop in time");
        }
    }
    engine.shutdown();
    let _ = fs::remove_file(uninstall::pid_file(&data_dir));
    outcome
}

fn context(config: Server, clock: foundation::SharedClock) -> anyhow::Result<Context> {
    let node = node::identity(&config)?;
    let settings = pki::Settings {
        dir: config.dirs.data_dir.join("pki"),
        node_name: node.name.clone(),
        node_ips: vec![node.ip],
        service_ips: vec![config.service_cidr.nth(1).into()],
        cluster_domain: config.cluster_domain.clone(),
        extra_names: config.tls_san.clone(),
    };
    let pki = pki::Pki::open(settings, clock.now()).context("the cluster's certificates cannot be used")?;
    let randomness = SystemRandomness::shared();
    Ok(Context { config: Arc::new(config), node, pki: Arc::new(pki), clock, randomness })
}

/// What of the node is needed to stop it.
#[derive(Default)]
struct NodeParts {
    kubelet: Option<kubelet::Handle>,
    runtime: Option<PathBuf>,
}

async fn start_parts(
    context: &Context,
    api: &Api,
    nodes: &Tasks,
    loops: &Tasks,
    node: &mut NodeParts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let config = &context.config;
    let started = Instant::now();
    if config.enabled(Part::Controllers) {
        roles::controllers::start(context, api, loops);
        progress.done("controllers", &format!("{} of them", controllers::all().len()), started.elapsed());
    }
    if config.enabled(Part::Scheduler) {
        roles::scheduler::start(context, api, loops);
        progress.done("scheduler", "default-scheduler", started.elapsed());
    }
    if config.hollow_nodes > 0 {
        roles::kubelet::start_hollow(context, api, nodes).ready().await;
        progress.done("nodes", &format!("{} simulated", config.hollow_nodes), started.elapsed());
    }
    let runtime = match &config.container_runtime_endpoint {
        Some(endpoint) => Some(PathBuf::from(endpoint.trim_start_matches("unix://"))),
        None if config.enabled(Part::Runtime) && config.enabled(Part::Kubelet) => {
            let socket = roles::runtime::start(context, nodes).await?;
            progress.done("runtime", &socket.display().to_string(), started.elapsed());
            Some(socket)
        }
        None => None,
    };
    if config.enabled(Part::Network) && config.enabled(Part::Kubelet) {
        roles::network::start(context, api, nodes)?;
        progress.done("network", &format!("pods in {}", config.cluster_cidr), started.elapsed());
    }
    if let Some(socket) = runtime.filter(|_| config.enabled(Part::Kubelet)) {
        node.kubelet = Some(roles::kubelet::start(context, api, socket.clone(), nodes).await?);
        node.runtime = Some(socket);
    }
    if config.enabled(Part::Dns) {
        roles::dns::start(context, api, nodes).await?;
        progress.done(
            "dns",
            &format!("{} at {}", config.cluster_domain, config.cluster_dns()),
            started.elapsed(),
        );
    }
    if config.enabled(Part::Proxy) {
        let mut proxy = roles::proxy::start(context, api, nodes)?;
        proxy.ready().await;
        progress.done("proxy", &format!("Services in {}", config.service_cidr), started.elapsed());
    }
    if let Some(kubelet) = &node.kubelet {
        kubelet.ready().await;
        progress.done("kubelet", &format!("node {} is Ready", context.node.name), started.elapsed());
    }
    Ok(())
}

fn write_pid_file(data_dir: &Path) -> anyhow::Result<()> {
    let path = uninstall::pid_file(data_dir);
    let write = || {
        fs::create_dir_all(data_dir.join("run"))?;
        fs::write(&path, std::process::id().to_string())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
