//! Things break: the pod comes back or says why.

use testkit::{Cluster, Kubectl, Options, image, wait};

use crate::IRONCLAD;

/// One pod with one container that runs `command`.
fn pod(name: &str, restart: &str, command: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: {restart}, \
         terminationGracePeriodSeconds: 1, containers: [{{name: main, image: {}, command: [sh, -c, {command:?}]}}]}}}}",
        image::BUSYBOX
    )
}

/// What the tests' long-running containers run.
const WAITS: &str = "trap 'exit 0' TERM; sleep 86399 & wait";

/// The supervisor of the one pod that runs [`WAITS`]: the parent of its container's first process.
fn supervisor(cluster: &Cluster) -> u32 {
    let processes: Vec<u32> =
        cluster.space().processes("sleep 86399").into_iter().map(|(pid, _)| pid).collect();
    let parents = processes.iter().map(|pid| cluster.space().parent(*pid));
    let outside: Vec<u32> = parents.filter(|parent| !processes.contains(parent)).collect();
    assert_eq!(outside.len(), 1, "{processes:?}");
    outside[0]
}

fn restarts(cluster: &Cluster, name: &str) -> u32 {
    cluster.field(&["pod", name], "{.status.containerStatuses[0].restartCount}").parse().unwrap_or_default()
}

fn comes_back(cluster: &Cluster, name: &str) {
    wait::until("the container was started again", || match restarts(cluster, name) {
        0 => Err("no restart yet".to_owned()),
        _ => Ok(()),
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
}

#[test]
fn a_container_that_exits_is_started_again_with_back_off() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(Kubectl::V1_37, &pod("crash", "Always", "exit 7"));
    let reason = |path| cluster.field(&["pod", "crash"], path);
    wait::until("it is waiting to be started again", || {
        match reason("{.status.containerStatuses[0].state.waiting.reason}") {
            reason if reason == "CrashLoopBackOff" => Ok(()),
            other => Err(other),
        }
    });
    assert_eq!(reason("{.status.containerStatuses[0].lastState.terminated.exitCode}"), "7");
    let events = cluster.kubectl(&["get", "events", "--field-selector=reason=BackOff"]);
    assert!(events.contains("Back-off restarting failed container main in pod crash"), "{events}");
}

#[test]
fn a_container_that_fails_for_good_says_its_exit_code() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(Kubectl::V1_37, &pod("once", "Never", "exit 7"));
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/once", "--timeout=60s"]);
    let terminated =
        cluster.field(&["pod", "once"], "{.status.containerStatuses[0].state.terminated.exitCode}");
    assert_eq!(terminated, "7");
}

#[test]
fn a_pod_whose_supervisor_is_killed_comes_back() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(Kubectl::V1_37, &pod("steady", "Always", WAITS));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=60s"]);
    cluster.space().kill(supervisor(&cluster));
    comes_back(&cluster, "steady");
}

#[test]
fn a_pod_whose_network_namespace_is_deleted_comes_back() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    cluster.apply(Kubectl::V1_37, &pod("steady", "Always", WAITS));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=60s"]);
    // Nobody but processes holds a namespace whose pin is gone: with the pod's processes it ends for good.
    let supervisor = supervisor(&cluster);
    let script = "for pin in $(grep ' - nsfs ' /proc/self/mountinfo | cut -d' ' -f5); do umount -l $pin; rm $pin; done";
    cluster.space().output("sh", &["-c", script]);
    cluster.space().kill(supervisor);
    comes_back(&cluster, "steady");
}

#[test]
fn an_image_that_is_not_there_is_said() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    let manifest = pod("lost", "Always", "true").replace(image::BUSYBOX, "ironclad.test/nothing:1");
    let manifest = manifest.replace("name: main,", "name: main, imagePullPolicy: Never,");
    cluster.apply(Kubectl::V1_37, &manifest);
    wait::until("the reason is shown", || {
        match cluster.field(&["pod", "lost"], "{.status.containerStatuses[0].state.waiting.reason}") {
            reason if reason == "ErrImageNeverPull" => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn a_failing_liveness_probe_restarts_the_container() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    let manifest = pod("sick", "Always", "touch /tmp/well; trap 'exit 0' TERM; sleep 86399 & wait").replace(
        "name: main,",
        "name: main, livenessProbe: {exec: {command: [test, -f, /tmp/well]}, periodSeconds: 1, failureThreshold: 1},",
    );
    cluster.apply(Kubectl::V1_37, &manifest);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/sick", "--timeout=60s"]);
    cluster.kubectl(&["exec", "sick", "--", "sh", "-c", "rm /tmp/well"]);
    comes_back(&cluster, "sick");
    let events = cluster.kubectl(&["get", "events", "--field-selector=reason=Killing"]);
    assert!(events.contains("Container main failed liveness probe, will be restarted"), "{events}");
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let cluster = Cluster::start(Options::node(IRONCLAD));
    let manifest = pod("big", "Always", "true")
        .replace("name: main,", "name: main, resources: {requests: {cpu: '1000'}},");
    cluster.apply(Kubectl::V1_37, &manifest);
    wait::until("the scheduler says why", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector=reason=FailedScheduling"]);
        if events.contains("0/1 nodes are available: 1 Insufficient cpu.") { Ok(()) } else { Err(events) }
    });
}
