//! One write through one plugin, and what plugins need, for the plugins' tests.

use std::sync::Arc;

use api::{GroupVersionKind, GroupVersionResource, Object, Status};
use foundation::{ManualClock, SeededRandomness};
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, Surroundings};
use crate::authz;
use crate::authz::fake::FakeCluster;
use crate::cluster::ClusterState;
use crate::request::User;

/// A write to be tried.
pub(super) struct Write {
    pub(super) operation: Operation,
    /// `resource` or `resource/subresource`, with `.group` at the end unless it is of the core group.
    pub(super) path: &'static str,
    pub(super) kind: &'static str,
    pub(super) user: User,
    pub(super) object: Option<Value>,
    pub(super) old: Option<Value>,
    pub(super) dry_run: bool,
}

impl Write {
    pub(super) fn create(path: &'static str, kind: &'static str, object: Value) -> Self {
        let user = User::new("jane", &["system:authenticated"]);
        let operation = Operation::Create;
        Self { operation, path, kind, user, object: Some(object), old: None, dry_run: false }
    }

    pub(super) fn update(path: &'static str, kind: &'static str, old: Value, object: Value) -> Self {
        Self { operation: Operation::Update, old: Some(old), ..Self::create(path, kind, object) }
    }

    pub(super) fn delete(path: &'static str, kind: &'static str, old: Value) -> Self {
        let write = Self::create(path, kind, json!({}));
        Self { operation: Operation::Delete, object: None, old: Some(old), ..write }
    }

    pub(super) fn by(self, user: User) -> Self {
        Self { user, ..self }
    }
}

/// What plugins need, in a cluster of built-in kinds.
pub(super) fn surroundings(cluster: &Arc<dyn ClusterState>) -> Surroundings {
    let clock: foundation::SharedClock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
    let randomness = || Arc::new(SeededRandomness::new(1));
    let caller = super::webhook::Caller::new(cluster.clone(), clock.clone(), randomness());
    Surroundings {
        authorization: authz::build(&authz::Options::default(), cluster, &clock).unwrap(),
        cluster: cluster.clone(),
        clock,
        randomness: randomness(),
        registry: Arc::new(crate::registry::Registry::builtin().unwrap()),
        caller: Arc::new(caller),
    }
}

/// A pod in namespace `a` with this spec.
pub(super) fn pod(spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "a" }, "spec": spec })
}

/// The object and the warnings after `admit` and `validate`.
pub(super) async fn run(
    plugin: &dyn Plugin,
    cluster: &Arc<FakeCluster>,
    write: Write,
) -> Result<(Value, Vec<String>), Status> {
    let state: Arc<dyn ClusterState> = cluster.clone();
    let (path, group) = write.path.split_once('.').unwrap_or((write.path, ""));
    let (resource, subresource) = path.split_once('/').unwrap_or((path, ""));
    let mut object = write.object.map(Object);
    let old = write.old.map(Object);
    let of = object.as_ref().or(old.as_ref()).expect("a write has an object");
    let (namespace, name) = (of.namespace().unwrap_or_default().to_owned(), of.name().to_owned());
    let mut request = Request {
        operation: write.operation,
        kind: GroupVersionKind::new(group, "v1", write.kind),
        resource: GroupVersionResource::new(group, "v1", resource),
        subresource,
        namespace: &namespace,
        name: &name,
        user: &write.user,
        dry_run: write.dry_run,
        object: object.as_mut(),
        old: old.as_ref(),
        options: Value::Null,
        warnings: Vec::new(),
        reinvocation: Default::default(),
    };
    if plugin.handles(write.operation) {
        plugin.admit(&mut request, &state).await?;
        plugin.validate(&mut request, &state).await?;
    }
    let warnings = std::mem::take(&mut request.warnings);
    Ok((object.map(|object| object.0).unwrap_or_default(), warnings))
}
