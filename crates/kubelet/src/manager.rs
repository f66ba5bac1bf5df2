//! The pods of the node: one worker for each, fed by the API's watch and by the runtime's events.
//!
//! At start what the runtime already has is matched with what the API wants: the wanted is adopted as it runs, the rest
//! is stopped. Not here: what a worker does.
//! Upstream: `pkg/kubelet/kubelet.go` (`syncLoop`, `HandlePodCleanups`).

use std::collections::HashMap;
use std::sync::Arc;

use api::meta::ObjectMeta;
use api::types::core::v1::{Container, Pod, PodSpec};
use client::Change;
use foundation::Tasks;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::node::Node;
use crate::runtime::Found;
use crate::worker::actor::{Actor, Mailbox, Message, Snapshot};
use crate::worker::state::RuntimeState;
use crate::{admission, events, logs, pod};

/// The workers by UID. Clones are the same.
#[derive(Clone)]
pub struct Pods {
    node: Arc<Node>,
    workers: Arc<Mutex<HashMap<String, Worker>>>,
    /// Told whenever a worker comes or goes, so that the listing of runtimes without events knows when to look.
    pub(crate) activity: Arc<tokio::sync::Notify>,
}

struct Worker {
    mailbox: Mailbox,
    snapshot: watch::Receiver<Snapshot>,
    pod: Arc<Pod>,
    /// The API has it no more: what is left of it only comes down.
    gone: bool,
}

impl Pods {
    pub(crate) fn new(node: Arc<Node>) -> Pods {
        Pods { node, workers: Arc::default(), activity: Arc::default() }
    }

    /// The pods with their runtime state, for those who serve them.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.workers.lock().values().map(|worker| worker.snapshot.borrow().clone()).collect()
    }

    /// One pod by namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Snapshot> {
        let workers = self.workers.lock();
        let mut found =
            workers.values().filter(|w| pod::namespace(&w.pod) == namespace && pod::name(&w.pod) == name);
        // A pod and the remains of its namesake may both be here: the one that is not being deleted counts.
        let first = found.next()?;
        let best = found.find(|w| w.pod.metadata.deletion_timestamp.is_none()).unwrap_or(first);
        Some(best.snapshot.borrow().clone())
    }

    /// Completes when the container is at its end, or its pod is gone.
    pub async fn until_exited(&self, uid: &str, container: &str) {
        let Some(mut snapshot) = self.workers.lock().get(uid).map(|worker| worker.snapshot.clone()) else {
            return;
        };
        let exited = |snapshot: &Snapshot| {
            let record = snapshot.runtime.containers.iter().find(|record| record.id == container);
            record.is_none_or(|record| record.phase == crate::worker::state::Phase::Exited)
        };
        // An error means that the worker has ended, and the pod with it.
        let _ = snapshot.wait_for(exited).await;
    }

    /// Tells one worker.
    pub(crate) fn tell(&self, uid: &str, message: Message) {
        if let Some(worker) = self.workers.lock().get(uid) {
            // A worker that has just ended needs to hear nothing.
            let _ = worker.mailbox.send(message);
        }
    }

    /// Tells the worker of a pod that the API has it no more.
    fn lose(&self, pod: &Pod) {
        if let Some(worker) = self.workers.lock().get_mut(pod::uid(pod)) {
            worker.gone = true;
            // As in `tell`.
            let _ = worker.mailbox.send(Message::Gone);
        }
    }

    /// Asks every worker to look at the runtime.
    pub(crate) fn refresh_all(&self) {
        for worker in self.workers.lock().values() {
            let _ = worker.mailbox.send(Message::Refresh);
        }
    }

    /// Starts or informs the pod's worker.
    fn see(&self, pod: &Arc<Pod>, runtime: Option<RuntimeState>) {
        let uid = pod::uid(pod).to_owned();
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get_mut(&uid) {
            worker.pod = pod.clone();
            let _ = worker.mailbox.send(Message::Pod(pod.clone()));
            return;
        }
        let fresh = runtime.is_none();
        let (mailbox, inbox) = mpsc::unbounded_channel();
        let (sender, snapshot) =
            watch::channel(Snapshot { pod: Some(pod.clone()), runtime: RuntimeState::default() });
        let refused = if fresh && admission::undecided(pod) {
            // The scheduler counts as little what the API has no more: pods that were deleted by force come down while
            // others already have their place (upstream asks the pod manager, which has forgotten them).
            let present = workers.values().filter(|worker| !worker.gone);
            let others: Vec<Arc<Pod>> = present.map(|worker| worker.pod.clone()).collect();
            let limits = admission::Limits {
                allocatable: &self.node.allocatable,
                labels: &self.node.options.labels,
                allowed_sysctls: &self.node.options.allowed_unsafe_sysctls,
            };
            admission::check(pod, &others, limits).err()
        } else {
            None
        };
        let actor = Actor::new(
            self.node.clone(),
            pod.clone(),
            runtime.unwrap_or_default(),
            (mailbox.clone(), inbox),
            sender,
        );
        if let Some(refusal) = refused {
            let _ = mailbox.send(Message::Refuse { reason: refusal.reason, message: refusal.message });
        }
        workers.insert(uid.clone(), Worker { mailbox, snapshot, pod: pod.clone(), gone: false });
        drop(workers);
        self.activity.notify_one();
        let pods = self.clone();
        let (namespace, name) = (pod::namespace(pod).to_owned(), pod::name(pod).to_owned());
        let token = self.node.tasks.token();
        self.node.tasks.spawn("pod-worker", async move {
            let ended = token.run_until_cancelled(actor.run()).await.is_some();
            pods.workers.lock().remove(&uid);
            pods.activity.notify_one();
            if ended {
                tracing::debug!(uid, "a pod's worker has ended");
                // What was told while it cleaned up nobody has heard: the cache knows how the object is now.
                let found = pods.node.pods.get(Some(&namespace), &name).filter(|pod| pod::uid(pod) == uid);
                if let Some(pod) = found.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                    pods.see(&pod, None);
                }
            }
        });
    }
}

/// Adopts what runs, then follows the API and the runtime.
pub(crate) fn run(node: Arc<Node>, pods: Pods, tasks: &Tasks) {
    let follow = pods.clone();
    let about = node.clone();
    tasks.spawn_until_cancelled("kubelet", async move {
        let mut changes = about.pods.subscribe();
        about.pods.synced().await;
        about.services.synced().await;
        adopt(&about, &follow).await;
        loop {
            match changes.recv().await {
                Change::Added(pod) | Change::Updated { new: pod, .. } => follow.see(&pod, None),
                Change::Deleted(pod) => follow.lose(&pod),
            }
        }
    });
    events::run(node.clone(), pods.clone(), tasks);
    logs::rotation::run(node, pods, tasks);
}

/// Matches what the runtime has with what the API wants.
async fn adopt(node: &Arc<Node>, pods: &Pods) {
    let found = loop {
        match node.runtime.pods().await {
            Ok(found) => break found,
            Err(error) => {
                tracing::warn!(%error, "the container runtime was not asked what runs");
                node.clock.sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    };
    for Found { uid, namespace, name, state } in found {
        let wanted = node.pods.get(Some(&namespace), &name).filter(|pod| pod::uid(pod) == uid);
        match wanted {
            Some(pod) => pods.see(&pod, Some(state)),
            None => {
                tracing::info!(uid, namespace, name, "stopping a pod that nobody wants");
                let orphan = Arc::new(orphan(&uid, &namespace, &name, &state));
                pods.see(&orphan, Some(state));
                pods.lose(&orphan);
            }
        }
    }
}

/// A pod of which only the runtime knows: enough of an object to stop it with.
fn orphan(uid: &str, namespace: &str, name: &str, state: &RuntimeState) -> Pod {
    let containers: std::collections::BTreeSet<&str> =
        state.containers.iter().map(|c| c.name.as_str()).collect();
    let grace = state.containers.iter().find_map(|c| c.annotations.get(pod::container::GRACE)?.parse().ok());
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: containers
                .iter()
                .map(|n| Container { name: (*n).to_owned(), ..Container::default() })
                .collect(),
            termination_grace_period_seconds: grace,
            ..PodSpec::default()
        }),
        status: None,
    }
}
