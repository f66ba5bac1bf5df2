//! What one object may do to the scheduling of the others: nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use client::fake::FakeApi;
use foundation::{ManualClock, SeededRandomness};

use super::*;
use crate::framework::testing::{node, pod_with};
use crate::framework::{Hint, Plugin, Rejection};
use crate::{cluster::NodeInfo, plugins::default_profile};

/// Trips over pods named `bad`, refuses those named `waiting`, and counts how often it is asked for hints.
struct Tripping(Arc<AtomicUsize>);

impl Plugin for Tripping {
    fn name(&self) -> &'static str {
        "Tripping"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, _: &NodeInfo, _: &Cluster) -> Result<(), Rejection> {
        match pod.uid() {
            "bad" => panic!("a plugin trips over an object"),
            "waiting" => Err(Rejection::new(self.name(), "not now")),
            _ => Ok(()),
        }
    }

    fn hint(&self, _: &PodInfo, _: &Event<'_>) -> Hint {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hint::Skip
    }
}

struct Fixture {
    scheduler: Scheduler,
    hints: Arc<AtomicUsize>,
    _bound: mpsc::Receiver<Bound>,
}

fn fixture() -> Fixture {
    let (client, tasks) = (FakeApi::new().client(), Tasks::new("test"));
    let clock: SharedClock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
    let informers = Informers::new(client.clone(), &tasks, clock.clone());
    let hints = Arc::new(AtomicUsize::new(0));
    let mut profile = default_profile();
    profile.push(Weighted { plugin: Box::new(Tripping(hints.clone())), weight: 0 });
    let randomness = Arc::new(SeededRandomness::new(1));
    let (mut scheduler, _bound) =
        Scheduler::new(Options::default(), profile, client, &informers, &tasks, clock, randomness);
    scheduler.node_changed(&Change::Added(node("n", "4", "4Gi")));
    Fixture { scheduler, hints, _bound }
}

fn named(uid: &str, node: Option<&str>, labels: serde_json::Value) -> Arc<Pod> {
    let mut pod = (*pod_with(json!({"nodeName": node})).pod).clone();
    (pod.metadata.name, pod.metadata.uid) = (Some(uid.into()), Some(uid.into()));
    pod.metadata.labels = serde_json::from_value(labels).unwrap();
    Arc::new(pod)
}

#[tokio::test]
async fn a_pod_that_a_plugin_trips_over_does_not_stop_the_others() {
    let Fixture { mut scheduler, _bound, .. } = fixture();
    for uid in ["bad", "good"] {
        scheduler.pod_changed(Change::Added(named(uid, None, json!({}))));
    }
    let now = scheduler.clock.monotonic();
    while let Some(pod) = scheduler.queue.pop(now) {
        scheduler.schedule_contained(pod);
    }
    assert!(scheduler.cluster.nodes()["n"].pods.contains_key("good"));
    assert_eq!(
        scheduler.queue.counts(),
        [0, 1, 0, 0],
        "one is being bound and waits no more, the bad one backs off"
    );
    let due = scheduler.queue.next_deadline().unwrap();
    assert_eq!(scheduler.queue.pop(due).map(|pod| pod.uid().to_owned()).as_deref(), Some("bad"));
}

#[tokio::test]
async fn a_pods_status_wakes_nobody() {
    let Fixture { mut scheduler, hints, _bound } = fixture();
    scheduler.pod_changed(Change::Added(named("waiting", None, json!({}))));
    let pod = scheduler.queue.pop(scheduler.clock.monotonic()).unwrap();
    scheduler.schedule_contained(pod);
    assert_eq!(scheduler.queue.counts(), [0, 0, 1, 0]);
    let first = named("running", Some("n"), json!({}));
    scheduler.pod_changed(Change::Added(first.clone()));
    let mut reported = (*first).clone();
    reported.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
    let reported = Arc::new(reported);
    scheduler.pod_changed(Change::Updated { old: first, new: reported.clone() });
    assert_eq!(hints.load(Ordering::Relaxed), 0, "nothing that others depend on has changed");
    let relabelled = named("running", Some("n"), json!({"app": "x"}));
    scheduler.pod_changed(Change::Updated { old: reported, new: relabelled.clone() });
    assert_eq!(hints.load(Ordering::Relaxed), 1);
    scheduler.pod_changed(Change::Deleted(relabelled));
    assert_eq!(hints.load(Ordering::Relaxed), 2);
}
