//! Serves definitions in the order of their revisions, whoever has stored them.
//!
//! Reads the definitions' watch cache; writes the registry's table. One task, so that no older definition can
//! replace a newer one, and each change is one exchange of the table, with no moment in between in which nothing
//! is served. It also starts the clean-up of deleted definitions, and reconsiders the names of others once one has
//! given some back.
//! Not here: what a definition's resources are (`custom`).
//! Upstream: apiextensions-apiserver/pkg/apiserver/customresource_handler.go.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::{GroupVersionResource, Object, Status};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::super::custom::{self, Instances};
use super::conditions::{self, Condition, Taken};
use super::{cleanup, prefix, update};
use crate::cache::{Cached, Interest, Snapshot, Subscription, Wanted};
use crate::registry::Resource;
use crate::server::Server;
use crate::storage;

/// How long a request waits until what it has stored is served. Longer only when the server is in trouble.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts to watch the definitions again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is served of the definitions, shared with the requests that need to know.
pub(crate) struct Serving {
    definitions: Mutex<BTreeMap<String, Definition>>,
    /// The revision up to which the definitions' changes are served.
    applied: watch::Sender<u64>,
    /// Held from a decision about names until it is stored: two definitions must not get the same.
    pub(super) naming: Arc<tokio::sync::Mutex<()>>,
    /// The UIDs of the definitions that are being cleaned up after.
    pub(super) cleaning: Mutex<HashSet<String>>,
}

/// One definition as it is served.
struct Definition {
    uid: String,
    /// The resourceVersion that this is from.
    revision: u64,
    group: String,
    accepted: Value,
    /// Whether it has all the names that it wants.
    satisfied: bool,
    made_of: MadeOf,
    prefix: Bytes,
    resources: Vec<GroupVersionResource>,
    instances: Arc<Instances>,
}

/// What the resources depend on: unless this changes they stay, and so do their watches.
#[derive(PartialEq)]
struct MadeOf {
    uid: String,
    generation: Option<i64>,
    established: bool,
    accepted: Value,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            definitions: Mutex::default(),
            applied: watch::Sender::new(0),
            naming: Arc::default(),
            cleaning: Mutex::default(),
        }
    }
}

impl Serving {
    /// Waits until the definitions as of `revision` are served.
    pub(super) async fn reach(&self, server: &Server, revision: u64) -> Result<(), Status> {
        let mut applied = self.applied.subscribe();
        let reached = async { drop(applied.wait_for(|now| *now >= revision).await) };
        tokio::select! {
            () = reached => Ok(()),
            () = server.clock.sleep(PATIENCE) => {
                Err(Status::service_unavailable("custom resource definitions are not being served"))
            }
        }
    }

    /// Waits until every definition that is stored by now is served.
    pub(super) async fn catch_up(&self, server: &Server) -> Result<(), Status> {
        server.hub.catch_up().await.map_err(storage::status)?;
        let cache = server.hub.cache(&definitions(server)?.view).await?;
        let latest = *cache.changes().borrow();
        self.reach(server, latest).await
    }

    /// The names in the definition's group that others have.
    pub(super) fn taken(&self, server: &Server, definition: &Object) -> Taken {
        let mut taken = Taken::default();
        let group = definition.0["spec"]["group"].as_str().unwrap_or_default();
        for (name, other) in &*self.definitions.lock() {
            if name != definition.name() && other.group == group {
                taken.add(&other.accepted);
            }
        }
        for resource in server.registry.table().all().filter(|resource| !resource.is_custom()) {
            let d = &resource.descriptor;
            if d.group == group {
                taken.resources.extend([d.plural.to_string(), d.singular.to_string()]);
                taken.resources.extend(d.short_names.iter().map(ToString::to_string));
                taken.kinds.extend([d.kind.to_string(), d.list_kind.to_string()]);
            }
        }
        taken
    }
}

/// The resource of definitions themselves.
pub(super) fn definitions(server: &Server) -> Result<Arc<Resource>, Status> {
    let table = server.registry.table();
    let found = table.get("apiextensions.k8s.io", "v1", "customresourcedefinitions").cloned();
    found.ok_or_else(|| Status::internal("CustomResourceDefinitions are not served"))
}

/// Serves every definition that is stored already, and from then on what is stored later.
pub(crate) async fn start(server: &Arc<Server>) -> Result<(), Status> {
    let (snapshot, subscription) = watch_all(server).await?;
    replace_all(server, &snapshot).await;
    let running = server.clone();
    server.tasks.spawn_until_cancelled("definitions", async move { run(&running, subscription).await });
    Ok(())
}

async fn watch_all(server: &Server) -> Result<(Snapshot, Subscription), Status> {
    let now = server.hub.revision();
    let cache = server.hub.cache(&definitions(server)?.view).await?;
    let watched = cache.watch(Interest::All, &Wanted::default(), None, now, |_| true);
    watched.map_err(|error| Status::expired(error.to_string()))
}

async fn run(server: &Arc<Server>, mut subscription: Subscription) {
    loop {
        while let Some(change) = subscription.missed.next() {
            apply_one(server, change.current.as_deref(), change.previous.as_deref(), change.revision).await;
        }
        while let Some(change) = subscription.receiver.recv().await {
            apply_one(server, change.current.as_deref(), change.previous.as_deref(), change.revision).await;
        }
        // The cache was dropped, or this task was too slow: it begins again with what there is now.
        subscription = loop {
            match watch_all(server).await {
                Ok((snapshot, subscription)) => {
                    replace_all(server, &snapshot).await;
                    break subscription;
                }
                Err(error) => {
                    tracing::error!(%error, "the custom resource definitions cannot be watched");
                    server.clock.sleep(AGAIN).await;
                }
            }
        };
    }
}

async fn replace_all(server: &Arc<Server>, snapshot: &Snapshot) {
    let mut outcome = Outcome::default();
    let present: BTreeSet<&str> = snapshot.objects.iter().map(|object| object.name()).collect();
    let gone: Vec<String> = {
        let known = server.definitions.definitions.lock();
        known.keys().filter(|name| !present.contains(name.as_str())).cloned().collect()
    };
    for name in gone {
        withdraw(server, &name, &mut outcome);
    }
    for object in &snapshot.objects {
        serve(server, object, &mut outcome);
    }
    finish(server, outcome, snapshot.revision).await;
}

async fn apply_one(server: &Arc<Server>, current: Option<&Cached>, previous: Option<&Cached>, revision: u64) {
    let mut outcome = Outcome::default();
    match (current, previous) {
        (Some(object), _) => serve(server, object, &mut outcome),
        (None, Some(object)) => withdraw(server, object.name(), &mut outcome),
        (None, None) => {}
    }
    finish(server, outcome, revision).await;
}

/// What follows from changed definitions.
#[derive(Default)]
struct Outcome {
    gone: Vec<GroupVersionResource>,
    new: Vec<Arc<Resource>>,
    /// Where watches end, once the table is changed.
    forget: Vec<Bytes>,
    /// Groups in which names became free.
    freed: BTreeSet<String>,
    /// Definitions to clean up after: names and UIDs.
    deleted: Vec<(String, String)>,
    /// What is wrong (or no longer wrong) with the schemas of which definition.
    schemas: Vec<(String, String, Option<String>)>,
}

fn withdraw(server: &Server, name: &str, outcome: &mut Outcome) {
    let Some(known) = server.definitions.definitions.lock().remove(name) else { return };
    outcome.gone.extend(known.resources);
    outcome.forget.push(known.prefix);
    outcome.freed.insert(known.group);
}

fn serve(server: &Server, cached: &Cached, outcome: &mut Outcome) {
    let name = cached.name();
    let object = match serde_json::from_slice(&cached.value) {
        Ok(value) => Object(value),
        Err(error) => {
            tracing::error!(definition = name, %error, "a stored definition is not readable");
            return;
        }
    };
    let mut definitions = server.definitions.definitions.lock();
    let before = match definitions.remove(name) {
        Some(newer) if newer.revision > cached.revision => {
            definitions.insert(name.to_owned(), newer);
            return;
        }
        before => before,
    };
    let accepted = object.0["status"]["acceptedNames"].clone();
    let made_of = MadeOf {
        uid: object.uid().to_owned(),
        generation: object.0.pointer("/metadata/generation").and_then(Value::as_i64),
        established: conditions::holds(&object, "Established"),
        accepted: accepted.clone(),
    };
    let same = before.as_ref().is_some_and(|before| before.made_of == made_of);
    let (resources, instances) = match &before {
        Some(before) if same => (before.resources.clone(), before.instances.clone()),
        _ => {
            let instances = Instances::shared();
            let made =
                made_of.established.then(|| custom::resources(&object, &instances, Some(&server.asking())));
            let (resources, wrong) = match made {
                Some(Ok(resources)) => (resources, None),
                // Validation has read the schema before; only a definition stored by someone else comes here.
                Some(Err(error)) => (Vec::new(), Some(error.to_string())),
                None => (Vec::new(), None),
            };
            let told = conditions::holds(&object, conditions::NON_STRUCTURAL);
            if wrong.is_some() || told {
                outcome.schemas.push((name.to_owned(), object.uid().to_owned(), wrong));
            }
            let names = resources.iter().map(|resource| resource.descriptor.group_version_resource());
            let names: Vec<_> = names.collect();
            if let Some(before) = &before {
                outcome.gone.extend(before.resources.iter().filter(|old| !names.contains(old)).cloned());
                outcome.forget.push(before.prefix.clone());
                if before.accepted != accepted {
                    outcome.freed.insert(before.group.clone());
                }
            }
            outcome.new.extend(resources);
            (names, instances)
        }
    };
    instances.set_terminating(conditions::holds(&object, "Terminating"));
    if object.deletion_timestamp().is_some() && object.finalizers().contains(&cleanup::FINALIZER) {
        outcome.deleted.push((name.to_owned(), object.uid().to_owned()));
    }
    let definition = Definition {
        uid: object.uid().to_owned(),
        revision: cached.revision,
        group: object.0["spec"]["group"].as_str().unwrap_or_default().to_owned(),
        satisfied: conditions::holds(&object, "NamesAccepted"),
        accepted,
        made_of,
        prefix: prefix(&object),
        resources,
        instances,
    };
    definitions.insert(name.to_owned(), definition);
}

async fn finish(server: &Arc<Server>, outcome: Outcome, revision: u64) {
    if !outcome.gone.is_empty() || !outcome.new.is_empty() {
        server.registry.exchange(&outcome.gone, &outcome.new);
    }
    for prefix in &outcome.forget {
        server.hub.forget(prefix);
    }
    server.definitions.applied.send_replace(revision);
    for (name, uid) in outcome.deleted {
        cleanup::start(server, name, uid);
    }
    for (name, uid, wrong) in outcome.schemas {
        report(update(server, &name, &uid, |object, now| match &wrong {
            Some(message) => {
                let kind = conditions::NON_STRUCTURAL;
                Condition { kind, holds: Some(true), reason: "Violations", message }.set(object, now)
            }
            // The request that stored it has told what else there is to tell.
            None => {
                conditions::holds(object, conditions::NON_STRUCTURAL) && conditions::structural(object, now)
            }
        }))
        .await;
    }
    for group in outcome.freed {
        // By itself: it waits for requests that decide, and these wait for what is served here.
        let running = server.clone();
        server.tasks.spawn_until_cancelled("definitions", async move { reconsider(&running, &group).await });
    }
}

/// Decides again about the names of the group's definitions that did not get all they want.
async fn reconsider(server: &Arc<Server>, group: &str) {
    let _deciding = server.definitions.naming.lock().await;
    let waiting: Vec<(String, String)> = {
        let known = server.definitions.definitions.lock();
        let waiting = known.iter().filter(|(_, known)| known.group == group && !known.satisfied);
        waiting.map(|(name, known)| (name.clone(), known.uid.clone())).collect()
    };
    for (name, uid) in waiting {
        report(async {
            server.definitions.catch_up(server).await?;
            update(server, &name, &uid, |object, _| conditions::accept(server, object)).await
        })
        .await;
    }
}

/// What fails here is tried again with the definition's next change; the log says so.
async fn report(work: impl Future<Output = Result<Option<Object>, Status>>) {
    if let Err(error) = work.await {
        tracing::error!(%error, "the status of a custom resource definition was not written");
    }
}
