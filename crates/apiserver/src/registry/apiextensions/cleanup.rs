//! The end of a definition: its objects are deleted in order, and only then it goes.
//!
//! Reads and writes the store: the definition's status and finalizers, its objects. Objects with finalizers are
//! marked and waited for, however long that takes. Whatever is left undone by a crash is taken up again when the
//! definition is next served, by any server.
//! Not here: that nothing new is created meanwhile (`custom::Instances`).
//! Upstream: apiextensions-apiserver/pkg/controller/finalizer/crd_finalizer.go.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use bytes::Bytes;
use futures::StreamExt;
use store::{Compare, EventKind, KeyValue, Op, Range, Txn, WatchRequest};

use super::conditions::{self, Condition};
use super::{prefix, update};
use crate::encoding::Encoded;
use crate::engine::timestamp;
use crate::server::Server;
use crate::storage;

/// Holds a definition until its objects are gone.
pub(super) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After so long the definition's status says what it waits for (upstream gives up then, and begins again).
const SAY_AFTER: Duration = Duration::from_secs(60);
/// Objects read at a time.
const PAGE: usize = 500;

fn terminating<'a>(holds: bool, reason: &'static str, message: &'a str) -> Condition<'a> {
    Condition { kind: "Terminating", holds: Some(holds), reason, message }
}

/// Cleans up after the definition of this name and UID, unless somebody in this server does so already.
pub(super) fn start(server: &Arc<Server>, name: String, uid: String) {
    if !server.definitions.cleaning.lock().insert(uid.clone()) {
        return;
    }
    let running = server.clone();
    server.tasks.spawn_until_cancelled("definition-cleanup", async move {
        let mut wait = BACKOFF.0;
        while let Err(error) = run(&running, &name, &uid).await {
            tracing::warn!(definition = name, %error, "a definition's objects are not all deleted yet");
            running.clock.sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        running.definitions.cleaning.lock().remove(&uid);
    });
}

async fn run(server: &Server, name: &str, uid: &str) -> Result<(), Status> {
    let condition = terminating(true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    let Some(definition) = set(server, name, uid, condition).await? else { return Ok(()) };
    let done = if conditions::holds(&definition, "Established") {
        if let Err(error) = empty(server, name, uid, &prefix(&definition)).await {
            let message = format!("could not issue all deletes: {error}");
            set(server, name, uid, terminating(true, "InstanceDeletionFailed", &message)).await?;
            return Err(error);
        }
        terminating(false, "InstanceDeletionCompleted", "removed all instances")
    } else {
        terminating(false, "NeverEstablished", "resource was never established")
    };
    update(server, name, uid, |object, now| {
        done.set(object, now);
        let left: Vec<String> =
            object.finalizers().into_iter().filter(|f| *f != FINALIZER).map(str::to_owned).collect();
        let metadata = object.metadata_mut();
        if left.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), left.into());
        }
        true
    })
    .await?;
    Ok(())
}

async fn set(
    server: &Server,
    name: &str,
    uid: &str,
    condition: Condition<'_>,
) -> Result<Option<Object>, Status> {
    update(server, name, uid, |object, now| condition.set(object, now)).await
}

/// Deletes everything below `prefix`, and waits until it is gone.
async fn empty(server: &Server, name: &str, uid: &str, prefix: &Bytes) -> Result<(), Status> {
    let store = &server.storage.store;
    let mut left: HashSet<Bytes> = HashSet::new();
    let whole = Range::prefix(prefix.clone());
    let (mut start, mut revision) = (whole.start.clone(), 0);
    loop {
        let range = Range { start, end: whole.end.clone(), limit: PAGE, uncounted: true, ..Range::default() };
        let found = store.range(range).await.map_err(storage::status)?;
        if revision == 0 {
            revision = found.revision;
        }
        let Some(last) = found.kvs.last().map(|kv| kv.key.clone()) else { break };
        for kv in found.kvs {
            if !delete(server, &kv).await? {
                left.insert(kv.key);
            }
        }
        if !found.more {
            break;
        }
        start = [last.as_ref(), b"\0"].concat().into();
    }
    // Everything since the first page: what changed in between is looked at again.
    let request = WatchRequest::prefix(prefix.clone(), revision + 1);
    let mut changes = store.watch(request).await.map_err(storage::status)?;
    let mut say = Some(server.clock.sleep(SAY_AFTER));
    while !left.is_empty() {
        let due = async {
            match &mut say {
                Some(due) => due.await,
                None => std::future::pending().await,
            }
        };
        let batch = tokio::select! {
            batch = changes.next() => batch,
            () = due => {
                say = None;
                let message =
                    "could not confirm zero CustomResources remaining: timed out waiting for the condition";
                set(server, name, uid, terminating(true, "InstanceDeletionCheck", message)).await?;
                continue;
            }
        };
        let Some(batch) = batch else { return Err(Status::service_unavailable("the store ended the watch")) };
        for event in batch.map_err(storage::status)?.events {
            let gone = match event.kind {
                EventKind::Delete => true,
                EventKind::Put => delete(server, &event.kv).await?,
            };
            if gone {
                left.remove(&event.kv.key);
            } else {
                left.insert(event.kv.key);
            }
        }
    }
    Ok(())
}

/// Deletes an object, or marks one that has finalizers. True if it is gone; where somebody wrote meanwhile, an
/// event will tell.
async fn delete(server: &Server, kv: &KeyValue) -> Result<bool, Status> {
    let value = serde_json::from_slice(&kv.value)
        .map_err(|error| Status::internal(format!("a stored object is not readable: {error}")))?;
    let mut object = Object(value);
    let removes = object.finalizers().is_empty();
    let op = if removes {
        Op::delete(kv.key.clone())
    } else {
        if object.deletion_timestamp().is_some() {
            return Ok(false);
        }
        let generation = object.0["metadata"]["generation"].as_i64().unwrap_or(0);
        let metadata = object.metadata_mut();
        metadata.insert("deletionTimestamp".into(), timestamp(server.clock.now()).into());
        metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
        metadata.insert("generation".into(), (generation + 1).into());
        Op::Put { key: kv.key.clone(), value: Encoded::new(&object.0).into_put(), lease: 0 }
    };
    let compare = vec![Compare::mod_revision(kv.key.clone(), kv.mod_revision)];
    let txn = Txn { compare, success: vec![op], failure: Vec::new() };
    let answer = server.storage.store.txn(txn).await.map_err(storage::status)?;
    Ok(removes && answer.succeeded)
}
