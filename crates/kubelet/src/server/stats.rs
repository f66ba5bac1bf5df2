//! Statistics of the node and its pods, from the runtime's own.
//!
//! `/stats/summary` (JSON) and `/metrics/resource` (Prometheus text). Asked for, never collected ahead.
//! Upstream: `pkg/kubelet/server/stats`, `pkg/kubelet/metrics/collectors/resource_metrics.go`.

use std::collections::BTreeMap;
use std::fmt::Write;

use cri::v1;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Body, Context, answer, json as json_answer};
use crate::node::info::meminfo;
use crate::pod::container::NAME;
use crate::pod::sandbox::{POD_NAME, POD_NAMESPACE, POD_UID};

/// One container's use.
struct Use {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    time: i64,
    cpu_nanoseconds: u64,
    cpu_nanocores: u64,
    memory: u64,
    disk: u64,
}

async fn containers(context: &Context) -> Result<Vec<Use>, tonic::Status> {
    let answer =
        context.node.runtime.raw().list_container_stats(v1::ListContainerStatsRequest::default()).await?;
    let stats = answer.into_inner().stats.into_iter().filter_map(|stats| {
        let attributes = stats.attributes?;
        let label = |key: &str| attributes.labels.get(key).cloned();
        let cpu = stats.cpu.unwrap_or_default();
        Some(Use {
            namespace: label(POD_NAMESPACE)?,
            pod: label(POD_NAME)?,
            uid: label(POD_UID)?,
            container: label(NAME)?,
            time: cpu.timestamp,
            cpu_nanoseconds: cpu.usage_core_nano_seconds.map_or(0, |value| value.value),
            cpu_nanocores: cpu.usage_nano_cores.map_or(0, |value| value.value),
            memory: stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value),
            disk: stats.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |value| value.value),
        })
    });
    Ok(stats.collect())
}

/// Processor time of the whole node in seconds, and memory in use in bytes.
fn node_use() -> (f64, i64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: u64 = stat
        .lines()
        .next()
        .into_iter()
        .flat_map(|line| line.split_whitespace().skip(1).take(8).enumerate())
        // Without idle and iowait.
        .filter(|(index, _)| *index != 3 && *index != 4)
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |key| meminfo(&memory, key).unwrap_or(0);
    // USER_HZ is 100 on every Linux that this runs on.
    (ticks as f64 / 100.0, get("MemTotal") - get("MemAvailable"))
}

fn failed(status: &tonic::Status) -> Response<Body> {
    answer(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to list container stats: {}", status.message()))
}

pub(super) async fn resource(context: &Context) -> Response<Body> {
    let containers = match containers(context).await {
        Ok(containers) => containers,
        Err(status) => return failed(&status),
    };
    let (cpu, memory) = node_use();
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: Vec<(String, String)>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let labels = |u: &Use| {
        format!("{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}", u.container, u.namespace, u.pod)
    };
    let each = |value: &dyn Fn(&Use) -> String| containers.iter().map(|u| (labels(u), value(u))).collect();
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        each(&|u| format!("{} {}", u.cpu_nanoseconds as f64 / 1e9, u.time / 1_000_000)),
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        each(&|u| format!("{} {}", u.memory, u.time / 1_000_000)),
    );
    let mut pods: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for u in &containers {
        let sum = pods.entry((u.namespace.clone(), u.pod.clone())).or_default();
        sum.0 += u.cpu_nanoseconds;
        sum.1 += u.memory;
    }
    let pod = |(namespace, pod): &(String, String)| format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        pods.iter().map(|(key, sum)| (pod(key), (sum.0 as f64 / 1e9).to_string())).collect(),
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        pods.iter().map(|(key, sum)| (pod(key), sum.1.to_string())).collect(),
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        vec![(String::new(), cpu.to_string())],
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        vec![(String::new(), memory.to_string())],
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        vec![(String::new(), "0".to_owned())],
    );
    answer(StatusCode::OK, out)
}

pub(super) async fn summary(context: &Context) -> Response<Body> {
    let containers = match containers(context).await {
        Ok(containers) => containers,
        Err(status) => return failed(&status),
    };
    let now = context.node.clock.now();
    let (cpu, memory) = node_use();
    let mut pods: BTreeMap<String, (Value, Vec<Value>, u64, u64)> = BTreeMap::new();
    for u in containers {
        let time = Timestamp::from_nanosecond(i128::from(u.time)).unwrap_or(now).to_string();
        let reference = json!({"name": u.pod, "namespace": u.namespace, "uid": u.uid});
        let pod = pods.entry(u.uid).or_insert_with(|| (reference, Vec::new(), 0, 0));
        pod.1.push(json!({
            "name": u.container,
            "cpu": {"time": time, "usageNanoCores": u.cpu_nanocores, "usageCoreNanoSeconds": u.cpu_nanoseconds},
            "memory": {"time": time, "workingSetBytes": u.memory},
            "rootfs": {"time": time, "usedBytes": u.disk},
        }));
        pod.2 += u.cpu_nanoseconds;
        pod.3 += u.memory;
    }
    let time = now.to_string();
    let pods: Vec<Value> = pods
        .into_values()
        .map(|(reference, containers, cpu, memory)| {
            json!({"podRef": reference, "containers": containers,
                "cpu": {"time": time, "usageCoreNanoSeconds": cpu}, "memory": {"time": time, "workingSetBytes": memory}})
        })
        .collect();
    json_answer(&json!({
        "node": {
            "nodeName": context.node.options.node_name,
            "cpu": {"time": time, "usageCoreNanoSeconds": (cpu * 1e9) as u64},
            "memory": {"time": time, "workingSetBytes": memory, "availableBytes": context.node.machine.memory - memory},
        },
        "pods": pods,
    }))
}
