//! Server-side apply: PATCH with a configuration, which creates what does not exist.
//!
//! Not here: the merge and the ownership (`schema::patch::apply`), storing the outcome (`update`, `create`).
//! Upstream: apiserver/pkg/endpoints/handlers/patch.go (applyPatcher), versioncheckmanager.go, scalehandler.go.

use api::{GroupVersionKind, Object, Reason, Status};
use http::header;
use schema::patch::{self as patches, apply};
use schema::{FieldValidation, yaml_to_json};
use serde_json::{Value, json};

use super::update::{self, Target};
use super::write::WriteOptions;
use super::{Call, create, ownership, scale};
use crate::response::Response;

/// The media type of configurations in CBOR.
pub(super) const CBOR: &str = "application/apply-patch+cbor";

/// How often an object may come and go between our look at it and our write.
const ATTEMPTS: usize = 5;

/// The configuration in the body, which is of this kind and about the object in the path.
fn configuration(call: &Call, options: &WriteOptions, kind: &GroupVersionKind) -> Result<Value, Status> {
    let content_type = call.headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let json = if content_type.is_some_and(|kind| kind.starts_with(CBOR.as_bytes())) {
        schema::cbor::to_json(&call.body)
            .map_err(|status| Status::bad_request(format!("error decoding CBOR: {}", status.message)))?
    } else {
        yaml_to_json(&call.body)
            .map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?
    };
    let (config, duplicates) = patches::parse(&json, FieldValidation::Warn)
        .map_err(|status| Status::bad_request(format!("error decoding YAML: {}", status.message)))?;
    match options.field_validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            let found = duplicates.join(", ");
            return Err(Status::bad_request(format!("error strict decoding YAML: {found}")));
        }
        FieldValidation::Warn => call.warn(duplicates),
        _ => {}
    }
    if !config.is_object() {
        return Err(Status::bad_request(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal into Go value of \
             type map[string]interface {}",
        ));
    }
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, name) = (text("/apiVersion"), text("/kind"));
    if version != kind.api_version() || name != kind.kind {
        let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
        return Err(Status::bad_request(format!("invalid object type: {version}, Kind={name}")));
    }
    let (name, wanted) = (text("/metadata/name"), &call.info.name);
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != wanted {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let (namespace, wanted) = (text("/metadata/namespace"), &call.info.namespace);
    if call.resource.descriptor.is_namespaced() && !namespace.is_empty() && namespace != wanted {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({wanted})"
        )));
    }
    Ok(config)
}

fn merge(
    call: &Call,
    target: Target,
    options: &WriteOptions,
    live: &Value,
    config: &Value,
) -> Result<Object, Status> {
    ownership::with_writer(call, target, options, &[live, config], |writer| {
        apply::apply(live, config, &call.resource.schema, writer, options.force).map(Object)
    })
}

/// Applies the configuration in the body.
pub(super) async fn serve(call: &Call, target: Target) -> Result<Response, Status> {
    let options = WriteOptions { applied: true, ..WriteOptions::parse_patch(&call.query, true)? };
    let config = configuration(call, &options, &call.resource.descriptor.group_version_kind())?;
    for _ in 0..ATTEMPTS {
        let outcome =
            update::change(call, target, &options, |live| merge(call, target, &options, &live.0, &config))
                .await;
        match outcome {
            Ok(stored) => return Ok(call.respond(200, &stored.bytes)),
            Err(status) if target == Target::Main && status.is_not_found() => {}
            Err(status) => return Err(status),
        }
        if call.server.storage.read(&call.resource, &call.info.namespace, &call.info.name).await?.is_some() {
            continue;
        }
        match new(call, &options, &config).await {
            Err(status) if status.is_already_exists() && !options.dry_run => {}
            outcome => return outcome,
        }
    }
    Err(Status::conflict(&call.resource.group_resource, &call.info.name, update::MODIFIED))
}

async fn new(call: &Call, options: &WriteOptions, config: &Value) -> Result<Response, Status> {
    if let Some(uid) = config.pointer("/metadata/uid").and_then(Value::as_str).filter(|uid| !uid.is_empty()) {
        return Err(Status::conflict(
            &call.resource.group_resource,
            &call.info.name,
            format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            ),
        ));
    }
    call.authorize("create").await?;
    let mut metadata = json!({"name": call.info.name});
    if call.resource.descriptor.is_namespaced() {
        metadata["namespace"] = call.info.namespace.clone().into();
    }
    let empty = json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": metadata});
    let object = merge(call, Target::Main, options, &empty, config)?;
    let stored = create::create(call, object, options).await?;
    Ok(call.respond(201, &stored.bytes))
}

/// Applies a scale: a configuration of the object it belongs to, of nothing but the replicas.
pub(super) async fn scale(call: &Call) -> Result<Response, Status> {
    let options = WriteOptions { applied: true, ..WriteOptions::parse_patch(&call.query, true)? };
    let config = configuration(call, &options, &scale::kind())?;
    let replicas = config.pointer("/spec/replicas").filter(|replicas| !replicas.is_null());
    if let Some(other) = replicas.filter(|replicas| !replicas.is_i64()) {
        return Err(Status::new(
            500,
            Reason::Unknown,
            format!(
                "failed to create typed patch object ({}/{}; autoscaling/v1, Kind=Scale): .spec.replicas: expected \
                 numeric (int or float), got {other}",
                call.info.namespace, call.info.name
            ),
        ));
    }
    scale::apply(call, &options, replicas.and_then(Value::as_i64), |live, config| {
        merge(call, Target::Other("scale"), &options, live, config)
    })
    .await
}
