//! A started store: its directory, its connections, its memory, its end.

use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use etcd::wire::etcdserverpb::RangeRequest;
use etcd::wire::etcdserverpb::kv_client::KvClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::instance::PATIENCE;

/// How often a starting program is looked at: also the error of a measured start.
const LOOK: Duration = Duration::from_millis(1);

/// What the store's log says once it is open begins so.
const OPENED: &str = "opened the store at";

/// Which store.
#[derive(Debug, Clone)]
pub enum Kind {
    /// This program.
    Own(PathBuf),
    /// etcd.
    Etcd(PathBuf),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "ironclad etcd",
            Self::Etcd(_) => "etcd",
        })
    }
}

/// The etcd that was named, or the one on the path.
pub fn etcd(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|path| path.is_file());
    found.context("there is no etcd on the path: name one with --etcd")
}

/// A running store.
pub struct Program {
    kind: Kind,
    folder: TempDir,
    child: Child,
    url: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts a store on a fresh directory of the disk on which the current directory is, and waits until it answers.
    pub async fn start(kind: &Kind) -> anyhow::Result<Self> {
        let here = std::env::current_dir().context("there is no current directory")?;
        let folder = TempDir::with_prefix_in("ironclad-bench-", here).context("cannot make a directory")?;
        Self::spawn(kind, folder).await
    }

    async fn spawn(kind: &Kind, folder: TempDir) -> anyhow::Result<Self> {
        let free = || -> anyhow::Result<u16> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
            Ok(listener.local_addr()?.port())
        };
        let url = format!("http://127.0.0.1:{}", free()?);
        let mut command = match kind {
            Kind::Own(path) => {
                let mut command = Command::new(path);
                // So that it says what it does at its start.
                command.arg("etcd").env("IRONCLAD_LOG", "warn,store=info");
                // As a cluster's own store keeps its history.
                command.args(["--auto-compaction-retention=5m", "--quota-backend-bytes=33554432"]);
                command
            }
            Kind::Etcd(path) => {
                let mut command = Command::new(path);
                let peer = format!("http://127.0.0.1:{}", free()?);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
                // As Kubernetes' installers set it: the default is full after 2 GB.
                command.args(["--quota-backend-bytes", "8589934592"]);
                command
            }
        };
        let log = File::create(folder.path().join("log")).context("cannot make a log")?;
        command
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--data-dir"])
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {kind}"))?;
        let mut program = Self { kind: kind.clone(), folder, child, url };
        program.ready().await?;
        Ok(program)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE * 5 {
            if let Some(status) = self.child.try_wait().context("cannot watch the store")? {
                bail!("{} ended: {status}", self.kind);
            }
            if let Ok(channel) = self.connect().await {
                let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
                if KvClient::new(channel).range(request).await.is_ok() {
                    return Ok(());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{} does not answer", self.kind)
    }

    /// Where it listens: `host:port`.
    pub fn authority(&self) -> &str {
        self.url.strip_prefix("http://").unwrap_or(&self.url)
    }

    /// A connection of its own.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true);
        Ok(endpoint
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect()
            .await?)
    }

    /// Bytes of all its files, as the disk counts them.
    pub fn bytes_on_disk(&self) -> anyhow::Result<u64> {
        fn below(folder: &Path) -> std::io::Result<u64> {
            let mut bytes = 0;
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                bytes += if metadata.is_dir() {
                    below(&entry.path())?
                } else {
                    std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
                };
            }
            Ok(bytes)
        }
        below(self.folder.path()).context("cannot read the store's directory")
    }

    /// Bytes of memory that are its own.
    pub fn resident(&self) -> anyhow::Result<u64> {
        crate::idle::proportional(self.child.id()).map(|kib| kib << 10)
    }

    /// Processor time that it has taken since its start.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        crate::idle::processor_time(self.child.id())
    }

    /// What it says that it did before it served, if it says anything.
    pub fn said_of_its_start(&self) -> Option<String> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).ok()?;
        let line = log.lines().find(|line| line.contains(OPENED))?;
        line.find(OPENED).map(|at| line[at..].to_owned())
    }

    /// Kills it and starts it again on what it left; how long until it answers.
    pub async fn restart(mut self) -> anyhow::Result<(Self, Duration)> {
        self.child.kill().context("cannot kill the store")?;
        self.child.wait().context("cannot wait for the store")?;
        let empty = TempDir::new().context("cannot make a directory")?;
        let folder = std::mem::replace(&mut self.folder, empty);
        let kind = self.kind.clone();
        let started = Instant::now();
        let program = Self::spawn(&kind, folder).await?;
        Ok((program, started.elapsed()))
    }

    /// Ends it and removes what it left.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot end the store")?;
        self.child.wait().context("cannot wait for the store").map(drop)
    }
}
