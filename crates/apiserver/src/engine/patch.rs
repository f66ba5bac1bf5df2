//! PATCH: JSON, merge and strategic merge patches onto the newest object; configurations go to `apply`.
//!
//! Not here: the patches themselves (`schema::patch`), storing the outcome (`update`).
//! Upstream: apiserver/pkg/endpoints/handlers/patch.go.

use std::sync::Arc;

use api::{Object, Status};
use http::header;
use schema::{Decoded, FieldValidation, Schema, patch as patches};
use serde_json::Value;

use super::update::{self, Target};
use super::write::WriteOptions;
use super::{Call, apply, body, scale};
use crate::response::Response;

/// The media type of configurations.
const APPLY: &str = "application/apply-patch+yaml";

/// The media type of the call's body.
fn media_type(call: &Call) -> &str {
    let value = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Merge,
    Strategic,
}

/// A patch out of the body.
pub(super) struct Patch {
    kind: Kind,
    patch: Value,
    schema: Arc<Schema>,
}

impl Patch {
    /// Reads the call's body by its media type, for objects of the shape `schema`.
    pub fn read(call: &Call, schema: &Arc<Schema>, mode: FieldValidation) -> Result<Self, Status> {
        let custom = matches!(**schema, Schema::Structural(_));
        let kind = match media_type(call) {
            "application/json-patch+json" => Kind::Json,
            "application/merge-patch+json" => Kind::Merge,
            "application/strategic-merge-patch+json" if !custom => Kind::Strategic,
            _ => {
                let strategic = if custom { "" } else { ", application/strategic-merge-patch+json" };
                return Err(Status::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json{strategic}, {APPLY}, {}",
                    apply::CBOR
                )));
            }
        };
        let (patch, warnings) = patches::parse(&call.body, mode)?;
        call.warn(warnings);
        Ok(Self { kind, patch, schema: schema.clone() })
    }

    /// The document with the patch applied, not yet checked against the schema.
    pub fn apply(&self, document: &Value) -> Result<Value, Status> {
        match self.kind {
            Kind::Json => patches::json_patch(document.clone(), &self.patch),
            Kind::Merge => patches::merge_patch(document.clone(), &self.patch),
            Kind::Strategic => patches::strategic::apply(document.clone(), &self.patch, &self.schema),
        }
    }

    /// Makes an object of the document that the patch left.
    fn decode(&self, patched: &Value, mode: FieldValidation) -> Result<Decoded, Status> {
        match self.kind {
            Kind::Json | Kind::Merge => patches::decode(patched, &self.schema, mode),
            Kind::Strategic => patches::decode_strategic(patched, &self.patch, &self.schema, mode),
        }
    }
}

pub(super) async fn patch(call: &Call, target: Target) -> Result<Response, Status> {
    if matches!(media_type(call), APPLY | apply::CBOR) {
        return apply::serve(call, target).await;
    }
    let options = WriteOptions::parse_patch(&call.query, false)?;
    let patch = Patch::read(call, &call.resource.schema, options.field_validation)?;
    let stored = update::change(call, target, &options, |current, _| {
        let mut patched = patch.apply(&current.0)?;
        // A patch may leave something else than an object, which decoding then refuses.
        let is_object = patched.is_object();
        for member in ["apiVersion", "kind"] {
            if is_object && patched.get(member).is_none_or(Value::is_null) {
                patched[member] = current.0[member].clone();
            }
        }
        let same = |member: &str| patched[member] == current.0[member];
        if is_object && !(same("kind") && same("apiVersion")) {
            return Err(another(call, &patched));
        }
        let decoded = patch.decode(&patched, options.field_validation)?;
        call.warn(decoded.warnings);
        Ok(Object(decoded.value))
    })
    .await?;
    Ok(call.respond(200, &stored.bytes))
}

/// What is said of a patch that leaves an object of another kind.
fn another(call: &Call, patched: &Value) -> Status {
    let wanted = call.resource.descriptor.group_version_kind();
    let [api_version, kind] =
        ["apiVersion", "kind"].map(|member| patched[member].as_str().unwrap_or_default());
    if !call.resource.is_custom() {
        return patches::unfit(patched, body::unregistered(kind, api_version));
    }
    let errors = body::custom_type_errors(Some(api_version), Some(kind), &wanted);
    Status::invalid(&wanted.group_kind(), &call.info.name, errors)
}

/// Patches the scale of an object: the same patches onto a smaller document.
pub(super) async fn scale(call: &Call) -> Result<Response, Status> {
    if matches!(media_type(call), APPLY | apply::CBOR) {
        return apply::scale(call).await;
    }
    let options = WriteOptions::parse_patch(&call.query, false)?;
    let schema = scale::schema()?;
    let patch = Patch::read(call, &schema, options.field_validation)?;
    scale::change(call, &options, |current| {
        let patched = patch.apply(current)?;
        Ok(patch.decode(&patched, options.field_validation)?.value)
    })
    .await
}
