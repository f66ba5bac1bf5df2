//! test/e2e/kubectl/kubectl.go: the commands that say something of the cluster or change an object. Those that are
//! about pods are in `kubectl_pods.rs`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::{Child, ChildStdout, Stdio},
};

use serde_json::Value;
use testkit::Kubectl;

use super::{World, items};

/// Conformance: [sig-cli] Kubectl client Kubectl api-versions should check if v1 is in available api versions [Conformance]
#[test]
fn api_versions_has_v1() {
    let world = World::hollow(1);
    let versions = world.cluster.kubectl(&["api-versions"]);
    assert!(versions.lines().any(|line| line == "v1"), "{versions}");
}

/// Conformance: [sig-cli] Kubectl client Kubectl version should check is all data is printed [Conformance]
#[test]
fn version_prints_all_data() {
    let world = World::hollow(1);
    let said = world.cluster.kubectl(&["version"]);
    for wanted in ["Client Version: v1.37", "Server Version: v1.37"] {
        assert!(said.contains(wanted), "{said}");
    }
    let both: Value = serde_json::from_str(&world.cluster.kubectl(&["version", "-o", "json"])).unwrap();
    for of in ["clientVersion", "serverVersion"] {
        for field in ["major", "minor", "gitVersion", "buildDate", "compiler", "platform"] {
            assert!(both[of][field].as_str().is_some_and(|text| !text.is_empty()), "{of}.{field}: {both}");
        }
    }
}

/// Conformance: [sig-cli] Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info [Conformance]
#[test]
fn cluster_info_has_the_control_plane() {
    let world = World::hollow(1);
    let said = world.cluster.kubectl(&["cluster-info"]);
    assert!(said.contains("Kubernetes control plane") && said.contains("is running at"), "{said}");
}

const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: httpd-deployment, namespace: e2e}, \
    spec: {replicas: 1, selector: {matchLabels: {app: httpd}}, template: {metadata: {labels: {app: httpd}}, spec: \
    {containers: [{name: httpd, image: 'registry.example/httpd:2.4', ports: [{containerPort: 80}]}]}}}}";

/// Conformance: [sig-cli] Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments [Conformance]
#[test]
fn diff_finds_a_difference_for_deployments() {
    let world = World::hollow(1);
    world.cluster.apply(Kubectl::V1_37, DEPLOYMENT);
    let file = world.cluster.folder().join("deployment.yaml");
    std::fs::write(&file, DEPLOYMENT.replace("registry.example/httpd:2.4", "registry.example/busybox:1.29"))
        .unwrap();
    let different = world.cluster.try_kubectl(&["diff", "-f", file.to_str().unwrap()]);
    assert!(!different.success && different.stderr.is_empty(), "{different:?}");
    for (mark, image) in [("-", "registry.example/httpd:2.4"), ("+", "registry.example/busybox:1.29")] {
        let shown = |line: &str| line.starts_with(mark) && line.ends_with(&format!("image: {image}"));
        assert!(different.stdout.lines().any(shown), "{different:?}");
    }
    std::fs::write(&file, DEPLOYMENT).unwrap();
    let same = world.cluster.try_kubectl(&["diff", "-f", file.to_str().unwrap()]);
    assert!(same.success && same.stdout.is_empty(), "{same:?}");
}

/// A `kubectl proxy` that ends with its value.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

/// Starts `kubectl proxy`; what it says when it listens.
fn proxy(world: &World, arguments: &[&str]) -> (Proxy, String) {
    let arguments: Vec<&str> = ["proxy"].iter().chain(arguments).copied().collect();
    let mut child = world
        .cluster
        .kubectl_command(Kubectl::V1_37, &arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl can be started");
    let said: ChildStdout = child.stdout.take().expect("it is piped");
    let proxy = Proxy(child);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).unwrap();
    assert!(line.starts_with("Starting to serve on "), "{line}");
    (proxy, line)
}

/// What GET /api/ answers over this stream.
fn versions(mut stream: impl Read + Write) -> Value {
    stream.write_all(b"GET /api/ HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.lines().next().is_some_and(|status| status.contains(" 200 ")), "{head}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Conformance: [sig-cli] Kubectl client Proxy server should support proxy with --port 0 [Conformance]
#[test]
fn proxy_takes_a_free_port() {
    let world = World::hollow(1);
    let (_proxy, said) = proxy(&world, &["-p", "0", "--disable-filter"]);
    let address = said.trim().rsplit(' ').next().unwrap();
    let answer = versions(TcpStream::connect(address).unwrap());
    assert_eq!(answer["kind"], "APIVersions");
    assert!(answer["versions"].as_array().is_some_and(|versions| !versions.is_empty()), "{answer}");
}

/// Conformance: [sig-cli] Kubectl client Proxy server should support --unix-socket=/path [Conformance]
#[test]
fn proxy_listens_on_a_unix_socket() {
    let world = World::hollow(1);
    let socket = world.cluster.folder().join("proxy.sock");
    let (_proxy, _) = proxy(&world, &[&format!("--unix-socket={}", socket.display())]);
    let answer = versions(UnixStream::connect(&socket).unwrap());
    assert!(answer["versions"].as_array().is_some_and(|versions| !versions.is_empty()), "{answer}");
}

/// A ReplicationController of one with its Service, as upstream's manifests have them.
const PRIMARY: &str = "{apiVersion: v1, kind: ReplicationController, metadata: {name: agnhost-primary, namespace: e2e, \
    labels: {app: agnhost, role: primary}}, spec: {replicas: 1, selector: {app: agnhost, role: primary}, template: \
    {metadata: {labels: {app: agnhost, role: primary}}, spec: {containers: [{name: agnhost-primary, image: \
    'registry.example/agnhost:2', ports: [{name: agnhost-server, containerPort: 6379}]}]}}}}";
const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: agnhost-primary, namespace: e2e, labels: \
    {app: agnhost, role: primary}}, spec: {ports: [{port: 6379, targetPort: agnhost-server}], selector: {app: agnhost, \
    role: primary}}}";
const PODS: &str = "/api/v1/namespaces/e2e/pods";

/// Waits until every pod runs, and so many of them do; their names.
pub(super) fn running(world: &World, count: usize) -> Vec<String> {
    let pods = world.until(PODS, |answer| {
        let pods = items(&answer.body);
        pods.len() == count && pods.iter().all(|pod| pod["status"]["phase"] == "Running")
    });
    items(&pods).iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Each of these is in what kubectl says, in this order on one line per entry.
fn has(said: &str, wanted: &[&[&str]]) {
    for parts in wanted {
        let found = said.lines().any(|line| {
            let mut rest = Some(line);
            parts.iter().all(|part| {
                rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, after)| after);
                rest.is_some()
            })
        });
        assert!(found, "{parts:?} is missing in:\n{said}");
    }
}

/// Conformance: [sig-cli] Kubectl client Kubectl describe should check if kubectl describe prints relevant information for rc and pods [Conformance]
#[test]
fn describe_prints_relevant_information_for_rc_and_pods() {
    let world = World::hollow(1);
    world.cluster.apply(Kubectl::V1_37, PRIMARY);
    world.cluster.apply(Kubectl::V1_37, SERVICE);
    let pods = running(&world, 1);
    let describe = |kind: &str, name: &str| world.cluster.kubectl(&["-n", "e2e", "describe", kind, name]);
    let said = describe("pod", &pods[0]);
    has(
        &said,
        &[
            &["Name:", &pods[0]],
            &["Namespace:", "e2e"],
            &["Node:"],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Status:", "Running"],
            &["IP:"],
            &["Controlled By:", "ReplicationController/agnhost-primary"],
            &["Image:", "registry.example/agnhost:2"],
            &["State:", "Running"],
            &["QoS Class:", "BestEffort"],
        ],
    );
    has(
        &describe("rc", "agnhost-primary"),
        &[
            &["Name:", "agnhost-primary"],
            &["Namespace:", "e2e"],
            &["Selector:", "app=agnhost,role=primary"],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Replicas:", "1 current", "1 desired"],
            &["Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"],
            &["Pod Template:"],
            &["Image:", "registry.example/agnhost:2"],
            &["Events:"],
        ],
    );
    has(
        &describe("service", "agnhost-primary"),
        &[
            &["Name:", "agnhost-primary"],
            &["Namespace:", "e2e"],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Selector:", "app=agnhost", "role=primary"],
            &["Type:", "ClusterIP"],
            &["IP:"],
            &["Port:", "<unset>", "6379/TCP"],
            &["Endpoints:"],
            &["Session Affinity:"],
        ],
    );
    let nodes = world.read("/api/v1/nodes");
    let node = items(&nodes)[0]["metadata"]["name"].as_str().unwrap();
    has(
        &world.cluster.kubectl(&["describe", "node", node]),
        &[
            &["Name:", node],
            &["Labels:"],
            &["Annotations:"],
            &["CreationTimestamp:"],
            &["Conditions:"],
            &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"],
            &["Addresses:"],
            &["Capacity:"],
            &["Version"],
            &["Kernel Version:"],
            &["OS Image:"],
            &["Container Runtime Version:"],
            &["Kubelet Version:"],
        ],
    );
    has(
        &world.cluster.kubectl(&["describe", "namespace", "e2e"]),
        &[&["Name:", "e2e"], &["Labels:"], &["Annotations:"], &["Status:", "Active"]],
    );
}

/// Conformance: [sig-cli] Kubectl client Kubectl expose should create services for rc [Conformance]
#[test]
fn expose_creates_services_for_rc() {
    let world = World::hollow(1);
    world.cluster.apply(Kubectl::V1_37, PRIMARY);
    running(&world, 1);
    for (exposed, name, port) in [(["rc", "agnhost-primary"], "rm2", 1234), (["service", "rm2"], "rm3", 2345)]
    {
        let (name_flag, port_flag) = (format!("--name={name}"), format!("--port={port}"));
        world.cluster.kubectl(&[
            "-n",
            "e2e",
            "expose",
            exposed[0],
            exposed[1],
            &name_flag,
            &port_flag,
            "--target-port=6379",
        ]);
        let endpoints = world.until(&format!("/api/v1/namespaces/e2e/endpoints/{name}"), |answer| {
            answer.body["subsets"].as_array().is_some_and(|subsets| subsets.len() == 1)
        });
        let subset = &endpoints["subsets"][0];
        assert_eq!(subset["addresses"].as_array().map(Vec::len), Some(1), "{subset}");
        assert_eq!(subset["ports"][0]["port"], 6379, "{subset}");
        let service = world.read(&format!("/api/v1/namespaces/e2e/services/{name}"));
        let ports = service["spec"]["ports"].as_array().unwrap();
        assert_eq!(ports.len(), 1, "{service}");
        assert_eq!((&ports[0]["port"], &ports[0]["targetPort"]), (&port.into(), &6379.into()), "{service}");
    }
}

/// Conformance: [sig-cli] Kubectl client Kubectl patch should add annotations for pods in rc [Conformance]
#[test]
fn patch_adds_annotations_for_pods_in_rc() {
    let world = World::hollow(1);
    world.cluster.apply(Kubectl::V1_37, PRIMARY);
    for pod in running(&world, 1) {
        let patch = r#"{"metadata":{"annotations":{"x":"y"}}}"#;
        world.cluster.kubectl(&["-n", "e2e", "patch", "pod", &pod, "-p", patch]);
        let read = world.read(&format!("{PODS}/{pod}"));
        assert_eq!(read["metadata"]["annotations"]["x"], "y", "{read}");
    }
}
