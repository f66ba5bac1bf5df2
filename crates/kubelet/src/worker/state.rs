//! What a worker knows: what the runtime has of the pod, and what is under way.

use std::collections::{BTreeMap, BTreeSet};

use cri::v1::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};
use jiff::{SignedDuration, Timestamp};

use super::backoff::BackOff;
use crate::pod::container::{HASH, NAME, RESTART_COUNT};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// At its end.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

/// A container that the runtime has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRecord {
    /// The runtime's id, without a prefix.
    pub id: String,
    /// The name in the pod.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// The runtime's word for it, as in `OOMKilled`.
    pub reason: String,
    /// Its last words, or the runtime's.
    pub message: String,
    /// The image as the pod names it.
    pub image: String,
    /// The image as the runtime resolved it.
    pub image_id: String,
    /// How often the container had been restarted before this one.
    pub restarts: u32,
    /// [`crate::pod::container::hash`] of what it was made from.
    pub hash: String,
    /// Its log.
    pub log_path: String,
    /// The files on the node that it sees (its last words are in one of them).
    pub mounts: Vec<(String, String)>,
    /// Annotations, which tell how its last words are to be read.
    pub annotations: BTreeMap<String, String>,
}

impl ContainerRecord {
    /// From the runtime's answer.
    pub fn from_cri(status: &ContainerStatus) -> ContainerRecord {
        let time = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).ok().filter(|_| nanos > 0);
        let metadata = status.metadata.clone().unwrap_or_default();
        let get = |key: &str| status.annotations.get(key).cloned();
        ContainerRecord {
            id: status.id.clone(),
            name: status.labels.get(NAME).cloned().unwrap_or(metadata.name),
            phase: match status.state() {
                ContainerState::ContainerCreated => Phase::Created,
                ContainerState::ContainerRunning => Phase::Running,
                ContainerState::ContainerExited => Phase::Exited,
                ContainerState::ContainerUnknown => Phase::Unknown,
            },
            created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            started_at: time(status.started_at),
            finished_at: time(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            image: status
                .image
                .as_ref()
                .map(|i| if i.user_specified_image.is_empty() { &i.image } else { &i.user_specified_image })
                .cloned()
                .unwrap_or_default(),
            image_id: status.image_ref.clone(),
            restarts: get(RESTART_COUNT).and_then(|count| count.parse().ok()).unwrap_or(metadata.attempt),
            hash: get(HASH).unwrap_or_default(),
            log_path: status.log_path.clone(),
            mounts: status.mounts.iter().map(|m| (m.container_path.clone(), m.host_path.clone())).collect(),
            annotations: status.annotations.clone().into_iter().collect(),
        }
    }

    /// Whether it may still be running.
    pub fn alive(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Unknown)
    }
}

/// A sandbox that the runtime has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRecord {
    /// The runtime's id.
    pub id: String,
    /// Whether containers can run in it.
    pub ready: bool,
    /// Its number among the pod's sandboxes.
    pub attempt: u32,
    /// When it was made, in nanoseconds.
    pub created_at: i64,
    /// Its addresses; none on the node's network.
    pub ips: Vec<String>,
    /// The handler of the runtime that runs it; empty is the default one.
    pub handler: String,
}

impl SandboxRecord {
    /// From the runtime's answer.
    pub fn from_cri(status: &PodSandboxStatus) -> SandboxRecord {
        let network = status.network.clone().unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        SandboxRecord {
            id: status.id.clone(),
            ready: status.state() == PodSandboxState::SandboxReady,
            attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
            created_at: status.created_at,
            handler: status.runtime_handler.clone(),
            ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        }
    }
}

/// What the runtime has of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    /// Sandboxes.
    pub sandboxes: Vec<SandboxRecord>,
    /// Containers of the newest sandbox that was usable, and of those before.
    pub containers: Vec<ContainerRecord>,
}

impl RuntimeState {
    /// The sandbox in which containers can run.
    pub fn ready_sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The one before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// Puts newer knowledge of a sandbox in its place.
    pub fn put_sandbox(&mut self, sandbox: SandboxRecord) {
        self.sandboxes.retain(|other| other.id != sandbox.id);
        self.sandboxes.push(sandbox);
        self.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
    }

    /// Puts newer knowledge of a container in its place. Containers do not come back from their end.
    pub fn put_container(&mut self, container: ContainerRecord) {
        if let Some(known) = self.containers.iter().find(|other| other.id == container.id)
            && known.phase == Phase::Exited
            && container.phase != Phase::Exited
        {
            return;
        }
        self.containers.retain(|other| other.id != container.id);
        self.containers.push(container);
        self.containers
            .sort_by_key(|container| std::cmp::Reverse((container.restarts, container.created_at)));
    }
}

/// How far the volumes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    /// Not there.
    #[default]
    Absent,
    /// There.
    Ready,
    /// Taken away for good.
    Gone,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// As in `ImagePullBackOff`.
    pub reason: String,
    /// Details.
    pub message: String,
}

/// What probes have found of one running container. `None`: no such probe, or no result yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Whether it has started.
    pub startup: Option<bool>,
    /// Whether it lives.
    pub liveness: Option<bool>,
    /// Whether it may serve.
    pub readiness: Option<bool>,
}

/// A failure of something that is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it failed.
    pub at: Timestamp,
    /// What the status shows.
    pub waiting: Waiting,
    /// When it may be tried again.
    pub retry_at: Timestamp,
    /// The image that could not be pulled, if that is what failed.
    pub image: Option<String>,
}

/// How long the status shows that a pull failed, before it shows that the next one is waited for.
const SHOW_FAILURE: SignedDuration = SignedDuration::from_secs(2);

impl Failure {
    /// What the status shows now, and when that changes.
    pub fn shown(&self, now: Timestamp) -> (Waiting, Option<Timestamp>) {
        let turn = self.at + SHOW_FAILURE;
        match &self.image {
            Some(_) if now < turn => (self.waiting.clone(), Some(turn)),
            Some(image) => {
                let message = format!(
                    "Back-off pulling image \"{image}\": {}: {}",
                    self.waiting.reason, self.waiting.message
                );
                (Waiting { reason: "ImagePullBackOff".to_owned(), message }, None)
            }
            None => (self.waiting.clone(), None),
        }
    }
}

/// What the worker remembers between two looks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// How far the volumes are.
    pub volumes: Volumes,
    /// A volume, sandbox or cleanup step is under way.
    pub busy: bool,
    /// When the last such step failed, it is not tried before this.
    pub retry_at: Option<Timestamp>,
    /// How often in a row it failed.
    pub failures: u32,
    /// The container whose start is under way.
    pub starting: Option<String>,
    /// Containers being killed, with the moment at which they are killed hard.
    pub killing: BTreeMap<String, Timestamp>,
    /// Starts that failed before a container ran.
    pub failed_starts: BTreeMap<String, Failure>,
    /// Restarts, by container name and hash.
    pub restarts: BTreeMap<String, BackOff>,
    /// Results of probes, by container id.
    pub probed: BTreeMap<String, Probed>,
    /// Back-offs that have been told in an event: a container's id, or an image's failure.
    pub told: BTreeSet<String>,
    /// Its start has been measured.
    pub ran: bool,
    /// Sandboxes that were given up, so that they are stopped once only.
    pub stopped_sandboxes: BTreeSet<String>,
}

impl Memory {
    /// The wait after the `failures`-th failure in a row: half a second, doubling up to two minutes.
    pub fn retry_delay(&self) -> SignedDuration {
        let shift = self.failures.min(8);
        SignedDuration::from_millis(500 * (1i64 << shift)).min(SignedDuration::from_secs(122))
    }
}
