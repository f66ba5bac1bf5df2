//! The embedded container runtime: serves CRI on `<data-dir>/run/runtime.sock`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cri::v1;
use foundation::Tasks;
use futures::future::join_all;
use runtime::Options;

use crate::config::DataDir;
use crate::node;

/// The runtime's settings for a data directory.
pub fn options(dirs: &DataDir) -> anyhow::Result<Options> {
    Options::for_data_dir(&dirs.data_dir).context("cannot find the path of this program")
}

/// Starts the runtime, and returns its socket once it listens. It serves until the tasks end; containers go on.
pub async fn start(context: &node::Context, tasks: &Tasks) -> anyhow::Result<PathBuf> {
    let options = Options {
        cni_bin_dir: context.cni_bin_dir(),
        cni_conf_dir: context.cni_conf_dir(),
        ..options(&context.dirs)?
    };
    let socket = options.socket.clone();
    let server =
        runtime::Server::open(options, tasks).await.context("the container runtime does not start")?;
    let everything = tasks.clone();
    tasks.spawn("runtime", async move {
        if let Err(error) = server.serve(everything.token()).await {
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the container runtime ended"
            );
            // A node without a runtime is none: end in order, so that whoever supervises this process sees it.
            everything.token().cancel();
        }
    });
    Ok(socket)
}

/// Seconds that containers get between SIGTERM and SIGKILL when the whole node stops its pods.
const GRACE_SECONDS: i64 = 10;

/// Stops every pod of a runtime: containers get SIGTERM and some time, then their sandboxes are stopped.
pub async fn stop_pods(socket: &Path) -> anyhow::Result<()> {
    let client = cri::connect(socket).await.context("the container runtime does not answer")?.runtime;
    let mut lists = client.clone();
    let containers =
        lists.list_containers(v1::ListContainersRequest::default()).await?.into_inner().containers;
    let running = containers.into_iter().filter(|c| c.state() == v1::ContainerState::ContainerRunning);
    let stops = running.map(|container| {
        let mut client = client.clone();
        let request = v1::StopContainerRequest { container_id: container.id, timeout: GRACE_SECONDS };
        async move { client.stop_container(request).await }
    });
    join_all(stops).await.into_iter().collect::<Result<Vec<_>, _>>().context("a container does not stop")?;
    let sandboxes = lists.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
    let stops = sandboxes.into_iter().map(|sandbox| {
        let mut client = client.clone();
        async move { client.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id }).await }
    });
    join_all(stops).await.into_iter().collect::<Result<Vec<_>, _>>().context("a pod does not stop")?;
    Ok(())
}
