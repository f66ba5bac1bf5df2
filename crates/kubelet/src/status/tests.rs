//! A table of what users see.

use serde_json::{Value, json};

use super::*;
use crate::worker::state::{Memory, Probed, RuntimeState, SandboxRecord, Waiting};

fn record(name: &str, phase: Phase, code: i32) -> ContainerRecord {
    let at = |second| Some(Timestamp::from_second(second).unwrap());
    ContainerRecord {
        id: format!("id-{name}"),
        name: name.into(),
        phase,
        created_at: at(10).unwrap(),
        started_at: at(11),
        finished_at: at(12).filter(|_| phase == Phase::Exited),
        exit_code: code,
        reason: String::new(),
        message: "bye".into(),
        image: "img".into(),
        image_id: "img@1".into(),
        restarts: 2,
        hash: String::new(),
        log_path: String::new(),
        mounts: Vec::new(),
        annotations: Default::default(),
    }
}

fn status(
    spec: Value,
    containers: Vec<ContainerRecord>,
    waiting: &[(&str, &str)],
    terminal: bool,
    old: Value,
) -> Value {
    let pod = json!({"metadata": {"name": "p", "generation": 3}, "spec": spec, "status": old});
    let pod = serde_json::from_value(pod).unwrap();
    let sandbox = SandboxRecord {
        id: "s".into(),
        ready: true,
        attempt: 0,
        created_at: 1,
        ips: vec!["10.0.0.1".into()],
        handler: String::new(),
    };
    let runtime = RuntimeState { sandboxes: vec![sandbox], containers };
    let mut memory = Memory::default();
    memory.probed.insert("id-probed".into(), Probed { readiness: Some(false), ..Probed::default() });
    let now = Timestamp::from_second(100).unwrap();
    let view =
        View { pod: &pod, desired: &Desired::Run, runtime: &runtime, memory: &memory, start_time: now, now };
    let mut decision = Decision::default();
    for (name, reason) in waiting {
        let waiting = Waiting { reason: (*reason).into(), message: "why".into() };
        decision.waiting.insert((*name).into(), waiting);
    }
    let node = Node { ips: &["192.0.2.1".to_owned()], runtime: "fake", terminal };
    serde_json::to_value(generate(&view, &decision, &node)).unwrap()
}

/// Phase, the condition `Ready` with its reason, and each container's state.
fn show(status: &Value) -> String {
    let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    let containers = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|key| status[key].as_array().into_iter().flatten());
    let states = containers.map(|container| {
        let (state, inner) = container["state"].as_object().unwrap().iter().next().unwrap();
        format!(
            "{}={state}{}",
            container["name"].as_str().unwrap(),
            inner["reason"].as_str().map(|r| format!(":{r}")).unwrap_or_default()
        )
    });
    let reason = ready["reason"].as_str().map(|reason| format!(":{reason}")).unwrap_or_default();
    let head = format!("{} {}{reason}", status["phase"].as_str().unwrap(), ready["status"].as_str().unwrap());
    [head].into_iter().chain(states).collect::<Vec<_>>().join(" ")
}

#[test]
fn phases_conditions_and_states() {
    use Phase::{Exited, Running};
    let one = || json!({"containers": [{"name": "a"}]});
    let never = || json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    let init = || json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    for (spec, containers, waiting, terminal, want) in [
        (one(), vec![], &[][..], false, "Pending False:ContainersNotReady a=waiting:ContainerCreating"),
        (one(), vec![record("a", Running, 0)], &[], false, "Running True a=running"),
        (
            one(),
            vec![],
            &[("a", "ErrImagePull")],
            false,
            "Pending False:ContainersNotReady a=waiting:ErrImagePull",
        ),
        (
            one(),
            vec![record("a", Exited, 1)],
            &[("a", "CrashLoopBackOff")],
            false,
            "Running False:ContainersNotReady a=waiting:CrashLoopBackOff",
        ),
        (
            one(),
            vec![record("a", Exited, 1)],
            &[],
            false,
            "Running False:ContainersNotReady a=terminated:Error",
        ),
        (
            never(),
            vec![record("a", Exited, 0)],
            &[],
            false,
            "Succeeded False:PodCompleted a=terminated:Completed",
        ),
        (never(), vec![record("a", Exited, 1)], &[], false, "Failed False:PodFailed a=terminated:Error"),
        // Deleted while it ran: what it comes to is what its containers said last.
        (
            one(),
            vec![record("a", Exited, 0)],
            &[],
            true,
            "Succeeded False:PodCompleted a=terminated:Completed",
        ),
        (one(), vec![], &[], true, "Failed False:PodFailed a=terminated:ContainerStatusUnknown"),
        (
            init(),
            vec![record("i", Running, 0)],
            &[],
            false,
            "Pending False:ContainersNotReady i=running a=waiting:PodInitializing",
        ),
        (
            init(),
            vec![record("i", Exited, 0), record("a", Running, 0)],
            &[],
            false,
            "Running True i=terminated:Completed a=running",
        ),
        (
            json!({"containers": [{"name": "probed", "readinessProbe": {}}]}),
            vec![record("probed", Running, 0)],
            &[],
            false,
            "Running False:ContainersNotReady probed=running",
        ),
        (
            json!({"readinessGates": [{"conditionType": "x"}], "containers": [{"name": "a"}]}),
            vec![record("a", Running, 0)],
            &[],
            false,
            "Running False:ReadinessGatesNotReady a=running",
        ),
    ] {
        let got = status(spec.clone(), containers, waiting, terminal, json!({"phase": "Pending"}));
        assert_eq!(show(&got), want, "{spec}");
    }
}

#[test]
fn what_others_wrote_stays_and_times_move_only_with_the_status() {
    let old = json!({"phase": "Running", "startTime": "1970-01-01T00:00:50Z", "conditions": [
        {"type": "example.com/x", "status": "True"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:01:00Z"},
        {"type": "Initialized", "status": "False", "lastTransitionTime": "1970-01-01T00:01:00Z"}]});
    let got =
        status(json!({"containers": [{"name": "a"}]}), vec![record("a", Phase::Running, 0)], &[], false, old);
    let conditions: Vec<String> = got["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!("{} {}", c["type"].as_str().unwrap(), c["lastTransitionTime"].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        conditions,
        [
            "example.com/x -",
            "PodReadyToStartContainers 1970-01-01T00:01:40Z",
            "Initialized 1970-01-01T00:01:40Z",
            "Ready 1970-01-01T00:01:00Z",
            "ContainersReady 1970-01-01T00:01:40Z",
            "PodScheduled 1970-01-01T00:01:40Z",
        ]
    );
    assert_eq!(got["startTime"], "1970-01-01T00:00:50Z");
    assert_eq!(got["containerStatuses"][0]["containerID"], "fake://id-a");
    assert_eq!(got["containerStatuses"][0]["restartCount"], 2);
    assert_eq!(got["observedGeneration"], 3);
}
