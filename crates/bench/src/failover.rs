//! How long nothing is written when the leader of three servers is killed, and whether anything acknowledged is lost.
//!
//! Starts three servers as processes on loopback addresses, which keep their store together; has ConfigMaps made through
//! those that do not lead, a new one every few milliseconds whatever becomes of those before; kills the one that leads
//! (`kill -9`), again and again. The gap of a round is the time from the kill until the first write that was *begun* after
//! the leader's end is acknowledged: what was on its way may have been agreed on before. In the end every server must list
//! everything that was acknowledged. Not here: simulated members (`store-raft`'s tests), where the gap is asserted.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use client::{Client, HttpsTransport, kubeconfig};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::instance::PATIENCE;
use crate::{FailoverOptions, report};

const SERVERS: usize = 3;
/// The pause between the beginnings of two writes through one server: also the error of a gap.
const PAUSE: Duration = Duration::from_millis(10);
/// Writes on their way through one server, at most.
const UNDER_WAY: usize = 256;
/// Writes that are acknowledged before a leader is killed.
const BEFORE: usize = 50;
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(10);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server, which runs or not.
struct Server {
    number: usize,
    folder: TempDir,
    process: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Server {
    fn new(number: usize) -> anyhow::Result<Self> {
        // Of the disk on which the current directory is: what a write takes is mostly the disk's.
        let here = std::env::current_dir().context("there is no current directory")?;
        let folder = TempDir::with_prefix_in("ironclad-bench-", here).context("cannot make a directory")?;
        Ok(Self { number, folder, process: None })
    }

    fn name(&self) -> String {
        format!("server-{}", self.number)
    }

    fn address(&self) -> String {
        format!("127.0.0.{}", self.number + 1)
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts it and waits until it serves.
    async fn start(&mut self, program: &Path, flags: &[String]) -> anyhow::Result<()> {
        let log = File::create(self.log()).context("cannot write a server's log")?;
        let mut command = Command::new(program);
        command.arg("server").arg("--data-dir").arg(self.data_dir());
        for (flag, value) in [
            ("node-name", self.name()),
            ("node-ip", self.address()),
            ("bind-address", self.address()),
            ("peer-listen", format!("{}:2380", self.address())),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        command.arg("--disable=controllers,scheduler,kubelet,runtime,network,proxy,dns").args(flags);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("cannot start a server")?);
        let from = Instant::now();
        loop {
            if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().transpose()) {
                bail!("{} ended: {}: {}", self.name(), status?, self.said());
            }
            if self.said().contains("Ready in ") {
                return Ok(());
            }
            ensure!(from.elapsed() < PATIENCE, "{} does not get ready: {}", self.name(), self.said());
            tokio::time::sleep(LOOK).await;
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// `kill -9`; returns once it is dead.
    fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        process.kill().context("cannot kill a server")?;
        process.wait().context("cannot wait for a server").map(drop)
    }

    fn client(&self) -> anyhow::Result<Client> {
        let config = kubeconfig::load(&self.data_dir().join("kubeconfig.yaml"))?;
        Ok(Client::new(Arc::new(HttpsTransport::new(&config)?), "ironclad-bench"))
    }
}

/// Waits until all vote and one of them leads, as a server sees it: which.
async fn settled(server: &Server) -> anyhow::Result<usize> {
    let (client, from) = (server.client()?, Instant::now());
    loop {
        let list = client.request(Method::GET, "/ironclad/v1/members", None).await.unwrap_or(Value::Null);
        let members = list["members"].as_array().map_or(&[][..], Vec::as_slice);
        let votes = members.iter().filter(|member| member["state"] != "learner").count();
        let leader = members.iter().find(|member| member["state"] == "leader");
        let number = leader.and_then(|leader| leader["name"].as_str()?.strip_prefix("server-")?.parse().ok());
        if let (SERVERS, Some(number)) = (votes, number) {
            return Ok(number);
        }
        ensure!(from.elapsed() < PATIENCE, "the servers do not agree: {list}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A write that was acknowledged.
struct Written {
    name: String,
    begun: Instant,
    acknowledged: Instant,
}

/// Writes through one server, a new one after each pause, until told to stop; tells of what is acknowledged.
async fn write(
    client: Client,
    prefix: String,
    stop: tokio::sync::watch::Receiver<bool>,
    written: tokio::sync::mpsc::UnboundedSender<Written>,
) {
    let (slots, mut under_way) = (Arc::new(Semaphore::new(UNDER_WAY)), JoinSet::new());
    for number in 0_usize.. {
        if *stop.borrow() {
            break;
        }
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            let (client, written) = (client.clone(), written.clone());
            let name = format!("{prefix}-{number:06}");
            under_way.spawn(async move {
                let _slot = slot;
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                let begun = Instant::now();
                let made = tokio::time::timeout(PATIENCE, client.request(Method::POST, MAPS, Some(&map)));
                // What is refused, or of an unknown outcome, nobody relies on.
                if let Ok(Ok(_)) = made.await {
                    // Who counts is there until the last has said so.
                    let _ = written.send(Written { name, begun, acknowledged: Instant::now() });
                }
            });
        }
        while under_way.try_join_next().is_some() {}
        tokio::time::sleep(PAUSE).await;
    }
    while under_way.join_next().await.is_some() {}
}

/// Kills the leader under load. The gap; what was acknowledged is added.
async fn lose_the_leader(
    servers: &mut [Server],
    leader: usize,
    round: usize,
    all: &mut BTreeSet<String>,
) -> anyhow::Result<Duration> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (sender, mut written) = tokio::sync::mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for server in servers.iter().filter(|server| server.number != leader) {
        let prefix = format!("round-{round}-{}", server.number);
        writers.spawn(write(server.client()?, prefix, stopped.clone(), sender.clone()));
    }
    drop(sender);
    let mut next = async || -> anyhow::Result<Written> {
        let next = tokio::time::timeout(PATIENCE, written.recv()).await;
        next.context("nothing is acknowledged")?.context("the writers were lost")
    };
    for _ in 0..BEFORE {
        all.insert(next().await?.name);
    }
    let killed = Instant::now();
    servers[leader].kill()?;
    let dead = Instant::now();
    let gap = loop {
        let written = next().await?;
        let counts = written.begun > dead;
        let gap = written.acknowledged.duration_since(killed);
        all.insert(written.name);
        if counts {
            break gap;
        }
    };
    // Through both, and some of it after the gap.
    for _ in 0..BEFORE {
        all.insert(next().await?.name);
    }
    stop.send_replace(true);
    while writers.join_next().await.is_some() {}
    while let Some(written) = written.recv().await {
        all.insert(written.name);
    }
    Ok(gap)
}

/// What was acknowledged and a server does not list.
async fn lost(server: &Server, all: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let list = server.client()?.request(Method::GET, MAPS, None).await?;
    let items = list["items"].as_array().context("a list has no items")?;
    let listed: BTreeSet<&str> = items.iter().filter_map(|map| map["metadata"]["name"].as_str()).collect();
    Ok(all.iter().filter(|name| !listed.contains(name.as_str())).cloned().collect())
}

/// Kills leaders, and reports the gaps.
pub async fn run(options: &FailoverOptions, program: &Path) -> anyhow::Result<()> {
    let mut servers = (0..SERVERS).map(Server::new).collect::<anyhow::Result<Vec<_>>>()?;
    servers[0].start(program, &["--cluster-init".to_owned()]).await?;
    let token = servers[0].data_dir().join("server-token").display().to_string();
    let join = [format!("--server=https://{}:6443", servers[0].address()), format!("--token-file={token}")];
    for server in &mut servers[1..] {
        server.start(program, &join).await?;
    }
    let (mut gaps, mut all) = (Vec::new(), BTreeSet::new());
    for round in 0..options.kills.max(1) {
        let leader = settled(&servers[round % SERVERS]).await?;
        gaps.push(lose_the_leader(&mut servers, leader, round, &mut all).await?);
        servers[leader].start(program, &[]).await?;
    }
    for server in &servers {
        settled(server).await?;
        let lost = lost(server, &all).await?;
        ensure!(lost.is_empty(), "{} does not have what was acknowledged: {lost:?}", server.name());
    }
    let [p50, most] = [0.5, 1.0].map(|share| report::milliseconds(report::quantile(&gaps, share)));
    report::line("leader killed to the next acknowledged write", &format!("{p50} (worst {most})"), "2 s");
    report::line("acknowledged writes lost", &format!("0 of {}", all.len()), "0");
    Ok(())
}
