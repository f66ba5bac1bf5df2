//! The node half of the program, alike on servers and agents: what its parts are given, and the order in which they
//! start and stop.
//!
//! Read first: [`Context`], which a server makes of its own parts (`roles::Context::on_node`) and an agent of what it was
//! given when it joined (`agent`). Not here: how one part starts (`roles`).

pub mod cluster;
pub mod identity;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use client::{Client, Informers};
use foundation::{SharedClock, SharedRandomness, Tasks};
use tokio::sync::Notify;

pub use cluster::Cluster;
pub use identity::Identity;

use crate::{
    config::{self, DataDir, Part},
    progress::Progress,
    roles,
};

/// The TLS configuration of the kubelet's server, asked for at each connection.
pub type Serving = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// What the parts of a node are given.
#[derive(Clone)]
pub struct Context {
    /// Where state is kept.
    pub dirs: DataDir,
    /// The node's own settings.
    pub config: config::node::Node,
    /// The cluster's settings.
    pub cluster: Cluster,
    /// Who this node is.
    pub identity: Identity,
    /// The time.
    pub clock: SharedClock,
    /// Randomness.
    pub randomness: SharedRandomness,
    /// The API as `system:node:<name>` sees it.
    pub client: Client,
    /// The caches of what concerns every node: Nodes, Services and their endpoints.
    pub informers: Informers,
    /// How the kubelet shows who it is.
    pub serving: Serving,
}

impl Context {
    /// Where the runtime finds CNI plugins.
    pub fn cni_bin_dir(&self) -> PathBuf {
        self.dirs.cni_bin_dir(&self.config)
    }

    /// Where the runtime finds the configuration of the pod network.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dirs.cni_conf_dir(&self.config)
    }
}

/// The parts that run and can be asked something; empty until they are started.
#[derive(Default)]
pub struct Parts {
    kubelet: Option<kubelet::Handle>,
    runtime: Option<PathBuf>,
}

impl Parts {
    /// Starts the runtime, the pod network and the kubelet, as far as they are enabled.
    pub async fn start(
        &mut self,
        context: &Context,
        tasks: &Tasks,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let config = &context.config;
        if !config.enabled(Part::Kubelet) {
            return Ok(());
        }
        let started = Instant::now();
        // Told when pods can be connected, so that the kubelet does not have to ask again and again.
        let configured = Arc::new(Notify::new());
        let runtime = match &config.container_runtime_endpoint {
            Some(endpoint) => Some(PathBuf::from(endpoint.trim_start_matches("unix://"))),
            None if config.enabled(Part::Runtime) => {
                let socket = roles::runtime::start(context, tasks).await?;
                progress.done("runtime", &socket.display().to_string(), started.elapsed());
                Some(socket)
            }
            None => None,
        };
        if config.enabled(Part::Network) {
            roles::network::start(context, tasks, configured.clone())?;
            let pods = format!("pods in {}", context.cluster.cluster_cidr);
            progress.done("network", &pods, started.elapsed());
        }
        if let Some(socket) = runtime {
            self.kubelet = Some(roles::kubelet::start(context, socket.clone(), configured, tasks).await?);
            self.runtime = Some(socket);
        }
        Ok(())
    }

    /// Starts the proxy if it is enabled, and waits until both it and the kubelet are ready.
    pub async fn ready(
        &self,
        context: &Context,
        tasks: &Tasks,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        if context.config.enabled(Part::Proxy) {
            let mut proxy = roles::proxy::start(context, tasks)?;
            proxy.ready().await;
            let services = format!("Services in {}", context.cluster.service_cidr);
            progress.done("proxy", &services, started.elapsed());
        }
        if let Some(kubelet) = &self.kubelet {
            kubelet.ready().await;
            let ready = format!("node {} is Ready", context.identity.name);
            progress.done("kubelet", &ready, started.elapsed());
        }
        Ok(())
    }

    /// Stops every pod; the kubelet, which would start them again, before them.
    pub async fn stop_pods(&self, patience: Duration) -> anyhow::Result<()> {
        let (Some(kubelet), Some(runtime)) = (&self.kubelet, &self.runtime) else { return Ok(()) };
        kubelet.stop(patience).await;
        roles::runtime::stop_pods(runtime).await.context("not all pods could be stopped")
    }
}
