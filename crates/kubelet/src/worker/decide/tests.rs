//! One table: a pod, what the runtime has of it, what is under way, and what is to be done next.

use serde_json::{Value, json};

use super::*;
use crate::worker::backoff::BackOff;
use crate::worker::state::{Failure, Probed, SandboxRecord};

const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn sandbox(ready: bool) -> SandboxRecord {
    SandboxRecord {
        id: "s".into(),
        ready,
        attempt: 0,
        created_at: 1,
        ips: vec!["10.0.0.1".into()],
        handler: String::new(),
    }
}

/// `name state [code]`, with the record's age falling in the order given; an earlier run of the same name comes later.
fn container(text: &str) -> ContainerRecord {
    let words: Vec<&str> = text.split(' ').collect();
    let spec = Container { name: words[0].into(), ..Container::default() };
    let phase = match words[1] {
        "created" => Phase::Created,
        "running" => Phase::Running,
        _ => Phase::Exited,
    };
    ContainerRecord {
        id: format!("id-{}", words[0]),
        name: words[0].into(),
        phase,
        created_at: at(NOW - 100),
        started_at: Some(at(NOW - 100)),
        finished_at: (phase == Phase::Exited).then(|| at(NOW - 1)),
        exit_code: words.get(2).and_then(|code| code.parse().ok()).unwrap_or(0),
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_id: String::new(),
        restarts: 0,
        hash: pod::container::hash(&spec),
        log_path: String::new(),
        mounts: Vec::new(),
        annotations: Default::default(),
    }
}

fn show(decision: &Decision) -> String {
    let commands = decision.commands.iter().map(|command| match command {
        Command::MountVolumes => "mount".to_owned(),
        Command::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Command::StopSandbox { id } => format!("stop {id}"),
        Command::Start { name, restarts } => format!("start {name} {restarts}"),
        Command::Kill { name, deadline, .. } => format!("kill {name} {}", deadline.as_second() - NOW),
        Command::UnmountVolumes => "unmount".to_owned(),
        Command::Finish => "finish".to_owned(),
    });
    let waiting = decision.waiting.iter().map(|(name, waiting)| format!("{name}:{}", waiting.reason));
    let end = decision.end.iter().map(|cause| match cause {
        Cause::Failed { reason, .. } => reason.clone(),
        cause => format!("{cause:?}"),
    });
    commands.chain(waiting).chain(end).collect::<Vec<_>>().join(", ")
}

struct Case {
    spec: Value,
    sandbox: Option<bool>,
    containers: &'static str,
    memory: fn(&mut Memory),
    want: &'static str,
}

fn check(desired: &Desired, cases: Vec<Case>) {
    for (number, case) in cases.into_iter().enumerate() {
        let mut runtime = RuntimeState::default();
        runtime.sandboxes.extend(case.sandbox.map(sandbox));
        runtime.containers =
            case.containers.split(", ").filter(|text| !text.is_empty()).map(container).collect();
        let mut memory = Memory { volumes: Volumes::Ready, ..Memory::default() };
        (case.memory)(&mut memory);
        let pod = pod(case.spec);
        let view = View {
            pod: &pod,
            desired,
            runtime: &runtime,
            memory: &memory,
            start_time: at(NOW - 200),
            now: at(NOW),
        };
        assert_eq!(show(&decide(&view)), case.want, "case {number}: {}", case.containers);
    }
}

fn plain(_: &mut Memory) {}

#[test]
fn a_pod_that_is_to_run() {
    let two = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let policy =
        |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    let init = || {
        json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
        "containers": [{"name": "a"}], "restartPolicy": "Never"})
    };
    let case =
        |spec: Value, sandbox, containers, want| Case { spec, sandbox, containers, memory: plain, want };
    let with =
        |spec: Value, sandbox, containers, memory, want| Case { spec, sandbox, containers, memory, want };
    check(
        &Desired::Run,
        vec![
            // From nothing to running.
            with(two(), None, "", |m| m.volumes = Volumes::Absent, "mount"),
            with(two(), None, "", |m| m.busy = true, ""),
            with(two(), None, "", |m| m.retry_at = Some(at(NOW + 1)), ""),
            case(two(), None, "", "sandbox 0"),
            case(two(), Some(true), "", "start a 0"),
            with(two(), Some(true), "", |m| m.starting = Some("a".into()), ""),
            case(two(), Some(true), "a running", "start b 0"),
            case(two(), Some(true), "a running, b running", ""),
            // A sandbox that has died takes its containers with it and is replaced.
            case(two(), Some(false), "a running, b running", "stop s"),
            with(
                two(),
                Some(false),
                "a exited 137",
                |m| {
                    let _ = m.stopped_sandboxes.insert("s".into());
                },
                "sandbox 1",
            ),
            // Restarts.
            case(two(), Some(true), "a exited 0, b running", "start a 1"),
            case(policy("OnFailure"), Some(true), "a exited 0, b running", ""),
            case(policy("OnFailure"), Some(true), "a exited 2, b running", "start a 1"),
            case(policy("Never"), Some(true), "a exited 2, b running", ""),
            case(policy("Never"), Some(true), "a exited 2, b exited 0", "Finished"),
            case(policy("OnFailure"), Some(true), "a exited 0, b exited 0", "Finished"),
            with(
                two(),
                Some(true),
                "a exited 1, b running",
                |m| {
                    let key = backoff_key(&Container { name: "a".into(), ..Container::default() });
                    let mut backoff = BackOff::default();
                    backoff.next(at(NOW - 50), at(NOW - 50));
                    m.restarts.insert(key, backoff);
                },
                "a:CrashLoopBackOff",
            ),
            case(
                json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules":
                    [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
                Some(true),
                "a exited 42",
                "start a 1",
            ),
            // A start that failed is waited with; the other container goes on.
            with(
                two(),
                Some(true),
                "",
                |m| {
                    let waiting = Waiting { reason: "ErrImagePull".into(), message: "no".into() };
                    let failure =
                        Failure { at: at(NOW - 5), waiting, retry_at: at(NOW + 5), image: Some("x".into()) };
                    m.failed_starts.insert("a".into(), failure);
                },
                "start b 0, a:ImagePullBackOff",
            ),
            // Initialization, in order; a sidecar only has to start.
            case(init(), Some(true), "", "start i 0"),
            case(init(), Some(true), "i running", ""),
            case(init(), Some(true), "i exited 1", "Finished"),
            case(init(), Some(true), "i exited 0", "start s 0"),
            case(init(), Some(true), "i exited 0, s running", "start j 0"),
            case(init(), Some(true), "i exited 0, s running, j exited 0", "start a 0"),
            case(init(), Some(true), "i exited 0, s exited 1, j exited 0, a running", "start s 1"),
            case(init(), Some(true), "i exited 0, s running, j exited 0, a exited 0", "Finished"),
            // Probes.
            with(
                json!({"containers": [{"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 7}}]}),
                Some(true),
                "a running",
                |m| {
                    let _ =
                        m.probed.insert("id-a".into(), Probed { liveness: Some(false), ..Probed::default() });
                },
                "kill a 7",
            ),
            with(
                json!({"containers": [{"name": "a"}]}),
                Some(true),
                "a running",
                |m| {
                    let _ = m
                        .probed
                        .insert("id-a".into(), Probed { readiness: Some(false), ..Probed::default() });
                },
                "",
            ),
            // Its image was changed.
            case(
                json!({"containers": [{"name": "a", "image": "new"}]}),
                Some(true),
                "a running",
                "kill a 30",
            ),
            case(
                json!({"activeDeadlineSeconds": 100, "containers": [{"name": "a"}]}),
                Some(true),
                "a running",
                "DeadlineExceeded",
            ),
            // Added by hand.
            case(
                json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}),
                Some(true),
                "a running",
                "start e 0",
            ),
            case(
                json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}),
                Some(true),
                "a running, e exited 1",
                "",
            ),
        ],
    );
}

#[test]
fn a_pod_that_is_to_end() {
    let spec = || {
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]})
    };
    let case = |sandbox, containers, want| Case { spec: spec(), sandbox, containers, memory: plain, want };
    let with = |sandbox, containers, memory, want| Case { spec: spec(), sandbox, containers, memory, want };
    let desired = Desired::End { cause: Cause::Deleted, deadline: at(NOW + 10) };
    check(
        &desired,
        vec![
            case(Some(true), "s running, t running, a running, b running", "kill a 10, kill b 10"),
            with(
                Some(true),
                "a running",
                |m| {
                    let _ = m.killing.insert("id-a".into(), at(NOW + 10));
                },
                "",
            ),
            // A second deletion with a shorter grace period.
            with(
                Some(true),
                "a running",
                |m| {
                    let _ = m.killing.insert("id-a".into(), at(NOW + 60));
                },
                "kill a 10",
            ),
            // Sidecars last, in reverse.
            case(Some(true), "s running, t running, a exited 0, b exited 0", "kill t 10"),
            case(Some(true), "s running, t exited 0", "kill s 10"),
            // What was under way comes to its end first.
            with(Some(true), "a exited 0", |m| m.starting = Some("b".into()), ""),
            case(Some(true), "a exited 0, b exited 0", "stop s"),
            with(
                Some(false),
                "",
                |m| {
                    let _ = m.stopped_sandboxes.insert("s".into());
                },
                "unmount",
            ),
            case(None, "", "unmount"),
            with(None, "", |m| m.volumes = Volumes::Gone, "finish"),
        ],
    );
    let overdue = Desired::End { cause: Cause::Deleted, deadline: at(NOW) };
    check(&overdue, vec![case(Some(true), "s running, a running", "kill s 0, kill a 0")]);
}
