//! The kubelet: runs on its node what the API says should run there, and says how that goes.
//!
//! Read first:
//! * [`start`] with [`Options`]: registers the node, adopts what already runs, then follows the pods bound to it;
//! * [`worker::decide::decide`]: the pure heart, "what is the next step for this pod?"; its tests are a table;
//! * [`worker::actor`]: one task per pod, which asks `decide` after every change, has the commands carried out and
//!   writes the status;
//! * [`status::generate`]: the pod's status, purely from what is known;
//! * [`pod`]: what a spec means to a runtime, as pure functions;
//! * [`hollow`]: simulated nodes for tests and benchmarks.
//!
//! **Invariants.** The only door to containers is CRI v1 ([`runtime`]). Nothing polls: pods come by watch, containers
//! by CRI events (runtimes without them are listed, see [`events`]), and timers exist only for deadlines, probes and
//! back-offs. A restart of this process disturbs no container: all that is needed to adopt one is in its labels and
//! annotations.
//!
//! To add a field of the pod spec: the function in [`pod`] that its part of the runtime's configuration comes from,
//! and a row in that file's table.
//!
//! Not here: volumes' contents (`volumes`), networks (CNI, called by the runtime), eviction and image collection
//! (still to come).
//!
//! Upstream: `pkg/kubelet`.

pub mod admission;
pub mod events;
pub mod hollow;
pub mod images;
pub mod logs;
mod manager;
mod metrics;
pub mod node;
pub mod pod;
pub mod probe;
pub mod runtime;
pub mod server;
pub mod status;
pub mod worker;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use foundation::{SharedClock, SharedRandomness, Tasks};
use tokio::sync::watch;

/// How the node is set up.
#[derive(Clone)]
pub struct Options {
    /// The Node object's name.
    pub node_name: String,
    /// The node's addresses; the first one is what pods on its network and clients use.
    pub node_ips: Vec<IpAddr>,
    /// The kubelet's directory (`<data-dir>/kubelet`).
    pub root_dir: PathBuf,
    /// Where the logs of pods are written (`<data-dir>/logs/pods`).
    pub pod_logs_dir: PathBuf,
    /// The control group below which `kubepods` is: empty for the root of the hierarchies, else an absolute path
    /// without a slash at its end. Kubelets that share a machine have one each.
    pub cgroup_root: String,
    /// The CRI socket.
    pub runtime_endpoint: PathBuf,
    /// Told when the pod network's configuration has changed: a runtime that was not ready is asked again then.
    pub network_changed: Arc<tokio::sync::Notify>,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// As in `cluster.local`.
    pub cluster_domain: String,
    /// The node's own `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Labels that the node registers with, besides those that it finds itself.
    pub labels: BTreeMap<String, String>,
    /// Kernel parameters that pods may set beside the safe ones: names, or prefixes that end with `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// The version it reports, as in `v1.37.0`.
    pub version: String,
    /// The HTTPS server; `None` for a node that serves nobody.
    pub server: Option<ServerOptions>,
}

/// The HTTPS server of the node (port 10250).
#[derive(Clone)]
pub struct ServerOptions {
    /// Where it listens.
    pub address: SocketAddr,
    /// Asked at each connection, so that certificates can change while it runs. The configuration should ask for
    /// client certificates of the cluster's CA without requiring them.
    pub tls: Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>,
    /// Who may do what; [`server::auth::ApiAccess`] asks the API server.
    pub access: Arc<dyn server::auth::Access>,
}

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container runtime does not answer.
    #[error("the container runtime at {endpoint} does not answer: {source}")]
    Runtime {
        /// The socket.
        endpoint: String,
        /// What happened.
        source: runtime::Error,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
    /// A directory or a port cannot be used.
    #[error("{what}: {source}")]
    Host {
        /// What was to be used.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A kubelet that runs.
pub struct Handle {
    ready: watch::Receiver<bool>,
    tasks: Tasks,
    /// Where the server listens, if there is one.
    pub address: Option<SocketAddr>,
}

impl Handle {
    /// Completes once the Node object says `Ready`.
    pub async fn ready(&self) {
        // The sender lives as long as the kubelet; a stopped one will never be ready.
        if self.ready.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops the kubelet. Containers go on.
    pub async fn stop(&self, deadline: Duration) {
        self.tasks.shutdown(deadline).await;
    }
}

/// Starts the kubelet. It returns once the runtime has answered and the server listens; [`Handle::ready`] tells when
/// the node is.
pub async fn start(
    options: Options,
    client: Client,
    tasks: &Tasks,
    clock: SharedClock,
    randomness: SharedRandomness,
) -> Result<Handle, Error> {
    let tasks = tasks.child("kubelet");
    for pattern in &options.allowed_unsafe_sysctls {
        pod::sysctls::check_pattern(pattern).map_err(Error::Setting)?;
    }
    for directory in [&options.root_dir, &options.pod_logs_dir] {
        tokio::fs::create_dir_all(directory)
            .await
            .map_err(|source| Error::Host { what: format!("create {}", directory.display()), source })?;
    }
    let node = node::Node::connect(options, client, &tasks, clock, randomness).await?;
    metrics::node(&node.options.node_name);
    let pods = manager::Pods::new(node.clone());
    let address = match &node.options.server {
        Some(options) => Some(server::serve(node.clone(), pods.clone(), options.clone(), &tasks).await?),
        None => None,
    };
    let (ready_sender, ready) = watch::channel(false);
    node::run(node.clone(), address, ready_sender, &tasks);
    manager::run(node, pods, &tasks);
    Ok(Handle { ready, tasks, address })
}
