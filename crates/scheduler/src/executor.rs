//! The one place of the scheduler with I/O: hears of pods and nodes, runs cycles, binds, reports.
//!
//! Reads Pods and Nodes through the informers; writes `pods/binding`, the `PodScheduled` condition and Events. Binding
//! runs beside the next cycles: the pod is assumed to be on its node meanwhile, and forgotten there if binding fails.
//! Not here: decisions (`cycle`), order (`queue`).
//!
//! Upstream: pkg/scheduler/{scheduler,schedule_one,eventhandlers}.go.

mod bind;
mod metrics;
mod preempt;
mod surroundings;

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use api::types::core::v1::{Node, PersistentVolumeClaim, Pod};
use client::{Change, Client, EventRecorder, EventType, Informer, Informers, Patch, RecorderOptions};
use foundation::{SharedClock, SharedRandomness, Tasks};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    cluster::{Cluster, PodInfo},
    cycle::{self, Outcome, Unschedulable},
    framework::{Binding, CycleState, Event, Preparation, Weighted},
    plugins,
    queue::Queue,
    volumes::wanted,
};

use self::{
    metrics::{Ended, Metrics},
    preempt::Preemption,
    surroundings::{Surrounding, Surroundings},
};

/// Bindings that ask the server at the same time, at most. Those that wait for volumes ask nothing, and are not counted: a
/// provisioner that does not answer must not keep others' pods from being scheduled, its own above all.
const BINDINGS: usize = 256;

/// What the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `schedulerName` of the pods that are its own.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "default-scheduler".into() }
    }
}

/// Starts the scheduler.
pub fn start(
    options: Options,
    client: Client,
    informers: &Informers,
    tasks: &Tasks,
    clock: SharedClock,
    randomness: SharedRandomness,
) {
    let profile = plugins::default_profile();
    let (scheduler, bound) = Scheduler::new(options, profile, client, informers, tasks, clock, randomness);
    let surroundings = Surroundings::new(informers);
    tasks.spawn_until_cancelled("scheduler", scheduler.run(bound, surroundings));
}

/// What became of a binding.
struct Bound {
    pod: PodInfo,
    node: String,
    outcome: Result<(), bind::Error>,
    state: CycleState,
    /// When the attempt began.
    began: Duration,
    /// How often the pod was tried, and when it was first queued.
    history: Option<(u32, Duration)>,
}

struct Scheduler {
    options: Options,
    client: Client,
    recorder: EventRecorder,
    tasks: Tasks,
    clock: SharedClock,
    randomness: SharedRandomness,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    profile: Arc<[Weighted]>,
    cluster: Cluster,
    queue: Queue,
    start: usize,
    results: mpsc::Sender<Bound>,
    slots: Arc<Semaphore>,
    metrics: Metrics,
    /// When the attempt under way began.
    began: Duration,
}

impl Scheduler {
    fn new(
        options: Options,
        profile: Vec<Weighted>,
        client: Client,
        informers: &Informers,
        tasks: &Tasks,
        clock: SharedClock,
        randomness: SharedRandomness,
    ) -> (Self, mpsc::Receiver<Bound>) {
        let component = RecorderOptions::component(&options.name);
        let recorder = EventRecorder::new(client.clone(), tasks, clock.clone(), component);
        let (results, bound) = mpsc::channel(BINDINGS);
        let scheduler = Self {
            pods: informers.informer::<Pod>(),
            nodes: informers.informer::<Node>(),
            claims: informers.informer::<PersistentVolumeClaim>(),
            metrics: Metrics::new(&options.name),
            began: Duration::ZERO,
            options,
            client,
            recorder,
            tasks: tasks.clone(),
            clock,
            randomness,
            profile: profile.into(),
            cluster: Cluster::default(),
            queue: Queue::default(),
            start: 0,
            results,
            slots: Arc::new(Semaphore::new(BINDINGS)),
        };
        (scheduler, bound)
    }

    async fn run(mut self, mut bound: mpsc::Receiver<Bound>, mut surroundings: Surroundings) {
        let mut pods = self.pods.subscribe();
        let mut nodes = self.nodes.subscribe();
        tokio::join!(self.pods.synced(), self.nodes.synced(), surroundings.synced());
        loop {
            while let Some(change) = surroundings.try_recv() {
                self.surroundings_changed(&change);
            }
            // Nodes first: a pod that is told of together with its node must find it.
            while let Some(change) = nodes.try_recv() {
                self.node_changed(&change);
            }
            while let Some(change) = pods.try_recv() {
                self.pod_changed(change);
            }
            while let Ok(result) = bound.try_recv() {
                self.bound(result);
            }
            let is_full = self.slots.available_permits() == 0;
            if !is_full && let Some(pod) = self.queue.pop(self.clock.monotonic()) {
                self.schedule_contained(pod);
                // Long queues must not keep the process's other tasks from running.
                tokio::task::yield_now().await;
                continue;
            }
            self.metrics.pending(self.queue.counts());
            // When all slots are taken there is no use in what becomes due, but in the next one that gets free.
            let due = self.queue.next_deadline().filter(|_| !is_full);
            let wait = due.map(|until| until.saturating_sub(self.clock.monotonic()));
            let slots = self.slots.clone();
            tokio::select! {
                change = nodes.recv() => self.node_changed(&change),
                change = pods.recv() => self.pod_changed(change),
                change = surroundings.recv() => self.surroundings_changed(&change),
                Some(result) = bound.recv() => self.bound(result),
                _ = slots.acquire(), if is_full => {}
                () = sleep(&self.clock, wait) => {}
            }
        }
    }

    fn happened(&mut self, event: &Event<'_>) {
        self.queue.happened(event, &self.profile, self.clock.monotonic());
    }

    fn surroundings_changed(&mut self, change: &Surrounding) {
        if let Some(event) = Surroundings::count(change, &mut self.cluster) {
            self.happened(&event);
        }
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        let (Change::Added(node) | Change::Updated { new: node, .. } | Change::Deleted(node)) = change;
        self.contained(&client::key_of(&**node), |scheduler| scheduler.count_node(change));
    }

    fn count_node(&mut self, change: &Change<Node>) {
        match change {
            Change::Added(node) => {
                self.cluster.set_node(node.clone());
                self.happened(&Event::NodeAdded(node));
            }
            Change::Updated { old, new } => {
                self.cluster.set_node(new.clone());
                self.happened(&Event::NodeUpdated(old, new));
            }
            Change::Deleted(node) => {
                self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                self.happened(&Event::NodeGone(node));
            }
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        let (Change::Added(pod) | Change::Updated { new: pod, .. } | Change::Deleted(pod)) = &change;
        let key = client::key_of(&**pod);
        self.contained(&key, |scheduler| match change {
            Change::Added(pod) => scheduler.pod_set(None, pod),
            Change::Updated { old, new } => scheduler.pod_set(Some(old), new),
            Change::Deleted(pod) => scheduler.pod_gone(&pod),
        });
    }

    fn pod_set(&mut self, old: Option<Arc<Pod>>, new: Arc<Pod>) {
        if is_finished(&new) {
            return self.pod_gone(&new);
        }
        let uid = new.metadata.uid.clone().unwrap_or_default();
        if let Some(node) = node_of(&new) {
            self.queue.remove(&uid);
            self.cluster.forget_nomination(&uid);
            let after = PodInfo::new(new.clone());
            match self.cluster.set_pod(after.clone(), node) {
                None => self.happened(&Event::AssignedPodAdded(&after)),
                Some(before)
                    if before.requests != after.requests
                        || before.pod.metadata.labels != new.metadata.labels =>
                {
                    self.happened(&Event::AssignedPodUpdated(&before, &after));
                }
                Some(_) => {}
            }
            return;
        }
        let ours =
            new.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        if ours != self.options.name || new.metadata.deletion_timestamp.is_some() {
            self.cluster.forget_nomination(&uid);
            return self.queue.remove(&uid);
        }
        if let Some(node) = new.status.as_ref().and_then(|status| status.nominated_node_name.as_deref())
            && !node.is_empty()
        {
            self.cluster.nominate(&PodInfo::new(new.clone()), Some(node));
        }
        let now = self.clock.monotonic();
        let gated = match &old {
            Some(old) => self.queue.update(old, new, &self.profile, now),
            None => self.queue.add(new, &self.profile, now),
        };
        if let Some((pod, rejection)) = gated {
            // The API server has set the condition; only its absence is worth a write.
            tracing::debug!(pod = %client::key_of(&*pod), reason = ?rejection.reasons, "pod is gated");
        }
    }

    fn pod_gone(&mut self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.queue.remove(uid);
        self.cluster.forget_nomination(uid);
        if let Some(gone) = self.cluster.remove_pod(uid) {
            self.happened(&Event::AssignedPodGone(&gone));
        }
    }

    /// Runs one step that concerns `pod` (or whatever `what` names). A panic in it, a plugin's that trips over an
    /// object, ends the step and not the scheduler: true if it came to its end.
    fn contained(&mut self, what: &str, step: impl FnOnce(&mut Self)) -> bool {
        // The panic hook has said where it was. What the step leaves half done is one pod's or one node's count, which
        // the next event of that object sets right.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| step(self)));
        if outcome.is_err() {
            tracing::error!(what, "the scheduler panicked over an object");
            self.metrics.attempted(Ended::Error, Duration::ZERO);
        }
        outcome.is_ok()
    }

    fn schedule_contained(&mut self, pod: PodInfo) {
        let (key, uid) = (pod.key(), pod.uid().to_owned());
        if !self.contained(&key, |scheduler| scheduler.schedule(pod)) {
            self.queue.failed(&uid, BTreeSet::new(), self.clock.monotonic());
        }
    }

    fn schedule(&mut self, pod: PodInfo) {
        let randomness = &*self.randomness;
        self.began = self.clock.monotonic();
        let outcome = cycle::schedule(&pod, &mut self.cluster, &self.profile, &mut self.start, randomness);
        self.metrics.decided(self.clock.monotonic().saturating_sub(self.began));
        match outcome {
            Outcome::Unschedulable(why) => self.refused(&pod, why),
            Outcome::Placed { node, state } => self.placed(pod, node, state),
        }
    }

    fn placed(&mut self, pod: PodInfo, node: String, state: CycleState) {
        let Some(info) = self.cluster.nodes().get(&node) else { return };
        let reserve = |weighted: &Weighted| {
            weighted.plugin.reserve(&state, &pod, info)?;
            weighted.plugin.permit(&state, &pod, info)?;
            weighted.plugin.pre_bind(&state, &pod, info)
        };
        if let Err(rejection) = self.profile.iter().try_for_each(reserve) {
            for weighted in self.profile.iter().rev() {
                weighted.plugin.unreserve(&state, &pod);
            }
            let message = format!(
                "0/{} nodes are available: {}.",
                self.cluster.nodes().len(),
                rejection.reasons.join(", ")
            );
            let plugins = BTreeSet::from([rejection.plugin]);
            return self.refused(&pod, Unschedulable { message, plugins, ..Unschedulable::default() });
        }
        let Some(Binding::ByApi) = self.profile.iter().find_map(|weighted| weighted.plugin.bind(&pod, info))
        else {
            tracing::error!(pod = %pod.key(), "no plugin binds pods");
            return self.queue.failed(pod.uid(), BTreeSet::new(), self.clock.monotonic());
        };
        let prepare = |weighted: &Weighted| weighted.plugin.prepare(&pod, info, &self.cluster);
        let preparations: Vec<Preparation> = self.profile.iter().flat_map(prepare).collect();
        for preparation in &preparations {
            if let Preparation::BindVolume { volume, claim } = preparation {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                self.cluster.volumes_mut().give(name, claim);
            }
        }
        self.cluster.forget_nomination(pod.uid());
        self.cluster.set_pod(pod.clone(), &node);
        // None only if a binding that waited has just taken the last one: then this one waits in its stead.
        let mut slot = self.slots.clone().try_acquire_owned().ok();
        let slots = self.slots.clone();
        let (client, results) = (self.client.clone(), self.results.clone());
        let (claims, clock, began) = (self.claims.clone(), self.clock.clone(), self.began);
        // Now: the informer may tell of the pod on its node, and the queue forget it, before the binding is answered.
        let history = self.queue.history(pod.uid());
        self.tasks.spawn_until_cancelled("scheduler", async move {
            let work = bind::Work { preparations: &preparations, pod: &pod.pod, node: &node };
            let outcome = bind::bind(&client, &claims, &clock, &slots, &mut slot, work).await;
            // The receiver ends with the scheduler itself.
            let _ = results.send(Bound { pod, node, outcome, state, began, history }).await;
        });
    }

    fn bound(&mut self, result: Bound) {
        let Bound { pod, node, outcome, state, began, history } = result;
        let now = self.clock.monotonic();
        match outcome {
            Ok(()) => {
                self.metrics.attempted(Ended::Scheduled, now.saturating_sub(began));
                if let Some((tries, since)) = history {
                    self.metrics.scheduled(tries, now.saturating_sub(since));
                }
                self.queue.remove(pod.uid());
                let message = format!("Successfully assigned {} to {node}", pod.key());
                self.recorder.event(&*pod.pod, EventType::Normal, "Scheduled", message);
                for weighted in self.profile.iter() {
                    weighted.plugin.post_bind(&pod.pod, &node);
                }
                self.happened(&Event::AssignedPodAdded(&pod));
            }
            Err(error) => {
                self.metrics.attempted(Ended::Error, now.saturating_sub(began));
                for weighted in self.profile.iter().rev() {
                    weighted.plugin.unreserve(&state, &pod);
                }
                let namespace = pod.pod.metadata.namespace.as_deref().unwrap_or_default();
                self.cluster.volumes_mut().take_back(namespace, &wanted(&pod.pod));
                // The informer may have told of the pod on its node already: then it stays counted.
                let seen = self.pods.get_key(&pod.key());
                if seen.as_deref().and_then(node_of).is_none() {
                    self.cluster.remove_pod(pod.uid());
                    self.happened(&Event::AssignedPodGone(&pod));
                }
                if seen.is_none() || error.is_not_found() {
                    return self.queue.remove(pod.uid());
                }
                tracing::info!(pod = %pod.key(), %node, %error, "binding failed");
                let message = format!("binding rejected: {error}");
                self.recorder.event(&*pod.pod, EventType::Warning, "FailedScheduling", message);
                self.queue.failed(pod.uid(), BTreeSet::new(), self.clock.monotonic());
            }
        }
    }

    fn refused(&mut self, pod: &PodInfo, why: Unschedulable) {
        self.metrics.attempted(Ended::Unschedulable, self.clock.monotonic().saturating_sub(self.began));
        self.preempt(pod, &why);
        self.queue.failed(pod.uid(), why.plugins, self.clock.monotonic());
        self.recorder.event(&*pod.pod, EventType::Warning, "FailedScheduling", why.message.clone());
        let conditions = pod.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let known = conditions.into_iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable")
                && condition.message.as_deref() == Some(&why.message)
        });
        let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
        let nominated = nominated.filter(|node| !node.is_empty());
        if known && nominated == why.nominated_node.as_deref() {
            return;
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why.message,
            "lastTransitionTime": self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let mut status = json!({"conditions": [condition]});
        if nominated != why.nominated_node.as_deref() {
            // None takes it away.
            status["nominatedNodeName"] = json!(why.nominated_node);
        }
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        let (client, pod) = (self.client.clone(), pod.pod.clone());
        self.tasks.spawn_until_cancelled("scheduler", async move {
            let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
            if let Err(error) = client.patch_status::<Pod>(namespace, name.unwrap_or_default(), &patch).await
                && !error.is_not_found()
            {
                tracing::warn!(pod = %client::key_of(&*pod), %error, "cannot write the pod's condition");
            }
        });
    }
}

impl Scheduler {
    /// Lets the victims go, and keeps their room for the pod.
    fn preempt(&mut self, pod: &PodInfo, why: &Unschedulable) {
        self.cluster.nominate(pod, why.nominated_node.as_deref());
        let Some(node) = &why.nominated_node else { return };
        self.metrics.preempted(why.victims.len());
        for victim in &why.victims {
            let preemption = Preemption {
                victim: victim.clone(),
                preemptor: pod.clone(),
                node: node.clone(),
                now: self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            };
            let (client, recorder) = (self.client.clone(), self.recorder.clone());
            self.tasks.spawn_until_cancelled("scheduler", async move {
                preempt::preempt(&client, &recorder, preemption).await;
            });
        }
    }
}

async fn sleep(clock: &SharedClock, wait: Option<Duration>) {
    match wait {
        Some(wait) => clock.sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
