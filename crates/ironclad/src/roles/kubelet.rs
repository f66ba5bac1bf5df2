//! The kubelet, or simulated nodes in its place.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use ::kubelet::{Handle, Options, ServerOptions, hollow, server::auth::ApiAccess};
use anyhow::Context as _;
use foundation::Tasks;
use parking_lot::Mutex;
use pki::Leaf;

use super::{Api, Context, apiserver};
use crate::node;

/// How many pods a node takes; upstream's default.
const MAX_PODS: u32 = 110;

/// The version that this product is wire-compatible with.
pub const KUBERNETES_VERSION: &str = "v1.37.0";

/// Starts the kubelet on a CRI socket.
pub async fn start(
    context: &node::Context,
    runtime: PathBuf,
    network_changed: Arc<tokio::sync::Notify>,
    tasks: &Tasks,
) -> anyhow::Result<Handle> {
    let data_dir = &context.dirs.data_dir;
    let client = context.client.clone();
    let options = Options {
        node_name: context.identity.name.clone(),
        node_ips: vec![context.identity.ip],
        root_dir: data_dir.join("kubelet"),
        pod_logs_dir: data_dir.join("logs/pods"),
        cgroup_root: context.config.cgroup_root.clone(),
        runtime_endpoint: runtime,
        network_changed,
        cluster_dns: vec![context.cluster.cluster_dns.into()],
        cluster_domain: context.cluster.cluster_domain.clone(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        labels: Default::default(),
        allowed_unsafe_sysctls: context.config.allowed_unsafe_sysctls.clone(),
        max_pods: MAX_PODS,
        version: KUBERNETES_VERSION.into(),
        server: Some(ServerOptions {
            address: SocketAddr::new(context.config.bind_address, context.config.kubelet_port),
            tls: context.serving.clone(),
            access: Arc::new(ApiAccess::new(client.clone(), context.clock.clone())),
        }),
    };
    let (clock, randomness) = (context.clock.clone(), context.randomness.clone());
    ::kubelet::start(options, client, tasks, clock, randomness).await.context("the kubelet cannot start")
}

/// How the kubelet of a server shows who it is: by a certificate of the server's own.
pub fn serving(context: &Context) -> anyhow::Result<node::Serving> {
    let serving = Serving::new(context.clone())?;
    Ok(Arc::new(move || serving.current()))
}

/// The TLS configuration of the kubelet's server, made anew only when its certificate is another one.
struct Serving {
    context: Context,
    made: Mutex<(Arc<pki::Credential>, Arc<rustls::ServerConfig>)>,
}

impl Serving {
    fn new(context: Context) -> anyhow::Result<Self> {
        let now = context.clock.now();
        let made =
            (context.pki.credential(Leaf::KubeletServing, now)?, apiserver::kubelet_serving(&context, now)?);
        Ok(Self { context, made: Mutex::new(made) })
    }

    /// For the next connection. When the certificate cannot be renewed the old one goes on to be shown.
    fn current(&self) -> Arc<rustls::ServerConfig> {
        let now = self.context.clock.now();
        let mut made = self.made.lock();
        let renewed = self.context.pki.credential(Leaf::KubeletServing, now).map_err(anyhow::Error::from);
        let fresh = renewed.and_then(|credential| match Arc::ptr_eq(&credential, &made.0) {
            true => Ok(()),
            false => {
                *made = (credential, apiserver::kubelet_serving(&self.context, now)?);
                Ok(())
            }
        });
        if let Err(error) = fresh {
            tracing::error!(error = format!("{error:#}"), "cannot renew the kubelet's certificate");
        }
        made.1.clone()
    }
}

/// Starts simulated nodes. They share one client that may do everything: they stand for nodes, not for their rights.
pub fn start_hollow(context: &Context, api: &Api, tasks: &Tasks) -> hollow::Handle {
    let clock = context.clock.clone();
    hollow::start(context.config.hollow_nodes, hollow::Options::default(), api.administrator(), tasks, clock)
}
