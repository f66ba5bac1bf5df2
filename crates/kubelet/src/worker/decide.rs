//! What to do next for a pod: a pure function over what is known.
//!
//! Reads a [`View`]; returns a [`Decision`]. It is asked again after every change, so it names only what can be done
//! now. Not here: how anything is done, and what the status says ([`crate::status`]).
//! Upstream: `computePodActions` and `SyncPod` (`pkg/kubelet/kuberuntime`), `pkg/kubelet/pod_workers.go`.

use std::collections::BTreeMap;

use api::types::core::v1::{Container, Pod};
use jiff::{SignedDuration, Timestamp};

use super::state::{ContainerRecord, Memory, Phase, RuntimeState, Volumes, Waiting};
use crate::pod::{self, Role};

/// Why a pod comes to its end on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its object is being deleted, or is gone.
    Deleted,
    /// All that it had to do is done.
    Finished,
    /// The node gave it up: its phase is `Failed` with this reason and message.
    Failed {
        /// As in `DeadlineExceeded`.
        reason: String,
        /// Details.
        message: String,
    },
}

/// What is wanted of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// To run.
    Run,
    /// To end.
    End {
        /// Why.
        cause: Cause,
        /// When what still runs is killed hard.
        deadline: Timestamp,
    },
}

/// All that a decision looks at.
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What is wanted of it.
    pub desired: &'a Desired,
    /// What the runtime has of it.
    pub runtime: &'a RuntimeState,
    /// What is under way.
    pub memory: &'a Memory,
    /// When the node first saw the pod.
    pub start_time: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make the volumes.
    MountVolumes,
    /// Make the `attempt`-th sandbox.
    CreateSandbox {
        /// Its number.
        attempt: u32,
    },
    /// Stop a sandbox and everything in it.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Pull the image, make and start a container, run its postStart hook.
    Start {
        /// The container's name.
        name: String,
        /// How often it was restarted before.
        restarts: u32,
    },
    /// Run the preStop hook and stop a container.
    Kill {
        /// The runtime's id.
        id: String,
        /// The container's name.
        name: String,
        /// What the event says.
        message: String,
        /// When it is killed hard.
        deadline: Timestamp,
    },
    /// Take the volumes and the pod's directory away.
    UnmountVolumes,
    /// Nothing of the pod is left: report it, and let its object go if it is being deleted.
    Finish,
}

/// What to do, what containers wait for, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be carried out now.
    pub commands: Vec<Command>,
    /// Why containers wait, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// The pod's end has come.
    pub end: Option<Cause>,
    /// The next moment at which time alone changes the answer.
    pub wake_at: Option<Timestamp>,
}

impl Decision {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }
}

/// The grace period of the pod in seconds.
pub fn grace(pod: &Pod) -> i64 {
    let of_spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(of_spec).unwrap_or(30)
}

/// What to do next.
pub fn decide(view: &View<'_>) -> Decision {
    match view.desired {
        Desired::Run => run(view),
        Desired::End { deadline, .. } => end(view, *deadline),
    }
}

/// Whether a container that ended with `record` is to run again.
pub fn restarts(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    let policy = match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Regular => {
            for rule in container.restart_policy_rules.iter().flatten() {
                if let Some(codes) = &rule.exit_codes {
                    let listed = codes.values.as_ref().is_some_and(|values| values.contains(&exit_code));
                    if rule.action == "Restart" && (codes.operator == "In") == listed {
                        return true;
                    }
                }
            }
            let of_pod =
                pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
            container.restart_policy.as_deref().unwrap_or(of_pod)
        }
    };
    match (policy, role) {
        ("Never", _) => false,
        // An init container that has worked is done, whatever the policy.
        ("OnFailure", _) | (_, Role::Init) => exit_code != 0,
        _ => true,
    }
}

fn run(view: &View<'_>) -> Decision {
    let mut decision = Decision::default();
    let memory = view.memory;
    if let Some(seconds) = view.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) {
        let deadline = view.start_time + SignedDuration::from_secs(seconds);
        if view.now >= deadline {
            decision.end = Some(Cause::Failed {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
            });
            return decision;
        }
        decision.wake(deadline);
    }
    let containers = pod::containers(view.pod);
    if finished(view, &containers) {
        decision.end = Some(Cause::Finished);
        return decision;
    }
    waiting_for_start(view, &containers, &mut decision);
    if memory.busy {
        return decision;
    }
    if memory.volumes == Volumes::Absent || view.runtime.ready_sandbox().is_none() {
        if let Some(retry_at) = memory.retry_at.filter(|at| view.now < *at) {
            decision.wake(retry_at);
            return decision;
        }
        if memory.volumes == Volumes::Absent {
            decision.commands.push(Command::MountVolumes);
            return decision;
        }
        // Containers of a sandbox that has died cannot be started again in another.
        let dead = view.runtime.sandboxes.iter().find(|s| !memory.stopped_sandboxes.contains(&s.id));
        decision.commands.push(match dead {
            Some(sandbox) => Command::StopSandbox { id: sandbox.id.clone() },
            None => {
                let attempt =
                    view.runtime.sandboxes.iter().map(|sandbox| sandbox.attempt + 1).max().unwrap_or(0);
                Command::CreateSandbox { attempt }
            }
        });
        return decision;
    }
    let sandbox_age = view.runtime.ready_sandbox().map_or(0, |sandbox| sandbox.created_at);
    let mut initialized = true;
    for (role, container) in &containers {
        let record = view.runtime.latest(&container.name).filter(|record| in_sandbox(record, sandbox_age));
        match role {
            Role::Init | Role::Sidecar if !initialized => continue,
            Role::Regular | Role::Ephemeral if !initialized => continue,
            Role::Init => initialized = init(view, container, record, &containers, &mut decision),
            Role::Sidecar => initialized = sidecar(view, container, record, &mut decision),
            Role::Regular => regular(view, Role::Regular, container, record, &mut decision),
            Role::Ephemeral => {
                if record.is_none() {
                    start(view, container, &mut decision);
                }
            }
        }
    }
    decision
}

/// Whether a container was made in the sandbox that is there now.
fn in_sandbox(record: &ContainerRecord, sandbox_created: i64) -> bool {
    record.created_at.as_nanosecond() >= i128::from(sandbox_created) || record.alive()
}

/// Whether all that the pod had to do is done: nothing runs and nothing is to be restarted.
fn finished(view: &View<'_>, containers: &[(Role, Container)]) -> bool {
    let done = |role: Role, container: &Container| {
        view.runtime.latest(&container.name).is_some_and(|record| {
            record.phase == Phase::Exited && !restarts(view.pod, role, container, record.exit_code)
        })
    };
    let failed_init = containers.iter().any(|(role, container)| {
        *role == Role::Init
            && done(*role, container)
            && view.runtime.latest(&container.name).is_some_and(|record| record.exit_code != 0)
    });
    let mut regular = containers.iter().filter(|(role, _)| *role == Role::Regular).peekable();
    view.memory.starting.is_none()
        && (failed_init
            || regular.peek().is_some() && regular.all(|(role, container)| done(*role, container)))
}

/// One step of the initialization. Returns whether the next container may go on.
fn init(
    view: &View<'_>,
    container: &Container,
    record: Option<&ContainerRecord>,
    all: &[(Role, Container)],
    decision: &mut Decision,
) -> bool {
    // Once a container of the pod itself has been made, the initialization is over for this sandbox.
    let past = all
        .iter()
        .any(|(role, c)| *role == Role::Regular && view.runtime.latest(&c.name).is_some_and(|r| r.alive()));
    match record {
        _ if past => true,
        Some(record) if record.phase == Phase::Exited && record.exit_code == 0 => true,
        Some(record) if record.alive() => false,
        _ => {
            regular(view, Role::Init, container, record, decision);
            false
        }
    }
}

/// A sidecar. Returns whether it has started.
fn sidecar(
    view: &View<'_>,
    container: &Container,
    record: Option<&ContainerRecord>,
    decision: &mut Decision,
) -> bool {
    regular(view, Role::Sidecar, container, record, decision);
    let started = record
        .is_some_and(|record| record.phase == Phase::Running && started(view.memory, container, record));
    let hooked = view.memory.starting.as_deref() != Some(container.name.as_str());
    started && hooked
}

/// Whether a running container has started: it has no startup probe, or the probe has succeeded.
pub fn started(memory: &Memory, container: &Container, record: &ContainerRecord) -> bool {
    container.startup_probe.is_none()
        || memory.probed.get(&record.id).is_some_and(|probed| probed.startup == Some(true))
}

/// A container that is to run, be restarted, or be killed because it does not do what it should.
fn regular(
    view: &View<'_>,
    role: Role,
    container: &Container,
    record: Option<&ContainerRecord>,
    decision: &mut Decision,
) {
    let Some(record) = record else {
        start(view, container, decision);
        return;
    };
    match record.phase {
        Phase::Running | Phase::Unknown => {
            if let Some(message) = unwanted(view, container, record) {
                kill(view, container, record, message, decision);
            }
        }
        // Made but never started: its start is under way, or failed and is tried again with another one.
        Phase::Created => start(view, container, decision),
        Phase::Exited => {
            if restarts(view.pod, role, container, record.exit_code) {
                restart(view, container, record, decision);
            }
        }
    }
}

/// Why a running container must not go on.
fn unwanted(view: &View<'_>, container: &Container, record: &ContainerRecord) -> Option<String> {
    let name = &container.name;
    if !record.hash.is_empty() && record.hash != pod::container::hash(container) {
        return Some(format!("Container {name} definition changed, will be restarted"));
    }
    let probed = view.memory.probed.get(&record.id).copied().unwrap_or_default();
    if probed.startup == Some(false) {
        return Some(format!("Container {name} failed startup probe, will be restarted"));
    }
    if probed.liveness == Some(false) {
        return Some(format!("Container {name} failed liveness probe, will be restarted"));
    }
    None
}

fn kill(
    view: &View<'_>,
    container: &Container,
    record: &ContainerRecord,
    message: String,
    decision: &mut Decision,
) {
    if view.memory.killing.contains_key(&record.id) {
        return;
    }
    let probed = view.memory.probed.get(&record.id).copied().unwrap_or_default();
    let failed = match (probed.startup, probed.liveness) {
        (Some(false), _) => container.startup_probe.as_ref(),
        (_, Some(false)) => container.liveness_probe.as_ref(),
        _ => None,
    };
    let of_pod = view.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let seconds = failed.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or(of_pod);
    decision.commands.push(Command::Kill {
        id: record.id.clone(),
        name: container.name.clone(),
        message,
        deadline: after(view.now, seconds),
    });
}

/// So many seconds after a time, at most the end of time: users may ask for any number.
pub(crate) fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX)
}

/// Starts a container again, after its back-off.
fn restart(view: &View<'_>, container: &Container, record: &ContainerRecord, decision: &mut Decision) {
    if view.memory.starting.as_deref() == Some(container.name.as_str()) {
        return;
    }
    let failed = record.finished_at.unwrap_or(record.created_at);
    let backoff = view.memory.restarts.get(&backoff_key(container)).copied().unwrap_or_default();
    match backoff.until(failed, view.now) {
        Some((until, delay)) => {
            decision.wake(until);
            decision.waiting.insert(
                container.name.clone(),
                Waiting {
                    reason: "CrashLoopBackOff".into(),
                    message: format!(
                        "back-off {} restarting failed container={} pod={}_{}({})",
                        go_duration(delay),
                        container.name,
                        pod::name(view.pod),
                        pod::namespace(view.pod),
                        pod::uid(view.pod)
                    ),
                },
            );
        }
        None => start(view, container, decision),
    }
}

/// The key of a container's restarts: a changed container starts afresh.
pub fn backoff_key(container: &Container) -> String {
    format!("{}/{}", container.name, pod::container::hash(container))
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: SignedDuration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// Starts a container, one at a time.
fn start(view: &View<'_>, container: &Container, decision: &mut Decision) {
    if let Some(failure) = view.memory.failed_starts.get(&container.name)
        && view.now < failure.retry_at
    {
        decision.wake(failure.retry_at);
        return;
    }
    let going = view.memory.starting.is_some()
        || decision.commands.iter().any(|command| matches!(command, Command::Start { .. }));
    if !going {
        let restarts = view.runtime.latest(&container.name).map_or(0, |record| match record.phase {
            Phase::Created => record.restarts,
            _ => record.restarts + 1,
        });
        decision.commands.push(Command::Start { name: container.name.clone(), restarts });
    }
}

/// What the status shows for containers whose start has failed.
fn waiting_for_start(view: &View<'_>, containers: &[(Role, Container)], decision: &mut Decision) {
    for (_, container) in containers {
        if let Some(failure) = view.memory.failed_starts.get(&container.name) {
            let (waiting, turn) = failure.shown(view.now);
            decision.waiting.insert(container.name.clone(), waiting);
            if let Some(turn) = turn {
                decision.wake(turn);
            }
        }
    }
}

fn end(view: &View<'_>, deadline: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let memory = view.memory;
    let containers = pod::containers(view.pod);
    let role =
        |name: &str| containers.iter().find(|(_, c)| c.name == name).map_or(Role::Regular, |(role, _)| *role);
    let alive: Vec<&ContainerRecord> =
        view.runtime.containers.iter().filter(|record| record.alive()).collect();
    // Sidecars outlive the containers they serve, and end in the reverse order of their start.
    let serving = alive.iter().any(|record| role(&record.name) != Role::Sidecar);
    let last_sidecar = containers.iter().rev().find_map(|(role, container)| {
        let running = *role == Role::Sidecar && alive.iter().any(|record| record.name == container.name);
        running.then_some(container.name.as_str())
    });
    for record in &alive {
        let overdue = view.now >= deadline;
        if role(&record.name) == Role::Sidecar
            && !overdue
            && (serving || last_sidecar != Some(record.name.as_str()))
        {
            decision.wake(deadline);
            continue;
        }
        // A second deletion may shorten the wait; an equal or longer one changes nothing.
        let known = memory.killing.get(&record.id);
        if known.is_some_and(|known| *known <= deadline) {
            continue;
        }
        decision.commands.push(Command::Kill {
            id: record.id.clone(),
            name: record.name.clone(),
            message: format!("Stopping container {}", record.name),
            deadline,
        });
    }
    if !alive.is_empty() || memory.starting.is_some() || memory.busy || !memory.killing.is_empty() {
        return decision;
    }
    if let Some(retry_at) = memory.retry_at.filter(|at| view.now < *at) {
        decision.wake(retry_at);
        return decision;
    }
    let standing =
        view.runtime.sandboxes.iter().find(|s| s.ready || !memory.stopped_sandboxes.contains(&s.id));
    decision.commands.push(match standing {
        Some(sandbox) => Command::StopSandbox { id: sandbox.id.clone() },
        None if memory.volumes != Volumes::Gone => Command::UnmountVolumes,
        None => Command::Finish,
    });
    decision
}

#[cfg(test)]
mod tests;
