//! The task of one pod: it gathers what changes, asks [`decide`], has the commands carried out and writes the status.
//!
//! It alone owns the pod's [`Memory`] and [`RuntimeState`]; commands run beside it and report through the mailbox, so
//! that a pod which is being deleted never waits for a pull. Not here: choices.

mod report;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::types::core::v1::{Pod, PodStatus};
use client::EventType;
use foundation::CancellationToken;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use volumes::{MountedVolume, ObjectKey, PodVolumes};

use super::decide::{Cause, Command, Decision, Desired, View, after, backoff_key, decide, grace};
use super::execute::{self, StartFailure};
use super::state::{ContainerRecord, Failure, Memory, Phase, RuntimeState, SandboxRecord, Volumes};
use crate::node::Node;
use crate::pod::{self, environment};
use crate::probe;

/// What a worker is told.
pub enum Message {
    /// The pod's object is new or has changed.
    Pod(Arc<Pod>),
    /// The pod's object is gone.
    Gone,
    /// The node refuses the pod.
    Refuse {
        /// As in `OutOfcpu`.
        reason: String,
        /// Details.
        message: String,
    },
    /// The runtime says how a sandbox and its containers are.
    Runtime(Option<SandboxRecord>, Vec<ContainerRecord>),
    /// The runtime may have changed: ask it.
    Refresh,
    /// An object that the pod's volumes are made from has changed.
    Sources,
    /// A probe's result has changed: container id, which probe, whether it succeeded.
    Probed(String, probe::Kind, bool),
    /// A command has been carried out.
    Done(Done),
}

/// What came of a command.
pub enum Done {
    /// Volumes were made.
    Mounted(Result<BTreeMap<String, MountedVolume>, String>),
    /// Volumes were brought up to date.
    Followed(Result<BTreeMap<String, MountedVolume>, String>),
    /// A sandbox was made.
    Sandbox(Result<SandboxRecord, String>),
    /// A sandbox was stopped.
    Stopped(String, Result<(), String>),
    /// A container's start has ended.
    Started(String, Result<(), StartFailure>),
    /// A container was killed.
    Killed(String),
    /// Volumes were taken away.
    Unmounted(Result<(), String>),
    /// The runtime was asked.
    Refreshed(RuntimeState),
    /// The status was written; `None` if it could not be.
    Reported(Box<PodStatus>, Result<Option<Box<Pod>>, String>),
    /// The object was deleted, or not.
    Deleted(Result<(), String>),
}

/// A worker's mailbox.
pub type Mailbox = mpsc::UnboundedSender<Message>;

/// How a pod is at the moment, for those who serve it.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// What the runtime has.
    pub runtime: RuntimeState,
    /// The pod with the newest status.
    pub pod: Option<Arc<Pod>>,
}

/// A pod's worker.
pub struct Actor {
    node: Arc<Node>,
    pod: Arc<Pod>,
    desired: Desired,
    runtime: RuntimeState,
    memory: Memory,
    start_time: Timestamp,
    mailbox: Mailbox,
    inbox: mpsc::UnboundedReceiver<Message>,
    volumes: PodVolumes,
    mounted: Arc<BTreeMap<String, MountedVolume>>,
    /// Cancels the start that is under way.
    cancel: CancellationToken,
    probes: HashMap<String, CancellationToken>,
    /// The object is gone from the API.
    gone: bool,
    /// Nothing of the pod is left.
    finished: bool,
    /// A status is being written.
    reporting: bool,
    report_at: Option<Timestamp>,
    /// The patch that was sent last, so that a server which does not keep what it is told is not told without pause.
    last_patch: Option<serde_json::Value>,
    deleting: bool,
    deleted: bool,
    /// The sources have changed while volumes were being made.
    stale: bool,
    follow_at: Option<Timestamp>,
    snapshot: tokio::sync::watch::Sender<Snapshot>,
}

impl Actor {
    /// A worker for `pod`, of which the runtime already has `runtime`.
    pub fn new(
        node: Arc<Node>,
        pod: Arc<Pod>,
        runtime: RuntimeState,
        mailbox: (Mailbox, mpsc::UnboundedReceiver<Message>),
        snapshot: tokio::sync::watch::Sender<Snapshot>,
    ) -> Actor {
        let uid = pod::uid(&pod).to_owned();
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let mut actor = Actor {
            volumes: PodVolumes::new(node.pod_dir(&uid), node.objects.clone(), node.host.clone()),
            desired: Desired::Run,
            runtime,
            memory: Memory::default(),
            start_time: started.unwrap_or_else(|| node.clock.now()),
            mailbox: mailbox.0,
            inbox: mailbox.1,
            mounted: Arc::default(),
            cancel: CancellationToken::new(),
            probes: HashMap::new(),
            gone: false,
            finished: false,
            reporting: false,
            report_at: None,
            last_patch: None,
            deleting: false,
            deleted: false,
            stale: false,
            follow_at: None,
            snapshot,
            node,
            pod: pod.clone(),
        };
        actor.register();
        actor.look_for_deletion();
        // What ended before this kubelet started stays ended.
        if matches!(
            pod.status.as_ref().and_then(|status| status.phase.as_deref()),
            Some("Succeeded" | "Failed")
        ) {
            actor.end(Cause::Finished);
        }
        actor
    }

    /// Works until nothing of the pod is left, here and in the API.
    pub async fn run(mut self) {
        loop {
            let clock = self.node.clock.clone();
            let wake_at = crate::metrics::timed(&clock, self.ending(), || self.step());
            self.snapshot
                .send_replace(Snapshot { runtime: self.runtime.clone(), pod: Some(self.pod.clone()) });
            if self.finished && (self.gone || self.deleted) {
                break;
            }
            let message = match wake_at {
                None => self.inbox.recv().await,
                Some(at) => {
                    let left = at.duration_since(self.node.clock.now());
                    let left = Duration::try_from(left).unwrap_or_default();
                    tokio::select! {
                        message = self.inbox.recv() => message,
                        () = self.node.clock.sleep(left) => continue,
                    }
                }
            };
            let Some(message) = message else { return };
            self.receive(message).await;
            while let Ok(message) = self.inbox.try_recv() {
                self.receive(message).await;
            }
        }
        self.node.objects.unregister(pod::uid(&self.pod));
        let sandboxes: Vec<String> =
            self.runtime.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        let containers: Vec<String> =
            self.runtime.containers.iter().map(|container| container.id.clone()).collect();
        execute::remove(&self.node, &self.pod, &sandboxes, &containers).await;
    }

    /// Decides, starts what was decided, reports. Returns when to look again if nothing happens before.
    fn step(&mut self) -> Option<Timestamp> {
        let mut decision = self.decide();
        if let Some(cause) = decision.end.take() {
            self.end(cause);
            decision = self.decide();
        }
        self.forget();
        for command in std::mem::take(&mut decision.commands) {
            self.carry_out(command);
        }
        self.tell_back_offs(&decision);
        self.follow();
        self.probe();
        let mut wake_at = decision.wake_at;
        if let Some(at) = self.report(&decision) {
            wake_at = Some(wake_at.map_or(at, |other| other.min(at)));
        }
        [
            wake_at,
            self.follow_at,
            self.node.objects.next_renewal(pod::uid(&self.pod)).filter(|_| !self.ending()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            desired: &self.desired,
            runtime: &self.runtime,
            memory: &self.memory,
            start_time: self.start_time,
            now: self.node.clock.now(),
        }
    }

    fn decide(&self) -> Decision {
        if self.finished { Decision::default() } else { decide(&self.view()) }
    }

    fn ending(&self) -> bool {
        matches!(self.desired, Desired::End { .. })
    }

    fn end(&mut self, cause: Cause) {
        let now = self.node.clock.now();
        let new = after(now, grace(&self.pod));
        // An earlier end is kept unless the new one is sooner; what was a failure stays one.
        let (cause, deadline) = match &self.desired {
            Desired::Run => (cause, new),
            Desired::End { cause: Cause::Deleted, deadline } => (cause, (*deadline).min(new)),
            Desired::End { cause: old, deadline } => (old.clone(), (*deadline).min(new)),
        };
        self.desired = Desired::End { cause, deadline };
        self.cancel.cancel();
        for token in self.probes.values() {
            token.cancel();
        }
    }

    fn look_for_deletion(&mut self) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.end(Cause::Deleted);
        }
    }

    /// Tells the cache of objects what the pod reads.
    fn register(&self) {
        let mut keys: std::collections::BTreeSet<ObjectKey> = environment::references(&self.pod);
        keys.extend(PodVolumes::references(&self.pod).objects);
        let pulls = self.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        keys.extend(pulls.map(|reference| ObjectKey::Secret(reference.name.clone())));
        let mailbox = self.mailbox.clone();
        let notify = Arc::new(move || drop(mailbox.send(Message::Sources)));
        self.node.objects.register(&self.pod, &keys, notify);
    }

    async fn receive(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.adopt(&pod),
            Message::Gone => {
                self.gone = true;
                self.end(Cause::Deleted);
            }
            Message::Refuse { reason, message } => {
                self.node.recorder.event(&*self.pod, EventType::Warning, &reason, message.clone());
                let message = format!("Pod was rejected: {message}");
                self.end(Cause::Failed { reason, message });
            }
            Message::Runtime(sandbox, containers) => {
                if let Some(sandbox) = sandbox {
                    self.runtime.put_sandbox(sandbox);
                }
                for container in containers {
                    self.put(container).await;
                }
            }
            Message::Refresh => {
                let uid = pod::uid(&self.pod).to_owned();
                let node = self.node.clone();
                self.spawn(async move {
                    match node.runtime.pod(&uid).await {
                        Ok(state) => Some(Done::Refreshed(state)),
                        Err(error) => {
                            tracing::warn!(uid, %error, "the runtime was not asked about a pod");
                            None
                        }
                    }
                });
            }
            Message::Sources => self.stale = true,
            Message::Probed(id, kind, success) => {
                let probed = self.memory.probed.entry(id).or_default();
                match kind {
                    probe::Kind::Startup => probed.startup = Some(success),
                    probe::Kind::Liveness => probed.liveness = Some(success),
                    probe::Kind::Readiness => probed.readiness = Some(success),
                }
            }
            Message::Done(done) => self.done(done).await,
        }
    }

    /// Takes a pod from the API unless what is known is newer (a status that was just written comes back by watch
    /// after its own answer).
    fn adopt(&mut self, pod: &Arc<Pod>) {
        let version = |pod: &Pod| pod.metadata.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
        if version(pod) < version(&self.pod) {
            return;
        }
        let same = pod.spec == self.pod.spec
            && pod.metadata.labels == self.pod.metadata.labels
            && pod.metadata.annotations == self.pod.metadata.annotations;
        self.pod = pod.clone();
        if !same {
            self.stale = true;
            self.register();
        }
        self.look_for_deletion();
    }

    async fn put(&mut self, mut container: ContainerRecord) {
        if container.phase == Phase::Exited {
            if self.runtime.containers.iter().any(|c| c.id == container.id && c.phase == Phase::Exited) {
                return;
            }
            execute::last_words(&mut container).await;
            if let Some(token) = self.probes.remove(&container.id) {
                token.cancel();
            }
        }
        self.runtime.put_container(container);
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Mounted(result) => {
                if let Some(mounted) = self.settled(result, "FailedMount") {
                    self.mounted = Arc::new(mounted);
                    self.memory.volumes = Volumes::Ready;
                }
            }
            Done::Followed(result) => {
                self.memory.busy = false;
                match result {
                    Ok(mounted) => self.mounted = Arc::new(mounted),
                    Err(error) => {
                        tracing::warn!(pod = pod::full_name(&self.pod), %error, "volumes were not brought up to date");
                        self.node.recorder.event(&*self.pod, EventType::Warning, "FailedMount", error);
                        self.stale = true;
                        self.follow_at = Some(self.node.clock.now() + SignedDuration::from_secs(10));
                    }
                }
            }
            Done::Sandbox(result) => {
                if let Some(sandbox) = self.settled(result, "") {
                    self.runtime.put_sandbox(sandbox);
                }
            }
            Done::Stopped(id, result) => {
                if self.settled(result, "FailedKillPod").is_some() {
                    for sandbox in self.runtime.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
                        sandbox.ready = false;
                    }
                    self.memory.stopped_sandboxes.insert(id);
                    if !self.ending() {
                        let text = "Pod sandbox changed, it will be killed and re-created.";
                        self.node.recorder.event(&*self.pod, EventType::Normal, "SandboxChanged", text);
                    }
                }
                let _ = self.mailbox.send(Message::Refresh);
            }
            Done::Started(name, result) => self.started(name, result),
            Done::Killed(id) => {
                self.memory.killing.remove(&id);
                let record = self.node.runtime.container(&id).await;
                match record {
                    Ok(record) => self.put(record).await,
                    Err(error) if error.is_not_found() => self.runtime.containers.retain(|c| c.id != id),
                    Err(error) => tracing::warn!(id, %error, "a killed container was not inspected"),
                }
            }
            Done::Unmounted(result) => {
                if self.settled(result, "FailedUnMount").is_some() {
                    self.memory.volumes = Volumes::Gone;
                }
            }
            Done::Refreshed(state) => {
                // What the runtime has lost (somebody removed it) is no longer there.
                let known: Vec<String> = state.containers.iter().map(|c| c.id.clone()).collect();
                self.runtime.containers.retain(|c| known.contains(&c.id) || c.phase == Phase::Exited);
                self.runtime.sandboxes.retain(|sandbox| state.sandboxes.iter().any(|s| s.id == sandbox.id));
                for sandbox in state.sandboxes {
                    self.runtime.put_sandbox(sandbox);
                }
                for container in state.containers {
                    self.put(container).await;
                }
            }
            Done::Reported(status, result) => self.reported(*status, result),
            Done::Deleted(result) => {
                self.deleting = false;
                match result {
                    Ok(()) => self.deleted = true,
                    Err(error) => {
                        tracing::warn!(pod = pod::full_name(&self.pod), %error, "the pod's object was not deleted");
                        self.report_at = Some(self.node.clock.now() + SignedDuration::from_secs(1));
                    }
                }
            }
        }
    }

    /// Counts a step's success or failure; a failure is told in an event with `reason` unless that is empty.
    fn settled<T>(&mut self, result: Result<T, String>, reason: &str) -> Option<T> {
        self.memory.busy = false;
        match result {
            Ok(value) => {
                self.memory.failures = 0;
                self.memory.retry_at = None;
                Some(value)
            }
            Err(error) => {
                tracing::warn!(pod = pod::full_name(&self.pod), %error, "a step of a pod failed");
                if !reason.is_empty() {
                    self.node.recorder.event(&*self.pod, EventType::Warning, reason, error);
                }
                self.memory.retry_at = Some(self.node.clock.now() + self.memory.retry_delay());
                self.memory.failures += 1;
                None
            }
        }
    }

    fn started(&mut self, name: String, result: Result<(), StartFailure>) {
        self.memory.starting = None;
        let now = self.node.clock.now();
        match result {
            Ok(()) => {
                self.memory.failed_starts.remove(&name);
                self.memory.restarts.entry(format!("image/{name}")).or_default().reset();
            }
            Err(failure) => {
                let backoff = self.memory.restarts.entry(format!("image/{name}")).or_default();
                let retry_at = if failure.pull {
                    backoff.next(now, now);
                    backoff.until(now, now).map_or(now, |(until, _)| until)
                } else {
                    now + SignedDuration::from_secs(2)
                };
                let image = (failure.waiting.reason == "ErrImagePull")
                    .then(|| pod::containers(&self.pod).into_iter().find(|(_, c)| c.name == name)?.1.image)
                    .flatten();
                // One failure of an image is told once; older ones are forgotten.
                self.memory.told.retain(|key| !key.starts_with(&format!("image/{name}/")));
                let failure = Failure { at: now, waiting: failure.waiting, retry_at, image };
                self.memory.failed_starts.insert(name, failure);
            }
        }
    }

    fn spawn<F>(&self, work: F)
    where
        F: Future<Output = Option<Done>> + Send + 'static,
    {
        let mailbox = self.mailbox.clone();
        self.node.tasks.spawn_until_cancelled("pod-worker", async move {
            if let Some(done) = work.await {
                // The worker may have ended meanwhile.
                let _ = mailbox.send(Message::Done(done));
            }
        });
    }

    fn carry_out(&mut self, command: Command) {
        let (node, pod) = (self.node.clone(), self.pod.clone());
        match command {
            Command::MountVolumes => {
                self.memory.busy = true;
                self.stale = false;
                let work = self.mount();
                self.spawn(async move { Some(Done::Mounted(work.await)) });
            }
            Command::CreateSandbox { attempt } => {
                self.memory.busy = true;
                self.spawn(async move {
                    Some(Done::Sandbox(execute::create_sandbox(&node, &pod, attempt).await))
                });
            }
            Command::StopSandbox { id } => {
                self.memory.busy = true;
                self.spawn(async move {
                    let result = execute::stop_sandbox(&node, &id).await;
                    Some(Done::Stopped(id, result))
                });
            }
            Command::Start { name, restarts } => self.start(&name, restarts),
            Command::Kill { id, name: _, message, deadline } => {
                let Some(record) = self.runtime.containers.iter().find(|c| c.id == id).cloned() else {
                    return;
                };
                let again = self.memory.killing.insert(id.clone(), deadline).is_some();
                let ip = self.ip();
                self.spawn(async move {
                    execute::kill(&node, &pod, &record, &ip, &message, deadline, !again).await;
                    Some(Done::Killed(id))
                });
            }
            Command::UnmountVolumes => {
                self.memory.busy = true;
                let volumes = self.volumes.clone();
                self.spawn(async move {
                    Some(Done::Unmounted(volumes.teardown().await.map_err(|e| e.to_string())))
                });
            }
            Command::Finish => self.finished = true,
        }
    }

    fn mount(
        &self,
    ) -> impl Future<Output = Result<BTreeMap<String, MountedVolume>, String>> + Send + 'static {
        let (node, pod, volumes) = (self.node.clone(), self.pod.clone(), self.volumes.clone());
        async move {
            let mounted = volumes.setup(&pod, &node.allocatable, node.clock.now()).await;
            mounted.map_err(|error| error.to_string())
        }
    }

    fn start(&mut self, name: &str, restarts: u32) {
        let Some((_, container)) = pod::containers(&self.pod).into_iter().find(|(_, c)| c.name == name)
        else {
            return;
        };
        let Some(sandbox) = self.runtime.ready_sandbox().cloned() else { return };
        let now = self.node.clock.now();
        if let Some(last) = self.runtime.latest(name).filter(|record| record.phase == Phase::Exited) {
            let failed = last.finished_at.unwrap_or(last.created_at);
            self.memory.restarts.entry(backoff_key(&container)).or_default().next(failed, now);
        }
        self.memory.starting = Some(name.to_owned());
        let ephemeral = self.pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let target = ephemeral
            .filter(|c| c.name == name)
            .find_map(|c| c.target_container_name.as_deref())
            .and_then(|target| self.runtime.latest(target))
            .map(|record| record.id.clone());
        self.cancel = CancellationToken::new();
        let mailbox = self.mailbox.clone();
        let start = execute::Start {
            node: self.node.clone(),
            pod: self.pod.clone(),
            container,
            restarts,
            sandbox,
            volumes: self.mounted.clone(),
            target,
            cancel: self.cancel.clone(),
            running: Box::new(move |record| drop(mailbox.send(Message::Runtime(None, vec![record])))),
        };
        let name = name.to_owned();
        self.spawn(async move {
            let result = start.run().await;
            Some(Done::Started(name, result))
        });
    }

    fn ip(&self) -> String {
        let own = self.runtime.sandboxes.first().and_then(|sandbox| sandbox.ips.first());
        own.or(self.node.ips.first()).cloned().unwrap_or_default()
    }
}
