//! The row of a pod in tables.
//! Upstream: printPod in pkg/printers/internalversion/printers.go.

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::Column;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::meta::Time;
use crate::types::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};

pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::object_name(),
        Column::new("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
        Column::new("Status", "string", "The aggregate status of the containers in this pod."),
        Column::new(
            "Restarts",
            "string",
            "The number of times the containers in this pod have been restarted and when the last container in this \
             pod has restarted.",
        ),
        Column::age(),
        Column::wide("IP", "string", "The address of the pod, reachable at least within the cluster."),
        Column::wide("Node", "string", "The node the pod is bound to."),
        Column::wide("Nominated Node", "string", "The node the pod may get once pods there have made room."),
        Column::wide("Readiness Gates", "string", "How many of the pod's readiness gates are open."),
    ]
}

pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = summarize(pod, spec, status);
    let restarts = match &summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, row::since(Some(time), now))
        }
        _ => summary.restarts.to_string(),
    };
    let address = items(&status.pod_ips).first().map_or("", |address| &address.ip);
    vec![
        row::name(&pod.metadata),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        row::age(&pod.metadata, now),
        row::or_none(address),
        row::or_none(text(&spec.node_name)),
        row::or_none(text(&status.nominated_node_name)),
        readiness_gates(spec, status),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    restarts: i32,
    last_restart: Option<Time>,
    reason: String,
}

fn summarize(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
    let phase = text(&status.phase);
    let is_sidecar = |name: &str| {
        items(&spec.init_containers).iter().any(|c| c.name == name && text(&c.restart_policy) == "Always")
    };
    let sidecars = items(&spec.init_containers).iter().filter(|c| is_sidecar(&c.name)).count();
    let mut summary = Summary {
        ready: 0,
        total: spec.containers.len() + sidecars,
        restarts: 0,
        last_restart: None,
        reason: if text(&status.reason).is_empty() { phase } else { text(&status.reason) }.to_owned(),
    };
    let condition = |kind: &str| items(&status.conditions).iter().find(|condition| condition.type_ == kind);
    if condition("PodScheduled").is_some_and(|condition| text(&condition.reason) == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (index, container) in items(&status.init_container_statuses).iter().enumerate() {
        summary.restarts += container.restart_count;
        later(&mut summary.last_restart, container);
        let sidecar = is_sidecar(&container.name);
        if sidecar {
            sidecar_restarts += container.restart_count;
            later(&mut sidecar_last, container);
        }
        let state = container.state.as_ref();
        let waiting =
            state.and_then(|state| state.waiting.as_ref()).map_or("", |waiting| text(&waiting.reason));
        match state.and_then(|state| state.terminated.as_ref()) {
            Some(ended) if ended.exit_code == 0 => continue,
            _ if sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            Some(ended) => summary.reason = format!("Init:{}", end_reason(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                summary.reason = format!("Init:{waiting}")
            }
            None => summary.reason = format!("Init:{index}/{}", items(&spec.init_containers).len()),
        }
        initializing = true;
        break;
    }
    if !initializing || condition("Initialized").is_some_and(|condition| condition.status == "True") {
        summary.restarts = sidecar_restarts;
        summary.last_restart = sidecar_last;
        let mut running = false;
        for container in items(&status.container_statuses).iter().rev() {
            summary.restarts += container.restart_count;
            later(&mut summary.last_restart, container);
            let state = container.state.as_ref();
            let waiting =
                state.and_then(|state| state.waiting.as_ref()).map_or("", |waiting| text(&waiting.reason));
            if !waiting.is_empty() {
                summary.reason = waiting.to_owned();
            } else if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
                summary.reason = end_reason(ended);
            } else if container.ready && state.is_some_and(|state| state.running.is_some()) {
                running = true;
                summary.ready += 1;
            }
        }
        if summary.reason == "Completed" && running {
            let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
            summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if condition("AllContainersRestarting").is_some_and(|condition| condition.status == "True") {
        summary.reason = "RestartingAllContainers".to_owned();
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if text(&status.reason) == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

fn end_reason(ended: &ContainerStateTerminated) -> String {
    match (text(&ended.reason), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn later(last: &mut Option<Time>, container: &ContainerStatus) {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(finished) = ended.and_then(|ended| ended.finished_at.as_ref())
        && last.as_ref().is_none_or(|last| last < finished)
    {
        *last = Some(finished.clone());
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> Value {
    let gates = items(&spec.readiness_gates);
    if gates.is_empty() {
        return row::NONE.into();
    }
    let open = gates.iter().filter(|gate| {
        items(&status.conditions)
            .iter()
            .find(|condition| condition.type_ == gate.condition_type)
            .is_some_and(|condition| condition.status == "True")
    });
    format!("{}/{}", open.count(), gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows() {
        let running = json!({"name": "a", "ready": true, "restartCount": 2, "image": "", "imageID": "",
            "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:00:00Z"}}});
        let waiting = json!({"name": "a", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"waiting": {"reason": "ContainerCreating"}}});
        let failed_init = json!({"name": "i", "ready": false, "restartCount": 1, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": 3}}});
        for (status, deleted, ready, reason, restarts) in [
            (json!({"phase": "Pending"}), false, "0/1", "Pending", "0"),
            (
                json!({"phase": "Pending", "containerStatuses": [waiting]}),
                false,
                "0/1",
                "ContainerCreating",
                "0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running]}),
                false,
                "1/1",
                "Running",
                "2 (60s ago)",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running]}),
                true,
                "1/1",
                "Terminating",
                "2 (60s ago)",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [failed_init]}),
                false,
                "0/1",
                "Init:ExitCode:3",
                "1",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), false, "0/1", "Evicted", "0"),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "image": "",
                    "imageID": "", "state": {"running": {}},
                    "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:00:00Z"}}}]}),
                false,
                "1/1",
                "Running",
                "0",
            ),
            (
                json!({"phase": "Running", "conditions": [{"type": "AllContainersRestarting", "status": "True"}]}),
                false,
                "0/1",
                "RestartingAllContainers",
                "0",
            ),
        ] {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}],
                "initContainers": [{"name": "i"}]}, "status": status});
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
            }
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let cells = cells(&pod, Timestamp::from_second(60).unwrap());
            assert_eq!(cells[1..4], [json!(ready), json!(reason), json!(restarts)], "{status}");
            assert_eq!(cells.len(), columns().len());
        }
    }
}
