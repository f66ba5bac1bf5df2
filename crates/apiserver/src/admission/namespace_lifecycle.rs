//! Lets objects be made only in namespaces that exist and are not being deleted, and keeps the three that every
//! cluster needs.
//! Reads Namespaces.
//! Not here: emptying a namespace (the namespace controller).
//! Upstream: apiserver/pkg/admission/plugin/namespace/lifecycle.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use api::status::Cause;
use api::{GroupResource, Status};
use async_trait::async_trait;
use foundation::SharedClock;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::Deserialize;

use super::parsed::Parsed;
use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;

const TERMINATING: &str = "Terminating";
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long after the request to delete a namespace the cache is not believed when it calls it active.
const DISTRUST: SignedDuration = SignedDuration::from_secs(30);

pub(super) struct NamespaceLifecycle {
    clock: SharedClock,
    deleted: Mutex<HashMap<String, Timestamp>>,
    /// Whether a namespace is on its way out.
    terminating: Parsed<bool>,
}

impl NamespaceLifecycle {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, deleted: Mutex::default(), terminating: Parsed::default() }
    }

    fn was_deleted(&self, namespace: &str) -> bool {
        let mut deleted = self.deleted.lock();
        if deleted.is_empty() {
            return false;
        }
        let now = self.clock.now();
        deleted.retain(|_, at| now < *at + DISTRUST);
        deleted.contains_key(namespace)
    }

    async fn is_terminating(&self, cluster: &dyn ClusterState, name: &str) -> Result<bool, Status> {
        let resource = GroupResource::new("", "namespaces");
        if !self.was_deleted(name)
            && let Some(bytes) = cluster.cached(&resource, "", name).await?
        {
            let read = |bytes: &[u8]| {
                let namespace: Namespace<'_> = serde_json::from_slice(bytes).map_err(Status::internal)?;
                Ok(namespace.status.phase == TERMINATING)
            };
            return self.terminating.get(&bytes, read).map(|terminating| *terminating);
        }
        let namespace = cluster.get(&resource, "", name).await?;
        Ok(json::text(&namespace.0, "/status/phase") == TERMINATING)
    }
}

/// What is read of a namespace at each write into it.
#[derive(Deserialize)]
struct Namespace<'a> {
    #[serde(borrow, default)]
    status: NamespaceStatus<'a>,
}

#[derive(Default, Deserialize)]
struct NamespaceStatus<'a> {
    #[serde(borrow, default)]
    phase: Cow<'a, str>,
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if request.resource.group.is_empty() && request.resource.resource == "namespaces" {
            if request.operation == Operation::Delete {
                if IMMORTAL.contains(&request.name) {
                    return Err(request.forbidden("this namespace may not be deleted"));
                }
                self.deleted.lock().insert(request.name.to_owned(), self.clock.now());
            }
            return Ok(());
        }
        // Whether a namespace exists is not told to those who only ask whether they may.
        let review = request.is("authorization.k8s.io", "localsubjectaccessreviews", "");
        // What is there may be changed even where its namespace is gone: its finalizers could not be taken off else.
        if request.namespace.is_empty() || request.operation != Operation::Create || review {
            return Ok(());
        }
        if !self.is_terminating(&**cluster, request.namespace).await? {
            return Ok(());
        }
        let name = request.namespace;
        let mut status = request.forbidden(format!(
            "unable to create new content in namespace {name} because it is being terminated"
        ));
        let cause = Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        };
        if let Some(details) = &mut status.details {
            details.causes.push(cause);
        }
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;
    use serde_json::json;

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    fn plugin() -> NamespaceLifecycle {
        NamespaceLifecycle::new(Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap())))
    }

    fn namespace(name: &str, phase: &str) -> serde_json::Value {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name }, "status": { "phase": phase } })
    }

    #[tokio::test]
    async fn objects_need_a_living_namespace() {
        let cluster = FakeCluster::new();
        let write = || Write::create("pods", "Pod", pod(json!({})));
        let error = run(&plugin(), &cluster, write()).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (404, "namespaces \"a\" not found"));
        let update = Write::update("pods", "Pod", pod(json!({})), pod(json!({})));
        run(&plugin(), &cluster, update).await.unwrap();

        cluster.put("namespaces", namespace("a", "Active"));
        run(&plugin(), &cluster, write()).await.unwrap();

        cluster.put("namespaces", namespace("a", "Terminating"));
        let error = run(&plugin(), &cluster, write()).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: unable to create new content in namespace a because it is being terminated"
        );
        assert!(error.is_namespace_terminating());
        let update = Write::update("pods", "Pod", pod(json!({})), pod(json!({})));
        run(&plugin(), &cluster, update).await.unwrap();
    }

    #[tokio::test]
    async fn three_namespaces_stay() {
        let cluster = FakeCluster::new();
        let delete = |name: &str| Write::delete("namespaces", "Namespace", namespace(name, "Active"));
        for name in IMMORTAL {
            let error = run(&plugin(), &cluster, delete(name)).await.unwrap_err();
            assert_eq!(
                error.message,
                format!("namespaces {name:?} is forbidden: this namespace may not be deleted")
            );
        }
        run(&plugin(), &cluster, delete("a")).await.unwrap();
    }
}
