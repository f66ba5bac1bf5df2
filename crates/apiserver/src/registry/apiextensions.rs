//! CustomResourceDefinitions: which names they get, when they are served, and how they end.
//!
//! The request that creates or changes a definition has its schemas checked ([`schemas`]), then decides about its names
//! and sets the conditions ([`conditions`]); one watch over all definitions serves them in the order of their revisions ([`serving`]);
//! a deleted definition stays, by its finalizer, until its objects are gone in order ([`cleanup`]).
//! Not here: conversion webhooks (`conversion`).
//! Upstream: apiextensions-apiserver/pkg/controller/{status,establish,finalizer,nonstructuralschema},
//! pkg/registry/customresourcedefinition.

mod cleanup;
mod conditions;
mod schemas;
mod serving;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Deletion, Rest, Undo};
use crate::engine::{Call, timestamp};
use crate::server::Server;

pub(crate) use serving::{Serving, start};

/// `customresourcedefinitions`.
pub(super) struct Definitions;

#[async_trait]
impl Rest for Definitions {
    /// Decides about the names, with nobody else deciding until the write stands or failed.
    async fn before_store(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        let server = &call.server;
        // Before the lock is taken: schemas can be large, and say nothing of names.
        conditions::of_itself(server, object);
        let deciding = server.definitions.naming.clone().lock_owned().await;
        server.definitions.catch_up(server).await?;
        conditions::accept(server, object);
        Ok(Undo::with(move || drop(deciding)))
    }

    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        if call.info.subresource == "status" {
            return Ok(());
        }
        let errors = schemas::check(new, old);
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&call.resource.descriptor.group_kind(), new.name(), errors))
    }

    /// Whoever has created a kind may use it in the next request.
    async fn after(&self, call: &Call, new: Option<&Object>, _: Option<&Object>) {
        let reached = match new.and_then(|new| new.resource_version().parse().ok()) {
            Some(revision) => call.server.definitions.reach(&call.server, revision).await,
            None => call.server.definitions.catch_up(&call.server).await,
        };
        if let Err(error) = reached {
            tracing::warn!(%error, "a definition is stored, but not served yet");
        }
    }

    fn deletion(&self, object: &Object, now: &str) -> Deletion {
        if object.deletion_timestamp().is_some() {
            return Deletion::Usual;
        }
        let mut object = object.clone();
        let mut finalizers: Vec<Value> = object.finalizers().into_iter().map(Value::from).collect();
        if !finalizers.iter().any(|finalizer| finalizer == cleanup::FINALIZER) {
            finalizers.push(cleanup::FINALIZER.into());
        }
        let metadata = object.metadata_mut();
        metadata.insert("finalizers".into(), finalizers.into());
        metadata.insert("deletionTimestamp".into(), now.into());
        conditions::PENDING.set(&mut object, now);
        Deletion::Update(object)
    }
}

/// Where the store keeps a definition's objects.
fn prefix(definition: &Object) -> bytes::Bytes {
    let spec = &definition.0["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("/registry/{}/{}/", text(&spec["group"]), text(&spec["names"]["plural"])).into()
}

/// Changes a stored definition by `change`, as long as it is the one with this UID; `None` if it is gone or
/// another. `change` says whether there is anything to store; a definition that waits for nothing more is deleted.
async fn update(
    server: &Server,
    name: &str,
    uid: &str,
    change: impl Fn(&mut Object, &str) -> bool + Send + Sync,
) -> Result<Option<Object>, Status> {
    let resource = serving::definitions(server)?;
    loop {
        let Some(kv) = server.storage.read(&resource, "", name).await? else { return Ok(None) };
        let mut object = resource.decode(&kv.value)?;
        if object.uid() != uid {
            return Ok(None);
        }
        if !change(&mut object, &timestamp(server.clock.now())) {
            return Ok(Some(object));
        }
        if object.deletion_timestamp().is_some() && object.finalizers().is_empty() {
            if server.storage.delete(&resource, "", name, kv.mod_revision).await?.is_some() {
                return Ok(None);
            }
        } else if let Some(stored) =
            server.storage.replace(&resource, "", name, kv.mod_revision, object).await?
        {
            return Ok(Some(stored.object));
        }
    }
}
