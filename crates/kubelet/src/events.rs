//! What happens in the runtime, told to the workers.
//!
//! A runtime with `GetContainerEvents` tells each change with the pod's whole state, so nothing is ever asked. One
//! without it (containerd before 1.7) is listed: once a second in the half minute after a pod came, went or changed,
//! and every ten seconds otherwise, which bounds how late an unexpected exit is seen; two calls per listing.
//! Upstream: `pkg/kubelet/pleg`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use foundation::Tasks;

use crate::manager::Pods;
use crate::metrics;
use crate::node::Node;
use crate::pod::sandbox::POD_UID;
use crate::worker::actor::Message;
use crate::worker::state::{ContainerRecord, SandboxRecord};

const BUSY: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(10);
const CALM_AFTER: Duration = Duration::from_secs(30);
const RECONNECT: Duration = Duration::from_millis(500);

pub(crate) fn run(node: Arc<Node>, pods: Pods, tasks: &Tasks) {
    tasks.spawn_until_cancelled("kubelet", async move {
        loop {
            match follow(&node, &pods).await {
                Ok(()) => {}
                Err(status) if status.code() == tonic::Code::Unimplemented => break,
                Err(status) => tracing::debug!(%status, "container events ended"),
            }
            node.clock.sleep(RECONNECT).await;
        }
        tracing::info!("the container runtime has no events: it is listed instead");
        list(&node, &pods).await;
    });
}

/// Follows the runtime's events until the stream ends.
async fn follow(node: &Node, pods: &Pods) -> Result<(), tonic::Status> {
    let mut stream =
        node.runtime.raw().get_container_events(v1::GetEventsRequest::default()).await?.into_inner();
    // What happened before the stream was there, and while it was broken.
    pods.refresh_all();
    while let Some(event) = stream.message().await? {
        metrics::heard(node.clock.now().as_second());
        let sandbox = event.pod_sandbox_status;
        let uid = sandbox
            .as_ref()
            .and_then(|status| status.metadata.as_ref())
            .map(|metadata| metadata.uid.clone())
            .or_else(|| {
                event.containers_statuses.iter().find_map(|status| status.labels.get(POD_UID).cloned())
            });
        match uid {
            Some(uid) => {
                let sandbox = sandbox.as_ref().map(SandboxRecord::from_cri);
                let containers = event.containers_statuses.iter().map(ContainerRecord::from_cri).collect();
                pods.tell(&uid, Message::Runtime(sandbox, containers));
            }
            // A deletion may carry no state; it is this kubelet that deletes, so nothing is news in it.
            None if event.container_event_type == v1::ContainerEventType::ContainerDeletedEvent as i32 => {}
            None => pods.refresh_all(),
        }
    }
    Ok(())
}

/// Lists the runtime again and again, and asks about the pods that look different.
async fn list(node: &Node, pods: &Pods) {
    let mut known: HashMap<String, (String, i32)> = HashMap::new();
    let mut changed_at = node.clock.monotonic();
    let mut listings = Listings::default();
    loop {
        let began = node.clock.monotonic();
        let listed = snapshot(node).await;
        let took = node.clock.monotonic().saturating_sub(began);
        metrics::relisted(took, listings.ended(began, listed.is_ok()));
        match listed {
            Ok(now) => {
                metrics::heard(node.clock.now().as_second());
                let different = |(id, entry): &(&String, &(String, i32))| known.get(*id) != Some(*entry);
                let gone = known.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, (uid, _))| uid);
                let mut uids: Vec<String> =
                    now.iter().filter(different).map(|(_, (uid, _))| uid).chain(gone).cloned().collect();
                uids.sort();
                uids.dedup();
                for uid in &uids {
                    changed_at = node.clock.monotonic();
                    pods.tell(uid, Message::Refresh);
                }
                known = now;
            }
            Err(status) => tracing::debug!(%status, "the runtime was not listed"),
        }
        let calm = node.clock.monotonic().saturating_sub(changed_at) > CALM_AFTER;
        tokio::select! {
            () = node.clock.sleep(if calm { QUIET } else { BUSY }) => {}
            () = pods.activity.notified(), if calm => changed_at = node.clock.monotonic(),
        }
    }
}

/// When the runtime was last listed.
#[derive(Default)]
struct Listings(Option<Duration>);

impl Listings {
    /// An attempt that began then has ended. Returns the time since the last one that worked, however often a dead runtime
    /// was tried meanwhile.
    fn ended(&mut self, began: Duration, worked: bool) -> Option<Duration> {
        let since = self.0.map(|last| began.saturating_sub(last));
        if worked {
            self.0 = Some(began);
        }
        since
    }
}

/// Everything that the runtime has: id to pod and state.
async fn snapshot(node: &Node) -> Result<HashMap<String, (String, i32)>, tonic::Status> {
    let mut runtime = node.runtime.raw();
    let containers =
        runtime.list_containers(v1::ListContainersRequest::default()).await?.into_inner().containers;
    let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
    let containers =
        containers.into_iter().map(|c| (c.id, (c.labels.get(POD_UID).cloned().unwrap_or_default(), c.state)));
    let sandboxes =
        sandboxes.into_iter().map(|s| (s.id, (s.metadata.map(|m| m.uid).unwrap_or_default(), s.state)));
    Ok(containers.chain(sandboxes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_runtime_is_as_long_not_listed_as_it_is_dead() {
        let mut listings = Listings::default();
        let at = Duration::from_secs;
        for (began, worked, since) in [
            (1, false, None),
            (2, true, None),
            (3, false, Some(1)),
            (12, false, Some(10)),
            (13, true, Some(11)),
            (14, true, Some(1)),
        ] {
            assert_eq!(listings.ended(at(began), worked), since.map(at), "at {began}");
        }
    }
}
