//! Follows the stored FlowSchemas and PriorityLevelConfigurations.
//!
//! Reads both out of the watch caches whenever one of them changes, takes them into use, keeps the mandatory
//! ones as they must be, and writes each schema's `Dangling` condition.
//! Upstream: apiserver/pkg/util/flowcontrol/apf_controller.go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::types::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use api::{GroupResource, Object, Status};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::matching::{Plan, Schema};
use super::{bootstrap, levels};
use crate::engine::timestamp;
use crate::fairness::seats::LevelId;
use crate::server::Server;

/// The pause before the caches are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Takes the stored configuration into use, and every later one.
pub(crate) async fn start(server: &Arc<Server>) -> Result<(), Status> {
    if !server.fairness.enabled() {
        return Ok(());
    }
    let mut ids = HashMap::new();
    let mut changes = subscribe(server).await?;
    apply(server, &mut ids).await?;
    let server = server.clone();
    server.tasks.clone().spawn_until_cancelled("fairness", async move {
        loop {
            let [schemas, levels] = &mut changes;
            // An error means that the caches were dropped; there are new ones.
            tokio::select! {
                _ = schemas.changed() => {}
                _ = levels.changed() => {}
            }
            changes = loop {
                match subscribe(&server).await {
                    Ok(fresh) => break fresh,
                    Err(error) => {
                        tracing::warn!(%error, "the configuration of priority and fairness cannot be followed");
                        server.clock.sleep(AGAIN).await;
                    }
                }
            };
            if let Err(error) = apply(&server, &mut ids).await {
                tracing::warn!(%error, "the configuration of priority and fairness could not be applied");
            }
        }
    });
    Ok(())
}

async fn subscribe(server: &Server) -> Result<[watch::Receiver<u64>; 2], Status> {
    let changes = |resource| {
        let resource = GroupResource::new(GROUP, resource);
        async move { server.cluster.changes(&resource).await }
    };
    Ok([changes(SCHEMAS).await?, changes(LEVELS).await?])
}

/// Reads, and takes into use, what is stored now.
async fn apply(server: &Arc<Server>, ids: &mut HashMap<String, LevelId>) -> Result<(), Status> {
    let fairness = &server.fairness;
    let mut stored_levels: Vec<PriorityLevelConfiguration> = read(server, LEVELS).await?;
    let mut stored_schemas: Vec<FlowSchema> = read(server, SCHEMAS).await?;
    enforce(server).await;
    let now = timestamp(server.clock.now());
    // What must be there is in force even while it is being made again.
    complete(&mut stored_levels, bootstrap::levels(), |level| level.metadata.name.as_deref());
    complete(&mut stored_schemas, bootstrap::schemas(&now), |schema| schema.metadata.name.as_deref());

    let limits = levels::share(&stored_levels, fairness.options.seats());
    let mut configured = Vec::new();
    let mut by_name = HashMap::new();
    for (level, limits) in stored_levels.iter().zip(limits) {
        let name = level.metadata.name.clone().unwrap_or_default();
        let next = ids.len() as LevelId + 1;
        let id = *ids.entry(name.clone()).or_insert(next);
        fairness.metrics.level(id, &name, &limits);
        configured.push((id, limits));
        by_name.insert(name, (id, limits, level.metadata.uid.clone().unwrap_or_default()));
    }
    let mut schemas = Vec::new();
    for schema in stored_schemas {
        let wanted = schema.spec.priority_level_configuration.name.clone();
        let level = by_name.get(&wanted);
        describe(server, &schema, &wanted, level.is_some(), &now).await;
        if let Some((id, limits, uid)) = level {
            let metrics =
                fairness.metrics.schema(*id, &wanted, schema.metadata.name.as_deref().unwrap_or_default());
            let level = (*id, super::header(uid));
            schemas.push(Schema::new(schema, level, levels::widest(limits), metrics));
        }
    }
    let names = ids.iter().map(|(name, id)| (*id, name.clone())).collect();
    fairness.configure(Plan::new(schemas), configured, names);
    Ok(())
}

async fn read<T: DeserializeOwned>(server: &Server, resource: &str) -> Result<Vec<T>, Status> {
    let listed = server.cluster.list(&GroupResource::new(GROUP, resource), "").await?;
    Ok(listed.items.iter().filter_map(|item| api::json::read(item).ok()).collect())
}

fn complete<T: DeserializeOwned>(stored: &mut Vec<T>, ours: Vec<Object>, name: impl Fn(&T) -> Option<&str>) {
    for object in ours.into_iter().filter(|object| bootstrap::is_mandatory(object.name())) {
        if !stored.iter().any(|known| name(known) == Some(object.name())) {
            stored.extend(api::json::typed(&object.0).ok());
        }
    }
}

/// Makes the mandatory objects again, or puts them right.
async fn enforce(server: &Arc<Server>) {
    let now = timestamp(server.clock.now());
    for object in bootstrap::levels().into_iter().chain(bootstrap::schemas(&now)) {
        if bootstrap::is_mandatory(object.name())
            && let Err(error) = crate::bootstrap::ensure(server, object).await
        {
            tracing::warn!(%error, "a mandatory object of priority and fairness could not be kept");
        }
    }
}

/// Writes the `Dangling` condition of a schema where it is not yet so.
async fn describe(server: &Server, schema: &FlowSchema, level: &str, exists: bool, now: &str) {
    let wanted = bootstrap::dangling(level, exists, now);
    let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_ref());
    let known = conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "Dangling"
            && condition.status.as_deref() == wanted["status"].as_str()
            && condition.message.as_deref() == wanted["message"].as_str()
    });
    if known || schema.metadata.uid.is_none() {
        return;
    }
    let resource = GroupResource::new(GROUP, SCHEMAS);
    let name = schema.metadata.name.as_deref().unwrap_or_default();
    let written = async {
        let mut object = server.cluster.get(&resource, "", name).await?;
        let mut conditions = object.0["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|condition| condition["type"] != "Dangling");
        conditions.push(wanted);
        object.0["status"]["conditions"] = conditions.into();
        server.cluster.replace(&resource, object).await
    };
    // A conflict is a change, which brings us here again.
    if let Err(error) = written.await
        && !error.is_conflict()
        && !error.is_not_found()
    {
        tracing::warn!(schema = name, %error, "the condition of a FlowSchema could not be written");
    }
}
