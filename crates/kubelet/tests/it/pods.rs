//! A pod's life as a user sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::types::coordination::v1::Lease;
use api::types::core::v1::{Event, Node, Pod, Secret};
use api::types::node::v1::RuntimeClass;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::fake::FakeApi;
use foundation::{SystemClock, SystemRandomness, Tasks};
use kubelet::{Handle, Options};
use serde_json::{Value, json};

use super::fake_cri::FakeCri;

pub struct Cluster {
    pub api: FakeApi,
    pub cri: FakeCri,
    pub kubelet: Handle,
    pub directory: tempfile::TempDir,
    socket: std::path::PathBuf,
}

fn options(directory: &std::path::Path, socket: &std::path::Path) -> Options {
    Options {
        node_name: "n1".into(),
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        root_dir: directory.join("kubelet"),
        pod_logs_dir: directory.join("logs"),
        runtime_endpoint: socket.to_owned(),
        network_changed: Default::default(),
        cluster_dns: vec!["10.43.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        cgroup_root: String::new(),
        resolv_conf: "/etc/resolv.conf".into(),
        labels: BTreeMap::new(),
        allowed_unsafe_sysctls: Vec::new(),
        max_pods: 110,
        version: "v1.37.0".into(),
        server: None,
    }
}

async fn start(api: &FakeApi, options: Options) -> Handle {
    let tasks = Tasks::new("test");
    kubelet::start(
        options,
        super::api_server::client(api),
        &tasks,
        SystemClock::shared(),
        SystemRandomness::shared(),
    )
    .await
    .unwrap()
}

impl Cluster {
    async fn new(evented: bool) -> Cluster {
        Cluster::with(evented, None).await
    }

    pub async fn with(evented: bool, server: Option<kubelet::ServerOptions>) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let (cri, socket) = FakeCri::serve(directory.path(), evented);
        let api = FakeApi::new();
        let options = Options { server, ..options(directory.path(), &socket) };
        let kubelet = start(&api, options).await;
        Cluster { api, cri, kubelet, directory, socket }
    }

    pub fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1,
                "finalizers": ["example.com/hold"]},
            "spec": spec, "status": {"phase": "Pending"}});
        self.api.insert::<Pod>(serde_json::from_value(pod).unwrap());
    }

    /// Waits until the pod's status matches.
    pub async fn until(&self, name: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let found = |pods: &[Pod]| {
            let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            Some(serde_json::to_value(pod).unwrap()["status"].clone()).filter(|status| matches(status))
        };
        found(&self.api.wait_for::<Pod>(|pods| found(pods).is_some()).await).unwrap()
    }

    async fn event(&self, reason: &str) -> String {
        let is = |event: &&Event| event.reason.as_deref() == Some(reason);
        let events = self.api.wait_for::<Event>(|events| events.iter().any(|event| is(&event))).await;
        events.iter().find(is).and_then(|event| event.message.clone()).unwrap_or_default()
    }
}

pub fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    let all = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

pub fn one(name: &str) -> Value {
    json!({"containers": [{"name": name, "image": "img", "imagePullPolicy": "IfNotPresent"}], "terminationGracePeriodSeconds": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_registers_and_beats() {
    let cluster = Cluster::new(true).await;
    cluster.kubelet.ready().await;
    let nodes = cluster.api.objects::<Node>();
    let status = serde_json::to_value(nodes[0].status.clone()).unwrap();
    assert_eq!(condition(&status, "Ready"), "True");
    assert_eq!(status["addresses"][0]["address"], "192.0.2.1");
    let leases = cluster.api.wait_for::<Lease>(|leases| !leases.is_empty()).await;
    assert_eq!(leases[0].spec.as_ref().unwrap().lease_duration_seconds, Some(40));
    cluster.event("NodeReady").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_is_restarted_and_goes() {
    let cluster = Cluster::new(true).await;
    cluster.create("web", one("web"));
    let status = cluster.until("web", |status| condition(status, "Ready") == "True").await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.42.0.7");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert!(status["containerStatuses"][0]["containerID"].as_str().unwrap().starts_with("fake://web-0-"));
    assert_eq!(cluster.event("Started").await, "Container started");

    cluster.cri.exit("web", 3);
    let status = cluster
        .until("web", |status| {
            status["containerStatuses"][0]["restartCount"] == 1 && condition(status, "Ready") == "True"
        })
        .await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    cluster.cri.exit("web", 4);
    let status =
        cluster.until("web", |status| !status["containerStatuses"][0]["state"]["waiting"].is_null()).await;
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert!(
        cluster
            .event("BackOff")
            .await
            .starts_with("Back-off restarting failed container web in pod web_default(")
    );

    // The API server marks the pod (here it keeps it for its finalizer); the kubelet lets it go once nothing is left.
    let client = cluster.api.client();
    client.delete::<Pod>(Some("default"), "web", &client::DeleteOptions::default()).await.unwrap();
    let left = || cluster.cri.books(|books| books.sandboxes.len() + books.containers.len());
    while left() > 0 {
        tokio::task::yield_now().await;
    }
    let deletes = cluster.api.writes().into_iter().filter(|call| call.method == "DELETE").collect::<Vec<_>>();
    assert_eq!(
        deletes.last().unwrap().body,
        json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "uid-web"}})
    );
    assert!(!cluster.directory.path().join("kubelet/pods/uid-web").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_without_events_works_too() {
    let cluster = Cluster::new(false).await;
    cluster.create("web", one("web"));
    cluster.until("web", |status| condition(status, "Ready") == "True").await;
    cluster.cri.exit("web", 1);
    cluster.until("web", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_in_order_and_jobs_end() {
    let cluster = Cluster::new(true).await;
    let container = |name: &str| json!({"name": name, "image": "img", "imagePullPolicy": "IfNotPresent"});
    let mut sidecar = container("side");
    sidecar["restartPolicy"] = json!("Always");
    cluster.cri.books(|books| {
        books.exits.insert("one".into(), vec![1, 0]);
        books.exits.insert("main".into(), vec![0]);
    });
    cluster.create(
        "job",
        json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 1,
        "initContainers": [container("one"), sidecar], "containers": [container("main")]}),
    );
    let status = cluster.until("job", |status| status["phase"] == "Succeeded").await;
    let starts = cluster.cri.books(|books| {
        books.calls.iter().filter(|call| call.starts_with("Start")).cloned().collect::<Vec<_>>().join(", ")
    });
    assert_eq!(starts, "Start one, Start one, Start side, Start main");
    assert_eq!(status["initContainerStatuses"][0]["restartCount"], 1);
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert!(cluster.cri.running().is_empty(), "the sidecar was stopped at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let cluster = Cluster::new(true).await;
    let waiting = |status: &Value| status["containerStatuses"][0]["state"]["waiting"].clone();
    let mut missing = one("c");
    missing["containers"][0]["image"] = json!("elsewhere:1");
    cluster.create("pull", missing);
    let status = cluster.until("pull", |status| waiting(status)["reason"] == "ErrImagePull").await;
    assert!(waiting(&status)["message"].as_str().unwrap().contains("failed to pull elsewhere:1"));
    assert_eq!(status["phase"], "Pending");
    assert!(cluster.event("Failed").await.contains("elsewhere:1"));

    let mut config = one("c");
    config["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "cfg"}}]);
    cluster.create("env", config);
    let status =
        cluster.until("env", |status| waiting(status)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting(&status)["message"], "configmap \"cfg\" not found");

    // Once it is there, the container starts without anybody asking.
    let object = json!({"metadata": {"name": "cfg", "namespace": "default"}, "data": {"K": "v"}});
    cluster.api.insert::<api::types::core::v1::ConfigMap>(serde_json::from_value(object).unwrap());
    cluster.until("env", |status| condition(status, "Ready") == "True").await;
    let env = cluster.cri.books(|books| {
        let (config, _, _) =
            books.containers.values().find(|(c, _, _)| c.metadata.as_ref().unwrap().name == "c").unwrap();
        config.envs.iter().find(|env| env.key == "K").map(|env| env.value.clone())
    });
    assert_eq!(env.as_deref(), Some("v"));

    let mut volume = one("c");
    volume["volumes"] = json!([{"name": "v", "secret": {"secretName": "gone"}}]);
    cluster.create("volume", volume);
    let message = cluster.event("FailedMount").await;
    assert_eq!(message, "MountVolume.SetUp failed for volume \"v\" : secret \"gone\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_secret_has_brought_is_not_everybodys() {
    let cluster = Cluster::new(true).await;
    let config = json!({"auths": {"private.example": {"username": "alice", "password": "a"}}}).to_string();
    let secret = json!({"metadata": {"name": "alice", "namespace": "default", "uid": "s"},
        "data": {".dockerconfigjson": BASE64_STANDARD.encode(config)}});
    cluster.api.insert::<Secret>(serde_json::from_value(secret).unwrap());
    let pod = |policy: &str, secrets: Value| {
        let mut pod = one("c");
        pod["containers"][0]["image"] = json!("private.example/app:1");
        pod["containers"][0]["imagePullPolicy"] = json!(policy);
        pod["imagePullSecrets"] = secrets;
        pod
    };
    let waiting = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let hers = json!([{"name": "alice"}]);
    cluster.create("owner", pod("IfNotPresent", hers.clone()));
    cluster.until("owner", |status| condition(status, "Ready") == "True").await;

    cluster.create("thief", pod("IfNotPresent", json!([])));
    cluster.until("thief", |status| waiting(status) == "ErrImagePull").await;
    cluster.create("sly", pod("Never", json!([])));
    cluster.until("sly", |status| waiting(status) == "ErrImageNeverPull").await;

    let mut reader = one("c");
    let image = json!({"reference": "private.example/app:1", "pullPolicy": "IfNotPresent"});
    reader["volumes"] = json!([{"name": "v", "image": image}]);
    reader["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    cluster.create("reader", reader);
    cluster.until("reader", |status| waiting(status) == "ErrImagePull").await;

    cluster.create("friend", pod("Never", hers));
    cluster.until("friend", |status| condition(status, "Ready") == "True").await;
    let pulls = cluster.cri.books(|books| books.calls.iter().filter(|call| call.starts_with("pull")).count());
    assert_eq!(pulls, 1, "what is known need not be asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_decide() {
    let cluster = Cluster::new(true).await;
    cluster.cri.books(|books| {
        books.commands.insert("ready".into(), 1);
    });
    let mut spec = one("web");
    let probe =
        |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    spec["containers"][0]["readinessProbe"] = probe("ready");
    spec["containers"][0]["livenessProbe"] = probe("alive");
    cluster.create("web", spec);
    let status = cluster.until("web", |status| status["phase"] == "Running").await;
    assert_eq!(condition(&status, "Ready"), "False");
    assert_eq!(cluster.event("Unhealthy").await, "Readiness probe failed: said so");
    cluster.cri.books(|books| books.commands.insert("ready".into(), 0));
    cluster.until("web", |status| condition(status, "Ready") == "True").await;
    cluster.cri.books(|books| books.commands.insert("alive".into(), 1));
    cluster.until("web", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(cluster.event("Killing").await, "Container web failed liveness probe, will be restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_kubelet_adopts_the_wanted_and_stops_the_rest() {
    let cluster = Cluster::new(true).await;
    cluster.create("kept", one("kept"));
    cluster.create("lost", one("lost"));
    let ready = |status: &Value| condition(status, "Ready") == "True";
    let before = cluster.until("kept", ready).await;
    cluster.until("lost", ready).await;
    cluster.kubelet.stop(std::time::Duration::from_secs(5)).await;
    assert_eq!(cluster.cri.running(), ["kept", "lost"], "containers outlive the kubelet");

    let client = cluster.api.client();
    let patch = client::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    client.patch::<Pod>(Some("default"), "lost", &patch).await.unwrap();
    client.delete::<Pod>(Some("default"), "lost", &client::DeleteOptions::default()).await.unwrap();
    let again = start(&cluster.api, options(cluster.directory.path(), &cluster.socket)).await;
    again.ready().await;
    while cluster.cri.running() != ["kept"] {
        tokio::task::yield_now().await;
    }
    let after = cluster.until("kept", ready).await;
    assert_eq!(after["containerStatuses"], before["containerStatuses"], "nothing was recreated");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let cluster = Cluster::new(true).await;
    let mut spec = one("c");
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "100000"}});
    cluster.create("big", spec);
    let status = cluster.until("big", |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "OutOfcpu");
    let calls = cluster.cri.books(|books| books.calls.clone());
    assert!(calls.is_empty(), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_has_no_more_takes_no_place() {
    let directory = tempfile::tempdir().unwrap();
    let (cri, socket) = FakeCri::serve(directory.path(), true);
    let api = FakeApi::new();
    let kubelet = start(&api, Options { max_pods: 1, ..options(directory.path(), &socket) }).await;
    let cluster = Cluster { api, cri, kubelet, directory, socket };
    cluster.create("deleted", one("deleted"));
    cluster.until("deleted", |status| condition(status, "Ready") == "True").await;

    let stops = Arc::new(tokio::sync::Semaphore::new(0));
    cluster.cri.books(|books| books.stops = Some(stops.clone()));
    let client = cluster.api.client();
    let patch = client::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    client.patch::<Pod>(Some("default"), "deleted", &patch).await.unwrap();
    client.delete::<Pod>(Some("default"), "deleted", &client::DeleteOptions::default()).await.unwrap();
    cluster.create("next", one("next"));
    cluster.until("next", |status| condition(status, "Ready") == "True").await;
    assert_eq!(cluster.cri.running(), ["deleted", "next"], "the first one has not come down yet");
    stops.add_permits(100);
    while cluster.cri.running() != ["next"] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_with_the_handler_of_its_class_or_not_at_all() {
    let cluster = Cluster::new(true).await;
    let mut spec = one("c");
    spec["runtimeClassName"] = json!("sandboxed");
    cluster.create("classy", spec);
    assert_eq!(
        cluster.event("FailedCreatePodSandBox").await,
        "Failed to create pod sandbox: Failed to create sandbox for pod \"classy_default(uid-classy)\": \
         runtimeclasses.node.k8s.io \"sandboxed\" not found"
    );
    let class = json!({"metadata": {"name": "sandboxed"}, "handler": "kata"});
    cluster.api.insert::<RuntimeClass>(serde_json::from_value(class).unwrap());
    cluster.until("classy", |status| condition(status, "Ready") == "True").await;
    assert_eq!(cluster.cri.books(|books| books.handlers.clone()), ["kata"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_wants_what_the_node_cannot_give_does_not_run() {
    let cluster = Cluster::new(true).await;
    let mut users = one("c");
    users["hostUsers"] = json!(false);
    cluster.create("users", users);
    let told = cluster.event("FailedCreatePodSandBox").await;
    assert!(
        told.ends_with("can't set `spec.hostUsers: false`, runtime does not support user namespaces"),
        "{told}"
    );
    let mut tuned = one("c");
    tuned["securityContext"] = json!({"sysctls": [{"name": "kernel.core_pattern", "value": "|/bin/sh"}]});
    cluster.create("tuned", tuned);
    let status = cluster.until("tuned", |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "SysctlForbidden");
    assert_eq!(
        status["message"],
        "Pod was rejected: forbidden sysctl: \"kernel.core_pattern\" not allowlisted"
    );
    assert_eq!(cluster.cri.books(|books| books.handlers.clone()), [""; 0]);
}
