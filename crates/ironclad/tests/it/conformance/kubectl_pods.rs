//! test/e2e/kubectl/kubectl.go and logs.go: the commands that make pods, change them, and look into them.

use std::{
    io::Write,
    process::Stdio,
    time::{Duration, SystemTime},
};

use serde_json::json;
use testkit::{Kubectl, image, wait};

use super::{World, items, kubectl::running};

const PODS: &str = "/api/v1/namespaces/e2e/pods";
const HTTPD: &str = "registry.example/httpd:2.4";
const BUSYBOX: &str = "registry.example/busybox:1.29";

impl World {
    fn kubectl(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = ["-n", "e2e"].iter().chain(arguments).copied().collect();
        self.cluster.kubectl(&arguments)
    }

    /// `kubectl COMMAND -f -` of a manifest, which must succeed.
    pub(super) fn feed(&self, arguments: &[&str], manifest: &str) -> String {
        let mut child = self
            .cluster
            .kubectl_command(Kubectl::V1_37, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().expect("it is piped").write_all(manifest.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kubectl {arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Conformance: [sig-cli] Kubectl client Kubectl label should update the label on a resource [Conformance]
#[test]
fn label_updates_the_label_on_a_resource() {
    let world = World::hollow(1);
    world.kubectl(&["run", "pause", "--image=registry.k8s.io/pause:3.10"]);
    running(&world, 1);
    let shown = || world.kubectl(&["get", "pod", "pause", "-L", "testing-label"]);
    world.kubectl(&["label", "pods", "pause", "testing-label=testing-label-value"]);
    assert!(shown().contains("testing-label-value"), "{}", shown());
    world.kubectl(&["label", "pods", "pause", "testing-label-"]);
    assert!(!shown().contains("testing-label-value"), "{}", shown());
}

/// Conformance: [sig-cli] Kubectl client Kubectl run pod should create a pod from an image when restart is Never [Conformance]
#[test]
fn run_creates_a_pod_from_an_image_when_restart_is_never() {
    let world = World::hollow(1);
    world.kubectl(&["run", "e2e-test-httpd-pod", "--restart=Never", &format!("--image={HTTPD}")]);
    let pod = world.read(&format!("{PODS}/e2e-test-httpd-pod"));
    assert_eq!(pod["spec"]["containers"][0]["image"], HTTPD);
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
}

/// Conformance: [sig-cli] Kubectl client Kubectl replace should update a single-container pod's image [Conformance]
#[test]
fn replace_updates_a_single_container_pods_image() {
    let world = World::hollow(1);
    let one = format!("{PODS}/e2e-test-httpd-pod");
    world.kubectl(&[
        "run",
        "e2e-test-httpd-pod",
        &format!("--image={HTTPD}"),
        "--labels=run=e2e-test-httpd-pod",
    ]);
    running(&world, 1);
    let shown = world.kubectl(&["get", "pod", "e2e-test-httpd-pod", "-o", "json"]);
    assert!(shown.contains(HTTPD));
    world.feed(&["-n", "e2e", "replace", "-f", "-"], &shown.replace(HTTPD, BUSYBOX));
    assert_eq!(world.read(&one)["spec"]["containers"][0]["image"], BUSYBOX);
}

/// Conformance: [sig-cli] Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods [Conformance]
#[test]
fn server_side_dry_run_of_a_pod_changes_nothing() {
    let world = World::hollow(1);
    let one = format!("{PODS}/e2e-test-httpd-pod");
    world.kubectl(&[
        "run",
        "e2e-test-httpd-pod",
        &format!("--image={HTTPD}"),
        "--labels=run=e2e-test-httpd-pod",
    ]);
    running(&world, 1);
    let patch =
        json!({"spec": {"containers": [{"name": "e2e-test-httpd-pod", "image": BUSYBOX}]}}).to_string();
    let said = world.kubectl(&[
        "patch",
        "pod",
        "e2e-test-httpd-pod",
        "-p",
        &patch,
        "--dry-run=server",
        "-o",
        "json",
    ]);
    assert!(said.contains(BUSYBOX), "it shows what would be: {said}");
    assert_eq!(world.read(&one)["spec"]["containers"][0]["image"], HTTPD);
}

/// Two that each serve a page which says what they are.
fn nautilus(replicas: usize) -> String {
    format!(
        "{{apiVersion: v1, kind: ReplicationController, metadata: {{name: update-demo-nautilus, namespace: e2e}}, spec: \
         {{replicas: {replicas}, selector: {{name: update-demo, version: nautilus}}, template: {{metadata: {{labels: \
         {{name: update-demo, version: nautilus}}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: \
         update-demo, image: {}, command: [sh, -c, 'mkdir /www; echo {{\\\"image\\\": \\\"nautilus.jpg\\\"}} > \
         /www/data.json; exec httpd -f -p 80 -h /www'], ports: [{{containerPort: 80}}]}}]}}}}}}}}",
        image::BUSYBOX
    )
}

/// Waits until so many run, each with its image, and each answers through the API server's proxy.
fn serve(world: &World, count: usize) {
    let pods = running(world, count);
    for pod in pods {
        let read = world.read(&format!("{PODS}/{pod}"));
        assert_eq!(read["spec"]["containers"][0]["image"], image::BUSYBOX);
        world
            .until(&format!("{PODS}/{pod}/proxy/data.json"), |answer| answer.body["image"] == "nautilus.jpg");
    }
}

/// Conformance: [sig-cli] Kubectl client Update Demo should create and stop a replication controller [Conformance]
#[test]
fn update_demo_creates_and_stops_a_replication_controller() {
    let world = World::node();
    world.feed(&["create", "-f", "-"], &nautilus(2));
    serve(&world, 2);
    world.feed(&["delete", "--grace-period=0", "--force", "-f", "-"], &nautilus(2));
    let left = world.kubectl(&["get", "rc,svc", "-l", "name=update-demo", "--no-headers"]);
    assert_eq!(left, "");
    world.until(PODS, |answer| {
        items(&answer.body).iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    });
}

/// Conformance: [sig-cli] Kubectl client Update Demo should scale a replication controller [Conformance]
#[test]
fn update_demo_scales_a_replication_controller() {
    let world = World::node();
    world.feed(&["create", "-f", "-"], &nautilus(2));
    serve(&world, 2);
    for replicas in [1, 2] {
        let flag = format!("--replicas={replicas}");
        world.kubectl(&["scale", "rc", "update-demo-nautilus", &flag, "--timeout=5m"]);
        serve(&world, replicas);
    }
    world.feed(&["delete", "--grace-period=0", "--force", "-f", "-"], &nautilus(2));
}

/// Conformance: [sig-cli] Kubectl logs logs should be able to retrieve and filter logs [Conformance]
#[test]
fn logs_can_be_retrieved_and_filtered() {
    const LINES: usize = 40;
    let world = World::node();
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo \"$i GET /api/v1/namespaces/default/pods/generated $i\"; sleep 0.1; \
         i=$((i+1)); done; sleep 3600"
    );
    world.kubectl(&[
        "run",
        "logs-generator",
        "--restart=Never",
        &format!("--image={}", image::BUSYBOX),
        "--",
        "sh",
        "-c",
        &script,
    ]);
    let logs = |arguments: &[&str]| {
        let arguments: Vec<&str> =
            ["logs", "logs-generator", "logs-generator"].iter().chain(arguments).copied().collect();
        world.kubectl(&arguments)
    };
    running(&world, 1);
    let all = wait::until("all lines are there", || {
        let said = logs(&[]);
        if said.lines().count() == LINES { Ok(said) } else { Err(said) }
    });
    assert!(
        all.lines().enumerate().all(|(at, line)| line.starts_with(&format!("{at} GET /api/v1/"))),
        "{all}"
    );
    let last = all.lines().last().unwrap();
    assert_eq!(logs(&["--tail=1"]), format!("{last}\n"), "lines");
    assert_eq!(logs(&["--limit-bytes=1"]), all[..1], "bytes");

    let stamped = logs(&["--tail=1", "--timestamps"]);
    let (stamp, line) = stamped.trim_end().split_once(' ').expect("a time and a line");
    assert_eq!(line, last);
    let at: jiff::Timestamp = stamp.parse().unwrap_or_else(|error| panic!("{stamp}: {error}"));

    // By time: everything is younger than a day; once the last line is older than a second, a second has nothing.
    assert_eq!(logs(&["--since=24h"]), all);
    wait::until("the last line is old", || {
        let age = SystemTime::now().duration_since(SystemTime::from(at)).unwrap_or_default();
        if age > Duration::from_secs(2) { Ok(()) } else { Err(format!("{age:?}")) }
    });
    let recent = logs(&["--since=1s"]);
    assert!(recent.lines().count() < LINES, "{recent}");
    assert_eq!(recent, "");
}
