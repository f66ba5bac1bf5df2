//! The API server under load: writes, lists and watches at several sizes of the cluster, and its memory.
//!
//! The client shares the machine's processors with the server, and what it costs by itself is measured in the same
//! run: an echo over the same TLS, which answers each request with as many bytes as the API server did
//! ([`echo`]). The quotient of the two is what the API server adds. Beside the rates stands the processor time that the
//! server alone spent on each request: what a machine with more cores divides.

mod echo;
mod load;
mod watching;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use self::load::{Connections, Outcome};
use crate::{ApiOptions, idle, instance::Instance, report};

/// Namespaces over which the pods are spread.
const NAMESPACES: usize = 10;
/// Writes that are measured at each size, beyond those that bring the cluster there.
const SAMPLE: usize = 5_000;
/// Lists of everything at once, to see what they cost in memory.
const LISTS: usize = 10;

/// Fills a server with pods, and measures at each of the sizes asked for.
pub async fn run(options: &ApiOptions, program: &Path) -> anyhow::Result<()> {
    let mut instance = Instance::start_api_server(program)?;
    let client = instance.serves().await?;
    let server = Connections::open(&instance.kubeconfig(), None)?;
    let echo = echo::start(&instance.data_dir().join("pki"))?;
    let echoed = Connections::open(&instance.kubeconfig(), Some(echo.port))?;
    for number in 0..NAMESPACES {
        let name = namespace(number);
        client
            .request(Method::POST, "/api/v1/namespaces", Some(&json!({"metadata": {"name": name}})))
            .await?;
        let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
        client.request(Method::POST, &accounts, Some(&json!({"metadata": {"name": "default"}}))).await?;
    }
    let mut leases = Leases::create(&server).await?;
    let pid = instance.pid();
    let empty = idle::proportional(pid)?;
    let mut made = 0;
    let mut sizes = options.pods.clone();
    sizes.sort_unstable();
    for size in sizes {
        let before = size.saturating_sub(SAMPLE).max(made);
        server.run(before - made, |index| create_pod(made + index)).await?.complete()?;
        let spent = idle::processor_time(pid)?;
        let creates = server.run(size - before, |index| create_pod(before + index)).await?;
        let spent = idle::processor_time(pid)?.saturating_sub(spent);
        made = size.max(made);
        writes(&format!("{size} pods: creates"), &creates, spent, &echoed, "15,000/s, p99 10 ms").await?;
        let spent = idle::processor_time(pid)?;
        let updates = leases.renew(&server).await?;
        let spent = idle::processor_time(pid)?.saturating_sub(spent);
        let what = format!("{size} pods: lease updates");
        writes(&what, &updates, spent, &echoed, "30,000/s, p99 10 ms").await?;
        lists(size, &server, &echoed).await?;
        let grown = idle::proportional(pid)?.saturating_sub(empty);
        let each = grown as f64 / made.max(1) as f64;
        report::line(&format!("{size} pods: memory per pod"), &format!("{each:.1} KiB"), "8 KiB at 150,000");
        watching::run(size, options.watchers, &server, &instance).await?;
    }
    concurrent_lists(&server, pid).await?;
    instance.end()
}

fn namespace(number: usize) -> String {
    format!("bench-{number}")
}

/// A pod as a Deployment's ReplicaSet makes it, with the fields that most have.
fn create_pod(index: usize) -> (Method, String, Bytes) {
    let namespace = namespace(index % NAMESPACES);
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-7d4b9c6f5d-{index:06}"), "namespace": namespace,
            "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5d", "tier": format!("t{}", index % 100)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c6f5d",
                "uid": "f2a9b6a2-0d6c-4b6e-9d5f-3b1f2c7a9e10", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "nodeName": format!("node-{}", index % 5_000),
            "containers": [{
                "name": "web", "image": "registry.example.com/team/web:1.4.2",
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
            }],
        },
    });
    (Method::POST, format!("/api/v1/namespaces/{namespace}/pods"), Bytes::from(body.to_string()))
}

/// The leases of a large cluster's nodes, as their kubelets renew them: with the version that the last answer named.
struct Leases {
    versions: Vec<String>,
    /// How often they were renewed: a renewal that changes nothing is not written.
    renewals: u32,
}

impl Leases {
    /// How many there are.
    const COUNT: usize = 5_000;

    async fn create(server: &Connections) -> anyhow::Result<Leases> {
        let mut leases = Leases { versions: vec![String::new(); Leases::COUNT], renewals: 0 };
        let make = |index| {
            let (path, _, body) = Leases::object(index, "", 0);
            (Method::POST, path, body)
        };
        server
            .run_noting(Leases::COUNT, make, |index, answer| leases.note(index, answer))
            .await?
            .complete()?;
        Ok(leases)
    }

    async fn renew(&mut self, server: &Connections) -> anyhow::Result<Outcome> {
        self.renewals += 1;
        let (versions, renewals) = (self.versions.clone(), self.renewals);
        let make = |index: usize| {
            let (path, name, body) = Leases::object(index, &versions[index], renewals);
            (Method::PUT, format!("{path}/{name}"), body)
        };
        server.run_noting(Leases::COUNT, make, |index, answer| self.note(index, answer)).await
    }

    fn object(index: usize, version: &str, renewals: u32) -> (String, String, Bytes) {
        let (namespace, name) = (namespace(index % NAMESPACES), format!("node-{index}"));
        let body = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
                "renewTime": format!("2026-01-01T00:00:00.{renewals:06}Z")}});
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        (path, name, Bytes::from(body.to_string()))
    }

    fn note(&mut self, index: usize, answer: &[u8]) {
        /// Of an answer, what the next renewal needs; the rest is skipped where it stands.
        #[derive(Deserialize)]
        struct Renewed<'a> {
            #[serde(borrow)]
            metadata: Metadata<'a>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'a> {
            resource_version: &'a str,
        }
        if let Ok(Renewed { metadata }) = serde_json::from_slice(answer) {
            self.versions[index] = metadata.resource_version.to_owned();
        }
    }
}

/// Reports a run of writes, for which the server spent so much processor time, and what the echo needs for the same
/// bytes.
async fn writes(
    what: &str,
    found: &Outcome,
    spent: Duration,
    echoed: &Connections,
    target: &str,
) -> anyhow::Result<()> {
    found.complete()?;
    if found.times.is_empty() {
        return Ok(());
    }
    let (sent, answered) = (found.sent / found.times.len(), found.received / found.times.len());
    let body = Bytes::from(vec![b' '; sent]);
    let bare =
        echoed.run(found.times.len(), |_| (Method::POST, format!("/{answered}"), body.clone())).await?;
    bare.complete()?;
    let each = report::microseconds(spent, found.times.len());
    // What the server leaves is the client's and the kernel's.
    let processors = thread::available_parallelism().map_or(1, usize::from) as f64;
    let share = 100.0 * spent.as_secs_f64() / (found.elapsed.as_secs_f64() * processors);
    let server = format!("server {each} each, {share:.0} % of all processors");
    report::line(what, &format!("{}, {server}", found.summary()), target);
    report::line(&format!("{what}, bare TLS echo"), &bare.summary(), "-");
    Ok(())
}

/// Lists everything, and what a selector leaves of it; each once to warm up, then the best of three.
async fn lists(size: usize, server: &Connections, echoed: &Connections) -> anyhow::Result<()> {
    for (what, path, target) in [
        ("LIST of all", "/api/v1/pods?resourceVersion=0", "0.5 s at 150,000"),
        (
            "LIST, selector matches nothing",
            "/api/v1/pods?resourceVersion=0&labelSelector=app%3Dnothing",
            "5 ms at 300,000",
        ),
        ("LIST, one node's pods", "/api/v1/pods?resourceVersion=0&fieldSelector=spec.nodeName%3Dnode-7", "-"),
    ] {
        let (time, bytes) = best(server, path).await?;
        let found = format!("{} of {bytes} bytes", report::milliseconds(time));
        report::line(&format!("{size} pods: {what}"), &found, target);
        if bytes > 1_000_000 {
            let (time, _) = best(echoed, &format!("/{bytes}")).await?;
            report::line(&format!("{size} pods: {what}, bare TLS echo"), &report::milliseconds(time), "-");
        }
    }
    Ok(())
}

async fn best(connections: &Connections, path: &str) -> anyhow::Result<(Duration, usize)> {
    let mut best = (Duration::MAX, 0);
    for _ in 0..4 {
        let from = Instant::now();
        let bytes = connections.get(path).await?;
        best = best.min((from.elapsed(), bytes));
    }
    Ok(best)
}

/// What many lists at once add to the server's largest resident size.
async fn concurrent_lists(server: &Connections, pid: u32) -> anyhow::Result<()> {
    // Writing 5 sets the high-water mark of the resident set to what it is now.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the high-water mark")?;
    let before = high_water(pid)?;
    let lists = (0..LISTS).map(|_| server.get("/api/v1/pods?resourceVersion=0"));
    let bytes: usize = futures::future::try_join_all(lists).await?.into_iter().sum();
    let grown = high_water(pid)?.saturating_sub(before) as f64 / 1024.0;
    let what = format!("{LISTS} LISTs at once, {} MiB together", bytes / 1024 / 1024);
    report::line(&what, &format!("{grown:.1} MiB more"), "64 MiB for 10 of 1 GB");
    Ok(())
}

/// The largest resident set so far, in KiB.
fn high_water(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read the size")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.context("the process has no VmHWM")
}
