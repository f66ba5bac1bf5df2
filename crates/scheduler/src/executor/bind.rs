//! Makes a chosen node the pod's: first its volumes, then the pod itself.
//!
//! Writes PersistentVolumes, claims and `pods/binding`. Not here: choosing; what follows when it fails (the executor).
//!
//! Upstream: plugins/volumebinding/binder.go (`BindPodVolumes`), plugins/defaultbinder.

use std::{sync::Arc, time::Duration};

use api::{
    meta::ObjectMeta,
    types::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod},
    volumes::{BOUND_BY_CONTROLLER, SELECTED_NODE, is_bound},
};
use client::{Client, Informer, Patch};
use foundation::SharedClock;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::framework::Preparation;

/// How long claims may take to be bound; upstream's bindTimeoutSeconds.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The server refused.
    #[error("{0}")]
    Client(#[from] client::Error),
    /// Its claims were not bound in time.
    #[error("binding volumes: timed out waiting for the condition")]
    TimedOut,
    /// A claim is gone.
    #[error("binding volumes: persistentvolumeclaim {0:?} not found")]
    ClaimGone(String),
    /// The provisioner wants another node.
    #[error("binding volumes: provisioning failed for PVC {0:?}")]
    Refused(String),
}

impl Error {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Error::Client(error) if error.is_not_found())
    }
}

/// What is to be done.
pub(super) struct Work<'a> {
    /// First this.
    pub(super) preparations: &'a [Preparation],
    /// Then this pod is bound …
    pub(super) pod: &'a Pod,
    /// … to this node.
    pub(super) node: &'a str,
}

/// Binds a pod to a node. It holds a slot while it asks the server, and none while it waits for volumes.
pub(super) async fn bind(
    client: &Client,
    claims: &Informer<PersistentVolumeClaim>,
    clock: &SharedClock,
    slots: &Arc<Semaphore>,
    slot: &mut Option<OwnedSemaphorePermit>,
    Work { preparations, pod, node }: Work<'_>,
) -> Result<(), Error> {
    take(slots, slot).await;
    for preparation in preparations {
        prepare(client, preparation).await?;
    }
    if !preparations.is_empty() {
        *slot = None;
        tokio::select! {
            bound = all_bound(claims, preparations) => bound?,
            () = clock.sleep(BIND_TIMEOUT) => return Err(Error::TimedOut),
        }
        take(slots, slot).await;
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    Ok(client.bind(&namespace, &binding_of(pod, node)).await?)
}

async fn take(slots: &Arc<Semaphore>, slot: &mut Option<OwnedSemaphorePermit>) {
    if slot.is_none() {
        // The semaphore is never closed.
        *slot = slots.clone().acquire_owned().await.ok();
    }
}

async fn prepare(client: &Client, preparation: &Preparation) -> Result<(), Error> {
    match preparation {
        Preparation::BindVolume { volume, claim } => {
            let mut reference = client::object_reference(&**claim);
            reference.resource_version = None;
            let patch = Patch::Merge(json!({
                "metadata": {
                    "resourceVersion": volume.metadata.resource_version,
                    "annotations": {BOUND_BY_CONTROLLER: "yes"},
                },
                "spec": {"claimRef": reference},
            }));
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            client.patch::<PersistentVolume>(None, name, &patch).await?;
        }
        Preparation::SelectNode { claim, node } => {
            let patch = Patch::Merge(json!({
                "metadata": {"uid": claim.metadata.uid, "annotations": {SELECTED_NODE: node}},
            }));
            let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
            client.patch::<PersistentVolumeClaim>(namespace, name.unwrap_or_default(), &patch).await?;
        }
    }
    Ok(())
}

/// Waits until all claims are bound.
async fn all_bound(
    claims: &Informer<PersistentVolumeClaim>,
    preparations: &[Preparation],
) -> Result<(), Error> {
    let mut changes = claims.subscribe();
    // A node that was selected has to be seen before its absence means anything.
    let mut selected = vec![false; preparations.len()];
    loop {
        let mut all = true;
        for (preparation, seen) in preparations.iter().zip(&mut selected) {
            let (Preparation::BindVolume { claim, .. } | Preparation::SelectNode { claim, .. }) = preparation;
            let name = || claim.metadata.name.clone().unwrap_or_default();
            let Some(current) = claims.get(claim.metadata.namespace.as_deref(), &name()) else {
                return Err(Error::ClaimGone(name()));
            };
            let has_node =
                current.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SELECTED_NODE));
            if matches!(preparation, Preparation::SelectNode { .. }) && *seen && !has_node {
                return Err(Error::Refused(name()));
            }
            *seen |= has_node;
            all &= is_bound(&current);
        }
        if all {
            return Ok(());
        }
        changes.recv().await;
    }
}

fn binding_of(pod: &Pod, node: &str) -> Binding {
    Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            ..ObjectReference::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use client::{Informers, fake::FakeApi};
    use foundation::ManualClock;

    use super::*;

    fn claim(bound: bool) -> PersistentVolumeClaim {
        let annotations = if bound { json!({api::volumes::BIND_COMPLETED: "yes"}) } else { json!({}) };
        let volume = if bound { json!("v") } else { json!(null) };
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "a", "uid": "c", "annotations": annotations},
            "spec": {"volumeName": volume},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn who_waits_for_volumes_holds_no_slot() {
        let api = FakeApi::new();
        let client = api.client();
        let metadata = json!({"name": "p", "namespace": "a", "uid": "p"});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).unwrap();
        let (stored, pod) = (api.insert(claim(false)), api.insert(pod));
        let claims = Informers::unfed().informer::<PersistentVolumeClaim>();
        claims.feed(vec![stored.clone()]);
        let clock: SharedClock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
        let slots = Arc::new(Semaphore::new(1));
        let mut slot = slots.clone().try_acquire_owned().ok();
        let preparations = [Preparation::SelectNode { claim: Arc::new(stored), node: "n".into() }];
        let work = Work { preparations: &preparations, pod: &pod, node: "n" };
        let binding = bind(&client, &claims, &clock, &slots, &mut slot, work);
        let other = async {
            // Another pod has its turn while the provisioner is waited for.
            drop(slots.acquire().await.unwrap());
            let bound = || api.writes().iter().any(|call| call.path.ends_with("/binding"));
            assert!(!bound(), "not before its claim");
            claims.feed(vec![claim(true)]);
        };
        let both = async { tokio::join!(binding, other).0 };
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("the slot was never free").unwrap();
        assert!(api.writes().iter().any(|call| call.path.ends_with("/binding")));
    }
}
