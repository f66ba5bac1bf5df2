//! What the API says of a pod: its status, made purely from what is known.
//!
//! Not here: writing it ([`patch`] only makes the document).
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`generateAPIPodStatus`, `getPhase`), `pkg/kubelet/status/generate.go`.

pub mod patch;

use api::meta::Time;
use api::types::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, PodCondition, PodIP, PodStatus,
};
use jiff::Timestamp;

use crate::pod::{self, Role};
use crate::worker::decide::{self, Cause, Decision, Desired, View};
use crate::worker::state::{ContainerRecord, Phase};

/// The conditions that the kubelet writes, in their order.
const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// What the node adds.
pub struct Node<'a> {
    /// The node's addresses, the first one first.
    pub ips: &'a [String],
    /// The runtime's name, as in `containerd`, which prefixes container ids.
    pub runtime: &'a str,
    /// Everything of the pod has ended for good.
    pub terminal: bool,
}

/// The pod's status.
pub fn generate(view: &View<'_>, decision: &Decision, node: &Node<'_>) -> PodStatus {
    let pod = view.pod;
    let old = pod.status.clone().unwrap_or_default();
    let containers = pod::containers(pod);
    let statuses = |wanted: &dyn Fn(Role) -> bool| -> Vec<ContainerStatus> {
        let chosen = containers.iter().filter(|(role, _)| wanted(*role));
        chosen
            .map(|(role, container)| container_status(view, decision, node, *role, container, &old))
            .collect()
    };
    let init = statuses(&|role| matches!(role, Role::Init | Role::Sidecar));
    let regular = statuses(&|role| role == Role::Regular);
    let ephemeral = statuses(&|role| role == Role::Ephemeral);
    let mut status = PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: Some(pod::resources::qos(pod).as_str().to_owned()),
        start_time: Some(old.start_time.clone().unwrap_or(Time(view.start_time))),
        nominated_node_name: old.nominated_node_name.clone(),
        resize: old.resize.clone(),
        ..PodStatus::default()
    };
    status.phase = Some(phase(view, &containers, &init, &regular, node.terminal).to_owned());
    if let Desired::End { cause: Cause::Failed { reason, message }, .. } = view.desired {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    } else if old.phase.as_deref() == Some("Failed") && old.reason.is_some() {
        status.phase = Some("Failed".to_owned());
        status.reason = old.reason.clone();
        status.message = old.message.clone();
    }
    // A pod is at its end only when nothing of it runs any more: whoever waits for it may take what it used.
    let ended = |phase: Option<&str>| matches!(phase, Some("Succeeded" | "Failed"));
    let alive = view.runtime.containers.iter().any(ContainerRecord::alive);
    if alive && ended(status.phase.as_deref()) && !ended(old.phase.as_deref()) {
        status.phase = old.phase.clone();
        status.reason = old.reason.clone();
        status.message = old.message.clone();
    }
    let sandbox = view.runtime.ready_sandbox().or(view.runtime.sandboxes.first());
    let ips: Vec<String> = match sandbox {
        Some(_) if pod::host_network(pod) => node.ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    };
    if ips.is_empty() {
        status.pod_ip = old.pod_ip.clone();
        status.pod_ips = old.pod_ips.clone();
    } else {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    status.host_ip = node.ips.first().cloned();
    status.host_ips = Some(node.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let has_network =
        view.runtime.ready_sandbox().is_some_and(|s| pod::host_network(pod) || !s.ips.is_empty());
    status.conditions = Some(conditions(view, &old, &status, &init, &regular, has_network));
    status.container_statuses = Some(regular);
    status.init_container_statuses = Some(init).filter(|list| !list.is_empty());
    status.ephemeral_container_statuses = Some(ephemeral).filter(|list| !list.is_empty());
    status
}

fn container_status(
    view: &View<'_>,
    decision: &Decision,
    node: &Node<'_>,
    role: Role,
    container: &Container,
    old: &PodStatus,
) -> ContainerStatus {
    let name = container.name.as_str();
    let all = old
        .container_statuses
        .iter()
        .chain(&old.init_container_statuses)
        .chain(&old.ephemeral_container_statuses);
    let before = all.flatten().find(|status| status.name == name);
    let mut status = ContainerStatus {
        name: name.to_owned(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: before.map_or(0, |status| status.restart_count),
        started: Some(false),
        resources: container.resources.clone(),
        ..ContainerStatus::default()
    };
    let waiting = decision.waiting.get(name);
    let default_reason = if matches!(role, Role::Regular) && !init_done(view) {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let wait = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    let Some(record) = view.runtime.latest(name) else {
        status.state = Some(match (waiting, before.and_then(|b| b.state.as_ref())) {
            (Some(waiting), _) => wait(&waiting.reason, Some(waiting.message.clone())),
            (None, Some(state)) if state.terminated.is_some() => state.clone(),
            (None, Some(state)) if state.running.is_some() || node.terminal => lost(state),
            (None, _) if node.terminal => lost(&ContainerState::default()),
            _ => wait(default_reason, None),
        });
        status.last_state = before.and_then(|b| b.last_state.clone());
        status.container_id = before.and_then(|b| b.container_id.clone());
        status.image_id = before.map(|b| b.image_id.clone()).unwrap_or_default();
        return status;
    };
    status.container_id = Some(format!("{}://{}", node.runtime, record.id));
    status.restart_count = i32::try_from(record.restarts).unwrap_or(i32::MAX);
    status.image_id = record.image_id.clone();
    let previous = view.runtime.previous(name).filter(|previous| previous.phase == Phase::Exited);
    match record.phase {
        Phase::Running | Phase::Unknown => {
            let probed = view.memory.probed.get(&record.id).copied().unwrap_or_default();
            let started =
                decide::started(view.memory, container, record) && !hook_running(view, name, record);
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: record.started_at.map(Time) }),
                ..ContainerState::default()
            });
            status.started = Some(started);
            status.ready = started && (container.readiness_probe.is_none() || probed.readiness == Some(true));
        }
        Phase::Created => {
            status.state = Some(match waiting {
                Some(waiting) => wait(&waiting.reason, Some(waiting.message.clone())),
                None => wait(default_reason, None),
            });
        }
        Phase::Exited => {
            let terminated = terminated(record, node.runtime);
            if let Some(waiting) = waiting.filter(|_| !node.terminal) {
                status.state = Some(wait(&waiting.reason, Some(waiting.message.clone())));
                status.last_state = Some(terminated);
                return status;
            }
            // A step of the initialization that has worked counts as ready.
            status.ready = role == Role::Init && record.exit_code == 0;
            status.state = Some(terminated);
        }
    }
    status.last_state = previous
        .map(|previous| terminated_state(previous, node.runtime))
        .or_else(|| before.and_then(|b| b.last_state.clone()));
    status
}

/// A container counts as started once its postStart hook has ended.
fn hook_running(view: &View<'_>, name: &str, record: &ContainerRecord) -> bool {
    view.memory.starting.as_deref() == Some(name) && record.phase == Phase::Running
}

fn init_done(view: &View<'_>) -> bool {
    pod::containers(view.pod).iter().all(|(role, container)| {
        let record = view.runtime.latest(&container.name);
        match role {
            Role::Init => record.is_some_and(|r| r.phase == Phase::Exited && r.exit_code == 0),
            Role::Sidecar => record
                .is_some_and(|r| r.phase == Phase::Running && decide::started(view.memory, container, r)),
            Role::Regular | Role::Ephemeral => true,
        }
    })
}

fn terminated(record: &ContainerRecord, runtime: &str) -> ContainerState {
    terminated_state(record, runtime)
}

fn terminated_state(record: &ContainerRecord, runtime: &str) -> ContainerState {
    let reason = match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("{runtime}://{}", record.id)),
            exit_code: record.exit_code,
            reason: Some(reason.to_owned()),
            message: Some(record.message.clone()).filter(|message| !message.is_empty()),
            started_at: Some(Time(record.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
            finished_at: Some(Time(record.finished_at.unwrap_or(Timestamp::UNIX_EPOCH))),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// A container that was there and that the runtime no longer knows.
fn lost(state: &ContainerState) -> ContainerState {
    let started_at = state.running.as_ref().and_then(|running| running.started_at.clone());
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            started_at,
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// The pod's phase.
fn phase(
    view: &View<'_>,
    containers: &[(Role, Container)],
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    terminal: bool,
) -> &'static str {
    let policy = view.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let (mut pending_init, mut failed_init) = (false, false);
    for status in init {
        let sidecar = containers.iter().any(|(role, c)| *role == Role::Sidecar && c.name == status.name);
        let state = status.state.clone().unwrap_or_default();
        let last_failed =
            status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code != 0);
        match (&state.running, &state.terminated, sidecar) {
            (Some(_), _, true) => pending_init |= status.started != Some(true),
            (_, Some(_), true) => {}
            (None, None, true) => pending_init |= status.last_state.is_none(),
            (_, Some(ended), false) => failed_init |= ended.exit_code != 0,
            (Some(_), _, false) => pending_init = true,
            (None, None, false) if last_failed => failed_init = true,
            (None, None, false) => pending_init = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in regular {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        match (&state.running, &state.terminated) {
            (Some(_), _) => running += 1,
            (_, Some(ended)) => {
                stopped += 1;
                succeeded += usize::from(ended.exit_code == 0);
            }
            _ if last => stopped += 1,
            _ => waiting += 1,
        }
    }
    if failed_init && (policy == "Never" || terminal) {
        return "Failed";
    }
    if (failed_init || pending_init) && running == 0 && stopped == 0 || waiting > 0 && !terminal {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if stopped == 0 {
        return if terminal { "Failed" } else { "Pending" };
    }
    match (stopped == succeeded, policy) {
        (true, _) if terminal || policy != "Always" => "Succeeded",
        (false, _) if terminal => "Failed",
        (false, "Never")
            if regular.iter().all(|s| s.state.as_ref().is_some_and(|s| s.terminated.is_some())) =>
        {
            "Failed"
        }
        _ => "Running",
    }
}

fn conditions(
    view: &View<'_>,
    old: &PodStatus,
    status: &PodStatus,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    has_network: bool,
) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let mut result: Vec<PodCondition> =
        old.conditions.iter().flatten().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned().collect();
    let before = |kind: &str| old.conditions.iter().flatten().find(|c| c.type_ == kind);
    let mut put = |kind: &str, ok: bool, reason: Option<&str>, message: Option<String>| {
        let status = if ok { "True" } else { "False" };
        let since = before(kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        result.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: Some(since.unwrap_or(Time(view.now))),
            last_probe_time: None,
            observed_generation: view.pod.metadata.generation,
        });
    };
    put("PodReadyToStartContainers", has_network, None, None);

    let list = |names: Vec<&str>| names.join(" ");
    let incomplete: Vec<&str> = pod::containers(view.pod)
        .iter()
        .filter_map(|(role, container)| {
            let status = init.iter().find(|status| status.name == container.name)?;
            let done = match role {
                Role::Sidecar => status.started == Some(true),
                _ => status.ready,
            };
            (!done).then_some(status.name.as_str())
        })
        .collect();
    if phase == "Succeeded" {
        put("Initialized", true, Some("PodCompleted"), None);
    } else if incomplete.is_empty()
        || regular.iter().any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()))
    {
        put("Initialized", true, None, None);
    } else {
        let message = format!("containers with incomplete status: [{}]", list(incomplete));
        put("Initialized", false, Some("ContainersNotInitialized"), Some(message));
    }

    let sidecars = pod::containers(view.pod);
    let sidecar = |name: &str| sidecars.iter().any(|(role, c)| *role == Role::Sidecar && c.name == name);
    let unready: Vec<&str> = init
        .iter()
        .filter(|status| sidecar(&status.name))
        .chain(regular)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let (ready, reason, message) = match phase {
        "Succeeded" => (false, Some("PodCompleted"), None),
        "Failed" => (false, Some("PodFailed"), None),
        _ if unready.is_empty() => (true, None, None),
        _ => {
            let message = format!("containers with unready status: [{}]", list(unready));
            (false, Some("ContainersNotReady"), Some(message))
        }
    };
    let gates: Vec<String> = view
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .filter_map(|gate| match before(&gate.condition_type) {
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => Some(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => None,
        })
        .collect();
    if ready && !gates.is_empty() {
        put("Ready", false, Some("ReadinessGatesNotReady"), Some(gates.join(", ")));
    } else {
        put("Ready", ready, reason, message.clone());
    }
    put("ContainersReady", ready, reason, message);
    put("PodScheduled", true, None, None);
    result
}

#[cfg(test)]
mod tests;
