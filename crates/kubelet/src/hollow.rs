//! Hollow nodes: nodes that register, beat, and run pods in name only, for tests and benchmarks of everything else.
//!
//! Thousands of them share one watch of pods, one queue and a handful of tasks; nothing touches the host, so no root is
//! needed. A pod becomes Running and Ready with an address of its own; one that may end (`restartPolicy` other than
//! `Always`) succeeds after a delay, which the annotation [`COMPLETE_AFTER`] overrides (milliseconds; `never` for not
//! at all); one that is being deleted is let go.
//! Upstream: `cmd/kubemark`, and kwok's idea of stages.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::meta::{MicroTime, ObjectMeta, Quantity};
use api::types::coordination::v1::{Lease, LeaseSpec};
use api::types::core::v1::{Node, Pod};
use client::{Change, Client, DeleteOptions, Informers, ListOptions, Patch};
use foundation::{SharedClock, Tasks};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::SignedDuration;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::node::info::Machine;
use crate::node::object::{self, Facts};
use crate::pod;

/// The annotation that says after how many milliseconds a pod's containers end, or `never`.
pub const COMPLETE_AFTER: &str = "hollow.ironclad.dev/complete-after";

const LEASES: &str = "kube-node-lease";
const RENEW: Duration = Duration::from_secs(10);

/// How hollow nodes behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// What their names begin with; a number follows.
    pub prefix: String,
    /// Labels besides those of every node.
    pub labels: BTreeMap<String, String>,
    /// Processors of each.
    pub cpus: u64,
    /// Memory of each in bytes.
    pub memory: i64,
    /// Pods that each takes.
    pub max_pods: u32,
    /// When pods that may end do.
    pub complete_after: Duration,
    /// How many requests are under way at once.
    pub concurrency: usize,
    /// The version they report.
    pub version: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            prefix: "hollow-".to_owned(),
            labels: BTreeMap::new(),
            cpus: 32,
            memory: 256 << 30,
            max_pods: 110,
            complete_after: Duration::from_millis(500),
            concurrency: 64,
            version: "v1.37.0".to_owned(),
        }
    }
}

/// Hollow nodes that run.
pub struct Handle {
    ready: watch::Receiver<bool>,
    tasks: Tasks,
}

impl Handle {
    /// Completes once every node is registered and pods are followed.
    pub async fn ready(&self) {
        if self.ready.clone().wait_for(|ready| *ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops them all; their objects stay.
    pub async fn stop(&self, deadline: Duration) {
        self.tasks.shutdown(deadline).await;
    }
}

struct Fleet {
    options: Options,
    client: Client,
    clock: SharedClock,
    names: Vec<String>,
    index: HashMap<String, usize>,
    requests: Semaphore,
    /// What has been done for each pod, by UID, so that the echo of an own write starts nothing again.
    seen: Mutex<HashMap<String, Stage>>,
    addresses: Mutex<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Done,
    Deleting,
}

/// What is to be done for a pod.
#[derive(Debug, PartialEq)]
enum Step {
    Run,
    CompleteIn(Duration),
    Delete,
    Nothing,
}

/// The next step of a pod: pure.
fn next(pod: &Pod, stage: Option<Stage>, default: Duration) -> Step {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() {
        return if stage == Some(Stage::Deleting) { Step::Nothing } else { Step::Delete };
    }
    match (phase, stage) {
        (Some("Succeeded" | "Failed"), _) | (_, Some(Stage::Done | Stage::Deleting)) => Step::Nothing,
        (Some("Running"), None) => Step::CompleteIn(delay(pod, default).unwrap_or(Duration::MAX)),
        (_, None) => Step::Run,
        (_, Some(Stage::Running)) => Step::Nothing,
    }
}

/// After what time the pod's containers end, if they do.
fn delay(pod: &Pod, default: Duration) -> Option<Duration> {
    let asked = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(COMPLETE_AFTER));
    match asked.map(String::as_str) {
        Some("never") => None,
        Some(text) => text.parse().ok().map(Duration::from_millis),
        None => {
            let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
            matches!(policy, Some("Never" | "OnFailure")).then_some(default)
        }
    }
}

/// Starts `count` hollow nodes.
pub fn start(count: usize, options: Options, client: Client, tasks: &Tasks, clock: SharedClock) -> Handle {
    let tasks = tasks.child("hollow");
    let (ready_sender, ready) = watch::channel(false);
    let names: Vec<String> = (0..count).map(|number| format!("{}{number}", options.prefix)).collect();
    let fleet = Arc::new(Fleet {
        index: names.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect(),
        names,
        requests: Semaphore::new(options.concurrency.max(1)),
        options,
        client: client.clone(),
        clock: clock.clone(),
        seen: Mutex::default(),
        addresses: Mutex::new(0),
    });
    let nodes = fleet.clone();
    tasks.spawn_until_cancelled("heartbeat", async move {
        let all = (0..nodes.names.len()).map(|index| nodes.register(index));
        futures::stream::iter(all)
            .buffer_unordered(nodes.options.concurrency.max(1))
            .collect::<Vec<()>>()
            .await;
        ready_sender.send_replace(true);
        nodes.beat().await;
    });
    let informers = Informers::new(client, &tasks, clock);
    let pods = informers.informer_with::<Pod>(ListOptions::fields("spec.nodeName!="));
    tasks.spawn_until_cancelled("kubelet", async move {
        let mut changes = pods.subscribe();
        let (later, mut due) = mpsc::unbounded_channel::<(Duration, Arc<Pod>)>();
        let mut work = FuturesUnordered::new();
        let mut timers = FuturesUnordered::new();
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Change::Added(pod) | Change::Updated { new: pod, .. } => {
                        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
                        if let Some(index) = fleet.index.get(name).copied() {
                            work.push(fleet.clone().step(index, pod, later.clone()));
                        }
                    }
                    Change::Deleted(pod) => drop(fleet.seen.lock().remove(pod::uid(&pod))),
                },
                Some((delay, pod)) = due.recv() => {
                    let sleep = fleet.clock.sleep(delay);
                    timers.push(async move { sleep.await; pod });
                }
                Some(pod) = timers.next() => {
                    let fleet = fleet.clone();
                    work.push(Box::pin(async move { fleet.complete(&pod).await }));
                }
                Some(()) = work.next() => {}
            }
        }
    });
    Handle { ready, tasks }
}

impl Fleet {
    async fn register(&self, index: usize) {
        let name = &self.names[index];
        let mut machine = Machine {
            cpus: self.options.cpus,
            memory: self.options.memory,
            disk: 1 << 40,
            ..Machine::default()
        };
        machine.system.architecture = "amd64".to_owned();
        machine.system.operating_system = "linux".to_owned();
        machine.system.os_image = "hollow".to_owned();
        let capacity: BTreeMap<String, Quantity> = machine.capacity(self.options.max_pods);
        let facts = Facts {
            name,
            ips: &[self.node_ip(index)],
            labels: &self.options.labels,
            machine: &machine,
            capacity: &capacity,
            runtime: "hollow://1".to_owned(),
            version: &self.options.version,
            port: None,
            images: Vec::new(),
            handlers: Vec::new(),
            unready: None,
            now: self.clock.now(),
        };
        let node = object::object(&facts);
        loop {
            let result = {
                let _turn = self.requests.acquire().await;
                self.client.create::<Node>(None, &node).await
            };
            match result {
                Ok(_) => return,
                Err(error) if error.is_already_exists() => return,
                Err(error) => {
                    tracing::debug!(name, %error, "a hollow node was not registered");
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Renews all Leases, spread evenly over the interval.
    async fn beat(&self) {
        let mut leases: Vec<Option<Lease>> = vec![None; self.names.len()];
        let pause = RENEW / u32::try_from(self.names.len().max(1)).unwrap_or(u32::MAX);
        // The first round makes the Leases, at once; from then on they are spread.
        let mut first = true;
        loop {
            let begun = self.clock.monotonic();
            for (index, known) in leases.iter_mut().enumerate() {
                let _turn = self.requests.acquire().await;
                match self.renew(&self.names[index], known.take()).await {
                    Ok(lease) => *known = Some(lease),
                    Err(error) => tracing::debug!(%error, "a hollow node's lease was not renewed"),
                }
                // Sleeping for less than a timer's grain would add up: wait only where the pace is too fast.
                let due = begun + pause * (index as u32 + 1);
                let now = self.clock.monotonic();
                if !first && due > now + Duration::from_millis(5) {
                    self.clock.sleep(due - now).await;
                }
            }
            if leases.is_empty() || first {
                self.clock.sleep(RENEW).await;
            }
            first = false;
        }
    }

    async fn renew(&self, name: &str, known: Option<Lease>) -> Result<Lease, client::Error> {
        let now = MicroTime(self.clock.now());
        if let Some(mut lease) = known {
            lease.spec.get_or_insert_default().renew_time = Some(now);
            return self.client.update::<Lease>(Some(LEASES), &lease).await;
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(LEASES.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.to_owned()),
                lease_duration_seconds: Some(40),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        match self.client.create::<Lease>(Some(LEASES), &lease).await {
            Err(error) if error.is_already_exists() => self.client.get::<Lease>(Some(LEASES), name).await,
            other => other,
        }
    }

    /// 198.18.0.0/15 is set aside for benchmarks (RFC 2544).
    fn node_ip(&self, index: usize) -> String {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + index as u32).to_string()
    }

    /// Pods count up through 100.64.0.0/10 (RFC 6598).
    fn pod_ip(&self) -> String {
        let mut last = self.addresses.lock();
        *last = (*last + 1) % (1 << 22);
        Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + *last).to_string()
    }

    fn step(
        self: Arc<Fleet>,
        index: usize,
        pod: Arc<Pod>,
        later: mpsc::UnboundedSender<(Duration, Arc<Pod>)>,
    ) -> futures::future::BoxFuture<'static, ()> {
        let uid = pod::uid(&pod).to_owned();
        let step = {
            let mut seen = self.seen.lock();
            let step = next(&pod, seen.get(&uid).copied(), self.options.complete_after);
            match step {
                Step::Run | Step::CompleteIn(_) => drop(seen.insert(uid.clone(), Stage::Running)),
                Step::Delete => drop(seen.insert(uid.clone(), Stage::Deleting)),
                Step::Nothing => {}
            }
            step
        };
        Box::pin(async move {
            match step {
                Step::Nothing => {}
                Step::CompleteIn(Duration::MAX) => {}
                Step::CompleteIn(delay) => drop(later.send((delay, pod))),
                Step::Delete => {
                    let options = DeleteOptions::uid(uid).with_grace_period(0);
                    let _turn = self.requests.acquire().await;
                    let (namespace, name) = (pod::namespace(&pod), pod::name(&pod));
                    let deleted = self.client.delete::<Pod>(Some(namespace), name, &options).await;
                    if let Err(error) = deleted.as_ref().map_err(|error| error.to_string()) {
                        tracing::debug!(%error, "a hollow pod was not deleted");
                    }
                }
                Step::Run => {
                    let ip = self.pod_ip();
                    let status = running(&pod, &ip, &self.node_ip(index), self.clock.now());
                    if self.write(&pod, status).await {
                        if let Some(delay) = delay(&pod, self.options.complete_after) {
                            let _ = later.send((delay, pod));
                        }
                    } else {
                        // The next change of the pod tries again.
                        self.seen.lock().remove(&uid);
                    }
                }
            }
        })
    }

    async fn complete(&self, pod: &Pod) {
        {
            let mut seen = self.seen.lock();
            match seen.get_mut(pod::uid(pod)) {
                Some(stage) if *stage == Stage::Running => *stage = Stage::Done,
                _ => return,
            }
        }
        self.write(pod, completed(pod, self.clock.now())).await;
    }

    async fn write(&self, pod: &Pod, status: Value) -> bool {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod::uid(pod)}, "status": status}));
        let _turn = self.requests.acquire().await;
        let endpoint = client::Endpoint::of::<Pod>();
        let (namespace, name) = (pod::namespace(pod), pod::name(pod));
        match self.client.patch_dynamic(&endpoint, Some(namespace), name, Some("status"), &patch).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "a hollow pod's status was not written");
                false
            }
        }
    }
}

fn conditions(ready: bool, reason: Option<&str>, now: jiff::Timestamp) -> Value {
    let row = |kind: &str, ok: bool, reason: Option<&str>| {
        let mut row = json!({"type": kind, "status": if ok { "True" } else { "False" }, "lastTransitionTime": now.to_string()});
        if let Some(reason) = reason {
            row["reason"] = json!(reason);
        }
        row
    };
    json!([
        row("PodReadyToStartContainers", ready, None),
        row("Initialized", true, reason),
        row("Ready", ready, reason),
        row("ContainersReady", ready, reason),
        row("PodScheduled", true, None),
    ])
}

fn statuses(pod: &Pod, state: &Value, ready: bool) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
    containers
        .map(|container| {
            json!({"name": container.name, "image": container.image.clone().unwrap_or_default(), "imageID": "",
                "containerID": format!("hollow://{}-{}", pod::uid(pod), container.name),
                "ready": ready, "started": ready, "restartCount": 0, "state": state})
        })
        .collect()
}

fn running(pod: &Pod, ip: &str, host: &str, now: jiff::Timestamp) -> Value {
    let state = json!({"running": {"startedAt": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}});
    json!({
        "phase": "Running",
        "observedGeneration": pod.metadata.generation,
        "qosClass": pod::resources::qos(pod).as_str(),
        "startTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "hostIP": host, "hostIPs": [{"ip": host}],
        "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": conditions(true, None, now),
        "containerStatuses": statuses(pod, &state, true),
    })
}

fn completed(pod: &Pod, now: jiff::Timestamp) -> Value {
    let time = |at: jiff::Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let started = now - SignedDuration::from_secs(1);
    let state = json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": time(started), "finishedAt": time(now)}});
    json!({
        "phase": "Succeeded",
        "conditions": conditions(false, Some("PodCompleted"), now),
        "containerStatuses": statuses(pod, &state, false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_of_a_hollow_pod() {
        let second = Duration::from_secs(1);
        for (pod, stage, want) in [
            (json!({"spec": {"containers": []}}), None, Step::Run),
            (json!({"spec": {"containers": []}}), Some(Stage::Running), Step::Nothing),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                Some(Stage::Running),
                Step::Delete,
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                Some(Stage::Deleting),
                Step::Nothing,
            ),
            // Hollow nodes that were started again take over what ran.
            (
                json!({"spec": {"restartPolicy": "Never", "containers": []}, "status": {"phase": "Running"}}),
                None,
                Step::CompleteIn(second),
            ),
            (json!({"status": {"phase": "Succeeded"}}), None, Step::Nothing),
        ] {
            let parsed: Pod = serde_json::from_value(pod.clone()).unwrap();
            assert_eq!(next(&parsed, stage, second), want, "{pod}");
        }
    }

    #[test]
    fn who_ends_and_when() {
        let second = Duration::from_secs(1);
        for (policy, annotation, want) in [
            ("Always", None, None),
            ("Never", None, Some(second)),
            ("OnFailure", Some("20"), Some(Duration::from_millis(20))),
            ("Never", Some("never"), None),
        ] {
            let mut pod: Pod =
                serde_json::from_value(json!({"spec": {"restartPolicy": policy, "containers": []}})).unwrap();
            pod.metadata.annotations =
                annotation.map(|value| BTreeMap::from([(COMPLETE_AFTER.into(), value.into())]));
            assert_eq!(delay(&pod, second), want, "{policy} {annotation:?}");
        }
    }
}
