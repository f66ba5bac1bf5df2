//! A started program: its data directory, its client, its processes, its end.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use api::types::core::v1::{Node, Pod};
use client::{Client, DeleteOptions, HttpsTransport, ListOptions, WatchEvent, kubeconfig};
use runtime::images::Build;
use serde_json::json;
use tempfile::TempDir;

/// How long anything may take before the measurement is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a starting program is looked at: also the error of the measured start.
const LOOK: Duration = Duration::from_millis(1);
/// Name of the image of the measured pods.
const IMAGE: &str = "ironclad.local/bench:latest";
/// Namespace of the measured pods.
pub const NAMESPACE: &str = "default";

/// A running server on an empty directory.
pub struct Instance {
    program: PathBuf,
    folder: TempDir,
    server: Child,
    /// Whether it was ended already.
    ended: bool,
    /// When it was started.
    pub started: Instant,
}

impl Instance {
    /// Puts the image of the measured pods into a fresh directory, then starts the server there.
    pub fn start(program: &Path) -> anyhow::Result<Instance> {
        let folder = folder()?;
        build_image(program, &folder.path().join("data"))?;
        Instance::spawn(program, folder, &[])
    }

    /// Starts a server that is nothing but store and API server, on a fresh directory.
    pub fn start_api_server(program: &Path) -> anyhow::Result<Instance> {
        Instance::spawn(
            program,
            folder()?,
            &["--disable=controllers,scheduler,kubelet,runtime,network,proxy,dns"],
        )
    }

    fn spawn(program: &Path, folder: TempDir, flags: &[&str]) -> anyhow::Result<Instance> {
        let data_dir = folder.path().join("data");
        let log = File::create(folder.path().join("server.log")).context("cannot write the server's log")?;
        let started = Instant::now();
        let server = Command::new(program)
            .arg("server")
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["--node-name=bench", "--stop-pods"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the server's log")?)
            .stderr(log)
            .spawn()
            .context("cannot start the server")?;
        Ok(Instance { program: program.to_owned(), folder, server, ended: false, started })
    }

    /// The server's process ID.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Where the server keeps its state.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// Where the server writes how to reach it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig.yaml")
    }

    /// Waits until the node is Ready, and returns a client.
    pub async fn ready(&mut self) -> anyhow::Result<Client> {
        self.wait_for(node_is_ready).await
    }

    /// Waits until the API server is ready, and returns a client.
    pub async fn serves(&mut self) -> anyhow::Result<Client> {
        self.wait_for(is_served).await
    }

    async fn wait_for(&mut self, holds: impl AsyncFn(&Client) -> bool) -> anyhow::Result<Client> {
        let path = self.kubeconfig();
        let mut connected: Option<Client> = None;
        while self.started.elapsed() < PATIENCE {
            if let Some(status) = self.server.try_wait().context("cannot watch the server")? {
                bail!("the server ended ({status}):\n{}", self.log());
            }
            if connected.is_none()
                && let Ok(config) = kubeconfig::load(&path)
            {
                connected = Some(Client::new(Arc::new(HttpsTransport::new(&config)?), "ironclad-bench"));
            }
            if let Some(client) = &connected
                && holds(client).await
            {
                return Ok(client.clone());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("the server was not ready within {} s:\n{}", PATIENCE.as_secs(), self.log())
    }

    /// Ends the server with its pods and removes every trace.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> anyhow::Result<()> {
        self.ended = true;
        let status = Command::new(&self.program)
            .arg("uninstall")
            .arg("--data-dir")
            .arg(self.data_dir())
            .status()
            .context("cannot start the end")?;
        // Gone already, or a fault that the status tells of.
        let _ = self.server.kill();
        self.server.wait().context("cannot wait for the server")?;
        if !status.success() {
            bail!("the measured cluster could not be removed");
        }
        Ok(())
    }
}

/// A measurement that failed leaves no cluster behind either.
impl Drop for Instance {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.remove()
        {
            eprintln!("{error:#}");
        }
    }
}

fn build_image(program: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let mut build = Build { name: IMAGE.to_owned(), ..Build::default() };
    build.add_program(program, Path::new("/ironclad")).context("cannot read this program")?;
    build.config.entrypoint = vec!["/ironclad".to_owned(), "demo-app".to_owned(), "serve".to_owned()];
    let root = data_dir.join("runtime");
    std::fs::create_dir_all(&root).context("cannot make the image folder")?;
    runtime::images::build(&root, &build).context("cannot make the image")?;
    Ok(())
}

/// An empty folder that goes away with the measurement.
fn folder() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("ironclad-bench-").tempdir().context("cannot make a folder")
}

async fn is_served(client: &Client) -> bool {
    client.request(http::Method::GET, "/api/v1/namespaces/default", None).await.is_ok()
}

async fn node_is_ready(client: &Client) -> bool {
    let Ok(nodes) = client.list::<Node>(None, &ListOptions::all()).await else { return false };
    let conditions =
        nodes.items.iter().flat_map(|node| node.status.iter().flat_map(|s| s.conditions.iter().flatten()));
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A measured pod: one container that runs until it is told to end.
pub fn pod(name: &str) -> anyhow::Result<Pod> {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": IMAGE, "imagePullPolicy": "Never"}]},
    });
    serde_json::from_value(pod).context("the measured pod is malformed")
}

/// Waits for the default ServiceAccount: pods are refused until it is there.
pub async fn accepts_pods(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
        if client.request(http::Method::GET, &path, None).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("the default ServiceAccount does not appear")
}

/// Creates pods at once and returns, for each, the time from its creation until a watch saw it run.
pub async fn start_pods(client: &Client, names: &[String]) -> anyhow::Result<Vec<Duration>> {
    let list = client.list::<Pod>(Some(NAMESPACE), &ListOptions::all()).await?;
    let mut watch = client.watch::<Pod>(Some(NAMESPACE), &ListOptions::all(), &list.resource_version).await?;
    let mut created: Vec<(String, Instant)> = Vec::new();
    let create = async {
        for name in names {
            created.push((name.clone(), Instant::now()));
            client
                .create(Some(NAMESPACE), &pod(name)?)
                .await
                .with_context(|| format!("cannot create {name}"))?;
        }
        anyhow::Ok(())
    };
    let mut running: Vec<(String, Instant)> = Vec::new();
    let see = async {
        while running.len() < names.len() {
            let event = watch.next().await.context("the watch ended")??;
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
            let phase = pod.status.and_then(|status| status.phase);
            let name = pod.metadata.name.unwrap_or_default();
            if phase.as_deref() == Some("Running") && !running.iter().any(|(seen, _)| *seen == name) {
                running.push((name, Instant::now()));
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, async { tokio::try_join!(create, see) })
        .await
        .context("not all pods ran in time")??;
    let times = created.iter().filter_map(|(name, from)| {
        running.iter().find(|(seen, _)| seen == name).map(|(_, until)| until.duration_since(*from))
    });
    Ok(times.collect())
}

/// Deletes pods and waits until they are gone.
pub async fn delete_pods(client: &Client, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        client.delete::<Pod>(Some(NAMESPACE), name, &DeleteOptions::default().with_grace_period(0)).await?;
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let left = client.list::<Pod>(Some(NAMESPACE), &ListOptions::all()).await?;
        if left.items.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("the measured pods do not go away")
}
