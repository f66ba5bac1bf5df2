//! The heart of the runtime: pods and containers, what is known of them, what is done to them.
//!
//! Read first: [`Engine`], then `sandbox` and `container` (their lives), `exec` (one more process),
//! `status` (in CRI's words). Records are on disk below `<root>/sandboxes` and `<root>/containers`, so that
//! a restarted runtime knows what was; what runs is asked of the supervisors.
//!
//! Not here: gRPC (`service`), images, streams.

mod container;
mod exec;
mod sandbox;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cri::v1;
pub(crate) use exec::ExecRequest;
use foundation::Tasks;
use foundation::randomness::SharedRandomness;
use parking_lot::Mutex;
pub(crate) use sandbox::remove_empty_group;
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, Layout};
use sys::container::User;
use sys::container::capabilities::Set;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::images::Images;
use crate::link::{Link, News};
use crate::network::Network;
use crate::nursery::Nursery;
use crate::options::Options;
use crate::wire::{Event, Reply, RunStatus, Verb, read_json, write_json, write_whole};

/// Why something asked of the runtime was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("an error occurred when try to find {kind} {id:?}: not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    State(String),
    #[error("{0}")]
    Timeout(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Link(#[from] crate::link::Error),
    #[error(transparent)]
    Images(#[from] crate::images::Error),
    #[error("{0}")]
    Failed(String),
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// What is kept of a sandbox on disk, beside its config.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub id: String,
    pub handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    pub ready: bool,
    /// Whether it is still being made. What is there of such a one after a restart is nobody's, and is removed.
    #[serde(default)]
    pub making: bool,
    /// Addresses, the main one first; empty on the host's network.
    pub addresses: Vec<String>,
    /// Its network namespace, unless it is the host's.
    pub netns: Option<PathBuf>,
}

/// A pod.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub record: SandboxRecord,
    pub config: Arc<v1::PodSandboxConfig>,
    pub link: Option<Arc<Link>>,
}

/// What is kept of a container on disk, beside its config and its run's status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub id: String,
    pub sandbox: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// Name with digest, if the image has one; else the ID.
    pub image_ref: String,
    pub user: User,
    pub layers: Vec<String>,
    pub cgroup: String,
    pub log: Option<PathBuf>,
    /// As the image says.
    pub stop_signal: String,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub record: ContainerRecord,
    pub config: Arc<v1::ContainerConfig>,
    /// Changed by an update.
    pub resources: Option<v1::LinuxContainerResources>,
    /// How its run goes; who waits for the end subscribes.
    pub run: watch::Sender<RunStatus>,
    /// Whether its start is under way.
    pub starting: bool,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
}

/// The runtime's engine.
pub(crate) struct Engine {
    pub options: Options,
    pub images: Images,
    pub network: Arc<dyn Network>,
    pub layout: Layout,
    pub capabilities: Set,
    pub events: broadcast::Sender<v1::ContainerEventResponse>,
    randomness: SharedRandomness,
    nursery: Nursery,
    state: Mutex<State>,
    news: mpsc::UnboundedSender<(String, News)>,
    /// Processes beside the containers' own, by name: whose pod they are in, and who waits for their end.
    execs: Mutex<BTreeMap<String, (String, oneshot::Sender<i32>)>>,
    warned: Mutex<BTreeSet<String>>,
    /// What containers have written.
    pub(crate) layers: crate::stats::Layers,
    /// The runtime's own tasks.
    pub tasks: Tasks,
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

/// Runs what blocks beside the async tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::Failed(format!("an internal task failed: {e}"))))
}

impl Engine {
    /// Opens the store, reads the records and finds the supervisors again.
    pub(crate) async fn open(
        options: Options,
        network: Arc<dyn Network>,
        randomness: SharedRandomness,
        tasks: Tasks,
    ) -> Result<Arc<Self>, Error> {
        for path in [
            options.root.join("sandboxes"),
            options.root.join("containers"),
            options.state.join("s"),
            options.state.join("netns"),
            options.staging(),
        ] {
            std::fs::create_dir_all(&path).map_err(io_error(format!("create {}", path.display())))?;
        }
        let images = Images::open(&options.root)?;
        let (news, inbox) = mpsc::unbounded_channel();
        let engine = Arc::new(Self {
            images,
            network,
            layout: Layout::detect().map_err(io_error("find the control groups"))?,
            capabilities: sys::container::capabilities::available().map_err(io_error("read capabilities"))?,
            // A watcher that lags this far behind lists anew.
            events: broadcast::channel(1024).0,
            randomness,
            nursery: Nursery::start(options.supervisor.clone())?,
            state: Mutex::default(),
            news,
            execs: Mutex::default(),
            warned: Mutex::default(),
            layers: crate::stats::Layers::default(),
            tasks,
            options,
        });
        let unfinished = engine.load()?;
        engine.tasks.spawn_until_cancelled("runtime-events", follow(Arc::downgrade(&engine), inbox));
        engine.adopt().await?;
        for sandbox in unfinished {
            tracing::info!(sandbox = sandbox.record.id, "removing a pod that was never finished");
            engine.discard(sandbox).await;
        }
        let (images, users) = (engine.images.clone(), engine.clone());
        blocking(move || Ok(images.collect_garbage(&|| users.layers_in_use())?)).await?;
        Ok(engine)
    }

    /// Does work to its end, even when who asked for it hangs up.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, outcome) = oneshot::channel();
        self.tasks.spawn("request", async move {
            // Who asked may have gone.
            let _ = done.send(work.await);
        });
        outcome.await.unwrap_or_else(|_| Err(Error::Failed("an internal task failed".into())))
    }

    fn id(&self) -> String {
        let mut bytes = [0u8; 32];
        self.randomness.fill(&mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Reads the records; answers with the sandboxes that were never finished. A record that is not whole (a crash while
    /// it was written) is removed: without it the kubelet makes the pod anew. Any other failure ends the start: it says
    /// nothing about the record, and what runs must not lose its files to it.
    fn load(&self) -> Result<Vec<Sandbox>, Error> {
        let mut state = self.state.lock();
        let mut unfinished = Vec::new();
        for directory in directories(&self.options.root.join("sandboxes"))? {
            let record = record::<SandboxRecord>(&directory.join("record.json"))?;
            let config = config::<v1::PodSandboxConfig>(&directory.join("config.pb"))?;
            let (Some(record), Some(config)) = (record, config) else {
                // Before its record is written nothing else of a sandbox exists.
                drop(std::fs::remove_dir_all(&directory));
                continue;
            };
            let sandbox = Sandbox { record, config: Arc::new(config), link: None };
            if sandbox.record.making {
                unfinished.push(sandbox);
            } else {
                state.sandboxes.insert(sandbox.record.id.clone(), sandbox);
            }
        }
        for directory in directories(&self.options.root.join("containers"))? {
            let record = record::<ContainerRecord>(&directory.join("record.json"))?;
            let config = config::<v1::ContainerConfig>(&directory.join("config.pb"))?;
            match (record, config) {
                (Some(record), Some(config)) if state.sandboxes.contains_key(&record.sandbox) => {
                    let run = self::record(&directory.join("status.json"))?.unwrap_or_default();
                    let id = record.id.clone();
                    let resources = config.linux.as_ref().and_then(|l| l.resources.clone());
                    let (run, _) = watch::channel(run);
                    let config = Arc::new(config);
                    let container = Container { record, config, resources, run, starting: false };
                    state.containers.insert(id, container);
                }
                (record, _) => {
                    if let Some(record) = record {
                        let group = Cgroup::new(self.layout.clone(), record.cgroup);
                        group.kill();
                        let _ = group.remove();
                    }
                    drop(std::fs::remove_dir_all(&directory));
                }
            }
        }
        Ok(unfinished)
    }

    /// Connects to the supervisors of the pods that should run. Where there is none the pod is dead.
    async fn adopt(self: &Arc<Self>) -> Result<(), Error> {
        let ready: Vec<String> = {
            let state = self.state.lock();
            state.sandboxes.values().filter(|s| s.record.ready).map(|s| s.record.id.clone()).collect()
        };
        for id in ready {
            self.rejoin(&id).await?;
        }
        Ok(())
    }

    /// Finds a pod's supervisor (again), or the pod dead.
    async fn rejoin(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let link = match self.connect(id) {
            Ok(link) => Arc::new(link),
            Err(e) if nobody_there(&e) => {
                self.supervisor_gone(id);
                return Ok(());
            }
            // Not the supervisor's fault, and no reason to give its containers up.
            Err(e) => return Err(io_error(format!("connect to the supervisor of pod {id}"))(e)),
        };
        let Ok((Reply::Containers(found), _)) = link.call(Verb::List, &[]).await else {
            self.supervisor_gone(id);
            return Ok(());
        };
        if let Some(sandbox) = self.state.lock().sandboxes.get_mut(id) {
            sandbox.link = Some(link);
        }
        self.found(id, &found);
        Ok(())
    }

    fn connect(&self, sandbox: &str) -> io::Result<Link> {
        Link::connect(&self.options.socket_of(sandbox), sandbox, self.news.clone(), &self.tasks)
    }

    /// Takes over what a supervisor says of its containers, and tells of those that ended meanwhile.
    fn found(&self, sandbox: &str, found: &BTreeMap<String, RunStatus>) {
        let ended: Vec<String> = {
            let state = self.state.lock();
            let own = state.containers.values().filter(|c| c.record.sandbox == sandbox);
            let news = own.filter_map(|container| Some((container, found.get(&container.record.id)?)));
            news.filter_map(|(container, run)| {
                let before = container.run.send_replace(run.clone());
                (run.exited() && !before.exited()).then(|| container.record.id.clone())
            })
            .collect()
        };
        for id in ended {
            self.publish(sandbox, &id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// The connection to a supervisor has ended. It may have let go of a client that did not read, which says nothing
    /// about its containers.
    pub(super) async fn link_lost(self: &Arc<Self>, sandbox: &str) {
        // The end of these processes may have been told on the connection that is gone.
        self.execs.lock().retain(|_, (pod, _)| pod != sandbox);
        let known = self.state.lock().sandboxes.get(sandbox).is_some_and(|s| s.link.is_some());
        if !known {
            return;
        }
        if let Err(error) = self.rejoin(sandbox).await {
            tracing::error!(%error, sandbox, "a pod is not supervised");
            self.supervisor_gone(sandbox);
        }
    }

    /// A supervisor has died (or the machine was restarted): its containers have too, or are killed now.
    fn supervisor_gone(&self, sandbox: &str) {
        let (was_ready, running): (bool, Vec<(String, String)>) = {
            let mut state = self.state.lock();
            let Some(found) = state.sandboxes.get_mut(sandbox) else { return };
            found.link = None;
            let was_ready = std::mem::replace(&mut found.record.ready, false);
            if was_ready {
                self.save_sandbox(&found.record);
            }
            let own =
                state.containers.values().filter(|c| c.record.sandbox == sandbox && c.run.borrow().running());
            (was_ready, own.map(|c| (c.record.id.clone(), c.record.cgroup.clone())).collect())
        };
        self.execs.lock().retain(|_, (pod, _)| pod != sandbox);
        for (id, cgroup) in running {
            Cgroup::new(self.layout.clone(), cgroup).kill();
            // Its supervisor may have recorded the end before it died itself.
            let directory = self.options.container_root(&id);
            let mut run: RunStatus = read_json(&directory.join("status.json")).unwrap_or_default();
            if !run.exited() {
                run.finished_at = now();
                run.exit_code = 255;
                run.reason = "Unknown".into();
                run.message = "the pod's supervisor has died".into();
                let _ = write_json(&directory.join("status.json"), &run);
            }
            self.container_exited(&id, run);
        }
        if was_ready {
            self.publish(sandbox, sandbox, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    fn container_exited(&self, id: &str, run: RunStatus) {
        let sandbox = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(id) else { return };
            container.run.send_replace(run);
            container.record.sandbox.clone()
        };
        self.publish(&sandbox, id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    async fn handle(self: &Arc<Self>, sandbox: &str, news: News) {
        match news {
            News::Closed => self.link_lost(sandbox).await,
            News::Event(Event::Exited { container, status }) => self.container_exited(&container, status),
            News::Event(Event::ExecExited { exec, code }) => {
                if let Some((_, waiting)) = self.execs.lock().remove(&exec) {
                    // Who asked may have gone.
                    let _ = waiting.send(code);
                }
            }
            News::Event(Event::Warning(text)) => self.warn_once(&text),
        }
    }

    /// Logs what the host forbids, once.
    pub(crate) fn warn_once(&self, text: &str) {
        if self.warned.lock().insert(text.to_owned()) {
            tracing::warn!("{text}; going on without");
        }
    }

    /// Layers that containers are made of.
    pub(crate) fn layers_in_use(&self) -> BTreeSet<String> {
        self.state.lock().containers.values().flat_map(|c| c.record.layers.clone()).collect()
    }

    fn write_sandbox(&self, record: &SandboxRecord) -> io::Result<()> {
        write_json(&self.options.sandbox_root(&record.id).join("record.json"), record)
    }

    /// [`Self::write_sandbox`] where nothing better can be done than to tell of a failure.
    fn save_sandbox(&self, record: &SandboxRecord) {
        if let Err(error) = self.write_sandbox(record) {
            tracing::error!(%error, sandbox = record.id, "write a pod's record");
        }
    }

    fn link(&self, sandbox: &str) -> Result<Arc<Link>, Error> {
        let state = self.state.lock();
        let found = state.sandboxes.get(sandbox).and_then(|s| s.link.clone());
        found.ok_or_else(|| Error::State(format!("sandbox {sandbox} is not ready")))
    }

    /// The full ID for an ID or the unambiguous beginning of one.
    pub(crate) fn sandbox_id(&self, id: &str) -> Result<String, Error> {
        complete(&self.state.lock().sandboxes, id)
            .ok_or_else(|| Error::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    /// As [`Self::sandbox_id`] for containers.
    pub(crate) fn container_id(&self, id: &str) -> Result<String, Error> {
        complete(&self.state.lock().containers, id)
            .ok_or_else(|| Error::NotFound { kind: "container", id: id.to_owned() })
    }
}

async fn follow(engine: std::sync::Weak<Engine>, mut inbox: mpsc::UnboundedReceiver<(String, News)>) {
    while let Some((sandbox, news)) = inbox.recv().await {
        let Some(engine) = engine.upgrade() else { break };
        engine.handle(&sandbox, news).await;
    }
}

fn complete<T>(all: &BTreeMap<String, T>, id: &str) -> Option<String> {
    if all.contains_key(id) {
        return Some(id.to_owned());
    }
    if id.is_empty() {
        return None;
    }
    let mut matching = all.range(id.to_owned()..).map(|(k, _)| k).take_while(|k| k.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(one), None) => Some(one.clone()),
        _ => None,
    }
}

/// Whether a connection failed because nobody listens.
fn nobody_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn directories(path: &std::path::Path) -> Result<Vec<PathBuf>, Error> {
    let list =
        || -> io::Result<Vec<PathBuf>> { std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect() };
    list().map_err(io_error(format!("list {}", path.display())))
}

/// A file's content; `None` if there is no file.
fn content(path: &std::path::Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(io_error(format!("read {}", path.display()))(e)),
    }
}

/// A JSON file; `None` if it is missing or not whole.
fn record<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<Option<T>, Error> {
    Ok(content(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// As [`record`], for a CRI message.
fn config<T: prost::Message + Default>(path: &std::path::Path) -> Result<Option<T>, Error> {
    Ok(content(path)?.and_then(|bytes| T::decode(&bytes[..]).ok()))
}

fn write_config(path: &std::path::Path, config: &impl prost::Message) -> io::Result<()> {
    write_whole(path, &config.encode_to_vec())
}
