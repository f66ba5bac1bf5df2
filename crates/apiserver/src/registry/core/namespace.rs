//! Namespaces: deletion is a phase, ended by whoever empties them.
//!
//! DELETE marks; the namespace controller deletes what is inside and then takes the finalizer `kubernetes`
//! out of the spec through `finalize`; the last finalizer's end removes the namespace.
//! Upstream: pkg/registry/core/namespace/storage.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::engine::{Call, Target, write_subresource};
use crate::registry::{Deletion, Rest, Subresource, Undo};
use crate::response::Response;

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// `namespaces`.
pub(in crate::registry) struct Namespaces;

#[async_trait]
impl Rest for Namespaces {
    fn reserves(&self) -> bool {
        true
    }

    async fn before_create(&self, _: &Call, object: &mut Object) -> Result<Undo, Status> {
        label(object);
        let finalizers =
            object.0.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            object.0["spec"]["finalizers"] =
                finalizers.into_iter().chain([Value::from(FINALIZER)]).collect::<Vec<_>>().into();
        }
        object.0["status"] = json!({"phase": "Active"});
        Ok(Undo::nothing())
    }

    async fn before_update(&self, _: &Call, new: &mut Object, old: &Object) -> Result<Undo, Status> {
        label(new);
        // The spec's finalizers change through `finalize` only.
        if let Some(spec) = old.0.get("spec") {
            new.0["spec"] = spec.clone();
        }
        Ok(Undo::nothing())
    }

    fn deletion(&self, object: &Object, now: &str) -> Deletion {
        let mut object = object.clone();
        if object.deletion_timestamp().is_none() {
            object.metadata_mut().insert("deletionTimestamp".into(), now.into());
            object.0["status"]["phase"] = "Terminating".into();
            return Deletion::Update(object);
        }
        if has_finalizers(&object) { Deletion::Pending } else { Deletion::Usual }
    }

    fn finishes_deletion(&self, new: &Object, old: &Object) -> bool {
        old.deletion_timestamp().is_some() && new.finalizers().is_empty() && !has_finalizers(new)
    }

    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        (name == "finalize").then(|| Arc::new(Finalize) as Arc<dyn Subresource>)
    }
}

fn label(object: &mut Object) {
    let name = object.name().to_owned();
    let metadata = object.metadata_mut();
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    labels[NAME_LABEL] = name.into();
}

fn has_finalizers(object: &Object) -> bool {
    object.0.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

struct Finalize;

#[async_trait]
impl Subresource for Finalize {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        match call.info.verb.as_str() {
            "update" => write_subresource(&call, Target::Other("finalize")).await,
            _ => Err(call.method_not_allowed()),
        }
    }
}
