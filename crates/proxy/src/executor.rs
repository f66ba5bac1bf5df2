//! Watches Services and EndpointSlices, plans what changed, tells the kernel.
//!
//! Reads the informers; writes through [`Kernel`] in the network namespace of the process. Waits for both caches
//! before the first transaction, so that a restart never takes rules away. Not here: decisions (`plan`).

use std::{collections::BTreeSet, time::Duration};

use api::types::{core::v1::Service, discovery::v1::EndpointSlice};
use client::{Change, Informer, Informers};
use foundation::{SharedClock, Tasks, metrics};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    kernel::Kernel,
    plan::{self, Here, ServicePlan},
    ruleset::Settings,
};

/// The label that names an EndpointSlice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A Service with this label belongs to another proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
// Names of indexes are shared by all users of an informer.
const BY_SERVICE: &str = "proxy/service";
/// First and longest wait before a refused transaction is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Upstream's bounds of a sync, in seconds.
const SYNC: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
/// Bounds of the time from a change of endpoints to its rules, in seconds; a selection of upstream's.
const PROGRAMMING: &[f64] =
    &[0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0];
/// Changes whose time is kept while they are not yet in the rules, at most.
const TRIGGERS: usize = 1000;

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node.
    pub node_name: String,
    /// Network of all pods: address and prefix length.
    pub cluster_cidr: (std::net::Ipv4Addr, u8),
}

/// A running proxy.
#[derive(Debug)]
pub struct Handle {
    synced: watch::Receiver<bool>,
}

impl Handle {
    /// Waits until the rules have been written for the first time.
    pub async fn ready(&mut self) {
        // The sender lives as long as the proxy's task; when that ends there is nothing to wait for.
        let _ = self.synced.wait_for(|synced| *synced).await;
    }
}

/// Starts the proxy. Fails when the kernel has no nftables or refuses access.
pub fn start(
    options: &Options,
    informers: &Informers,
    tasks: &Tasks,
    clock: SharedClock,
) -> Result<Handle, sys::netlink::Error> {
    let kernel = Kernel::open(Settings { cluster_cidr: options.cluster_cidr })?;
    let services = informers.informer::<Service>();
    let slices = informers.informer::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| service_key(slice).into_iter().collect());
    let (sender, synced) = watch::channel(false);
    let here = Here { node_name: options.node_name.clone() };
    let proxy = Proxy { kernel, services, slices, here };
    tasks.spawn_until_cancelled("proxy", proxy.run(sender, clock));
    Ok(Handle { synced })
}

/// Removes the proxy's rules from the calling thread's network namespace.
pub fn uninstall() -> Result<(), sys::netlink::Error> {
    Kernel::open(Settings { cluster_cidr: (std::net::Ipv4Addr::UNSPECIFIED, 0) })?.remove()
}

fn service_key(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(client::cache_key(slice.metadata.namespace.as_deref(), name))
}

struct Proxy {
    kernel: Kernel,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    here: Here,
}

impl Proxy {
    async fn run(self, synced: watch::Sender<bool>, clock: SharedClock) {
        let mut kernel = self.kernel;
        let mut service_changes = self.services.subscribe();
        let mut slice_changes = self.slices.subscribe();
        tokio::join!(self.services.synced(), self.slices.synced());
        let latency = metrics::registry().histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "How long planning and writing one set of changes took, in seconds.",
            &["ip_family"],
            SYNC,
        );
        let latency = latency.with(&["IPv4"]);
        let gauge = |name, help| metrics::registry().gauge(name, help, &["ip_family"]).with(&["IPv4"]);
        let last = gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When rules were last written, in seconds since 1970.",
        );
        let queued = gauge(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When changes were last seen, in seconds since 1970.",
        );
        let programming = metrics::registry().histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From a change of a Service's endpoints to its rules, in seconds.",
            &["ip_family"],
            PROGRAMMING,
        );
        let mut triggers = Triggers::default();
        let began = clock.now();
        let mut dirty: BTreeSet<String> = BTreeSet::new();
        let mut wait = RETRY.0;
        loop {
            while let Some(change) = service_changes.try_recv() {
                dirty.insert(changed_service(&change));
            }
            while let Some(change) = slice_changes.try_recv() {
                triggers.note(&change);
                dirty.extend(changed_slices(&change));
            }
            // The first transaction is written even for no Service: it holds the fixed rules.
            if dirty.is_empty() && *synced.borrow() {
                tokio::select! {
                    change = service_changes.recv() => { dirty.insert(changed_service(&change)); }
                    change = slice_changes.recv() => {
                        triggers.note(&change);
                        dirty.extend(changed_slices(&change));
                    }
                }
                continue;
            }
            let started = clock.monotonic();
            queued.set(clock.now().as_second() as f64);
            let changes = dirty
                .iter()
                .map(|key| (key.clone(), plan_of(&self.services, &self.slices, &self.here, key)))
                .collect();
            // A large transaction takes the kernel a while, in which this thread has other things to do.
            let applied = tokio::task::spawn_blocking(move || {
                let outcome = kernel.apply(changes);
                (kernel, outcome)
            });
            let outcome;
            (kernel, outcome) = match applied.await {
                Ok(applied) => applied,
                // It took the kernel's state with it: without it nothing can be applied.
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return, // the process ends
                },
            };
            match outcome {
                Ok(()) => {
                    latency.observe_duration(clock.monotonic().saturating_sub(started));
                    let now = clock.now();
                    last.set(now.as_second() as f64);
                    // What happened before this proxy was there is none of its delays.
                    for trigger in triggers.take().filter(|trigger| *trigger >= began) {
                        let took = now.duration_since(trigger).max(jiff::SignedDuration::ZERO);
                        programming.with(&["IPv4"]).observe_duration(took.unsigned_abs());
                    }
                    tracing::debug!(services = ?dirty, slices = self.slices.len(), "synced proxy rules");
                    dirty.clear();
                    wait = RETRY.0;
                    synced.send_replace(true);
                }
                Err(error) => {
                    tracing::error!(%error, "failed to sync proxy rules, trying again");
                    clock.sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }
}

fn plan_of(
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
    here: &Here,
    key: &str,
) -> ServicePlan {
    let Some(service) = services.get_key(key) else { return ServicePlan::default() };
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY)) {
        return ServicePlan::default();
    }
    plan::plan(&service, &slices.by_index(BY_SERVICE, key), here)
}

/// When that happened which has made EndpointSlices change, by their Services, as long as it is not yet in the rules.
#[derive(Default)]
struct Triggers(Vec<(Option<String>, Timestamp)>);

impl Triggers {
    /// Notes what the slice's controller says. A slice that is gone names what made it change last, not what made it go:
    /// of its Service nothing is measured.
    fn note(&mut self, change: &Change<EndpointSlice>) {
        let slice = change.object();
        let service = service_key(slice);
        if matches!(change, Change::Deleted(_)) {
            return self.0.retain(|(known, _)| *known != service);
        }
        let annotations = slice.metadata.annotations.as_ref();
        let time = annotations.and_then(|all| all.get("endpoints.kubernetes.io/last-change-trigger-time"));
        if let Some(time) = time.and_then(|time| time.parse().ok())
            && self.0.len() < TRIGGERS
        {
            self.0.push((service, time));
        }
    }

    fn take(&mut self) -> impl Iterator<Item = Timestamp> {
        self.0.drain(..).map(|(_, time)| time)
    }
}

fn changed_service(change: &Change<Service>) -> String {
    client::key_of(&**change.object()).to_string()
}

fn changed_slices(change: &Change<EndpointSlice>) -> Vec<String> {
    // A slice may be given to another Service: both are planned again.
    match change {
        Change::Updated { old, new } => service_key(old).into_iter().chain(service_key(new)).collect(),
        other => service_key(other.object()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_slice_that_is_gone_delays_nothing() {
        let slice = |service: &str, time: Option<&str>| -> Arc<EndpointSlice> {
            let annotations =
                time.map(|time| json!({"endpoints.kubernetes.io/last-change-trigger-time": time}));
            let metadata = json!({"name": "s", "namespace": "n", "labels": {SERVICE_NAME: service},
                "annotations": annotations});
            let value = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let (one, two) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z");
        let (a, b, silent) = (slice("a", Some(one)), slice("b", Some(two)), slice("b", None));
        let mut triggers = Triggers::default();
        for change in [
            Change::Added(a.clone()),
            Change::Updated { old: silent.clone(), new: b.clone() },
            Change::Added(silent),
            Change::Deleted(a),
        ] {
            triggers.note(&change);
        }
        let left: Vec<String> = triggers.take().map(|time| time.to_string()).collect();
        assert_eq!(left, [two], "of the other Service");
        assert_eq!(triggers.take().count(), 0, "each once");
    }
}
