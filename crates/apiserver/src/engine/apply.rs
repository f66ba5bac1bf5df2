//! Server-side apply: PATCH with a configuration, which creates what does not exist.
//!
//! Not here: the merge and the ownership (`schema::patch::apply`), storing the outcome (`update`, `create`).
//! Upstream: apiserver/pkg/endpoints/handlers/patch.go (applyPatcher), versioncheckmanager.go, scalehandler.go.

use api::{GroupVersionKind, Object, Reason, Status};
use http::header;
use schema::patch::{self as patches, apply};
use schema::{FieldValidation, yaml, yaml_to_json};
use serde_json::{Value, json};

use super::update::{self, Target};
use super::versions::Versions;
use super::write::WriteOptions;
use super::{Call, create, ownership, scale};
use crate::response::Response;

/// The media type of configurations in CBOR.
pub(super) const CBOR: &str = "application/apply-patch+cbor";

/// How often an object may come and go between our look at it and our write.
const ATTEMPTS: usize = 5;

/// The configuration of an apply request.
struct Configuration {
    value: Value,
    /// What a strict reader says of the body. It is said after the merge: conflicts come before it.
    strict: Option<Status>,
}

impl Configuration {
    fn new(value: Value) -> Self {
        Self { value, strict: None }
    }

    /// Lets the outcome of the merge pass unless a strict reader refuses the body.
    fn accept(&self, merged: Object) -> Result<Object, Status> {
        self.strict.clone().map_or(Ok(merged), Err)
    }
}

/// The configuration in the body, which is of this kind and about the object in the path.
fn configuration(
    call: &Call,
    options: &WriteOptions,
    kind: &GroupVersionKind,
) -> Result<Configuration, Status> {
    let configuration = read(call, options)?;
    check(call, &configuration.value, kind)?;
    Ok(configuration)
}

fn read(call: &Call, options: &WriteOptions) -> Result<Configuration, Status> {
    let content_type = call.headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if content_type.is_some_and(|kind| kind.starts_with(CBOR.as_bytes())) {
        let refuse = |error| Status::bad_request(format!("error decoding CBOR: {error}"));
        let json = schema::cbor::to_json(&call.body).map_err(|status| refuse(status.message))?;
        let value = serde_json::from_slice(&json).map_err(|error| refuse(error.to_string()))?;
        return object(value, "CBOR").map(Configuration::new);
    }
    let refuse = |error: String| Status::bad_request(format!("error decoding YAML: {error}"));
    let yaml = yaml_to_json(&call.body)
        .map_err(|error| refuse(format!("error converting YAML to JSON: {error}")))?;
    let (value, _) =
        patches::parse(&yaml.json, FieldValidation::Ignore).map_err(|status| refuse(status.message))?;
    let mut configuration = object(value, "YAML").map(Configuration::new)?;
    match options.field_validation {
        FieldValidation::Strict => {
            configuration.strict = yaml::strict_error(&yaml.duplicates).map(|error| {
                Status::bad_request(format!(
                    "error strict decoding YAML: error converting YAML to JSON: {error}"
                ))
            });
        }
        FieldValidation::Warn => call.warn(yaml.duplicates),
        FieldValidation::Ignore => {}
    }
    Ok(configuration)
}

/// The value, which is to be an object; nothing at all is an empty one.
fn object(value: Value, format: &str) -> Result<Value, Status> {
    let found = match value {
        Value::Object(_) => return Ok(value),
        Value::Null => return Ok(json!({})),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    Err(Status::bad_request(format!(
        "error decoding {format}: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go \
         value of type map[string]interface {{}}"
    )))
}

fn check(call: &Call, config: &Value, kind: &GroupVersionKind) -> Result<(), Status> {
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
    Ok(())
}

fn merge(
    call: &Call,
    target: Target,
    options: &WriteOptions,
    live: &Value,
    config: &Value,
    versions: &Versions<'_>,
) -> Result<Object, Status> {
    let ignored = ownership::ignored(call, target, &[live, config]);
    ownership::with_writer(call, options, &ignored, versions, |writer| {
        apply::apply(live, config, &call.resource.schema, writer, options.force).map(Object)
    })
}

/// Applies the configuration in the body.
pub(super) async fn serve(call: &Call, target: Target) -> Result<Response, Status> {
    let options = WriteOptions { applied: true, ..WriteOptions::parse_patch(&call.query, true)? };
    let config = configuration(call, &options, &call.resource.descriptor.group_version_kind())?;
    for _ in 0..ATTEMPTS {
        let outcome = update::change(call, target, &options, |live, versions| {
            config.accept(merge(call, target, &options, &live.0, &config.value, versions)?)
        })
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

async fn new(call: &Call, options: &WriteOptions, config: &Configuration) -> Result<Response, Status> {
    let value = &config.value;
    if let Some(uid) = value.pointer("/metadata/uid").and_then(Value::as_str).filter(|uid| !uid.is_empty()) {
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
    let empty = json!({"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": metadata});
    // Nobody owns anything of it yet, in no version.
    let versions = Versions::of(call);
    let object = config.accept(merge(call, Target::Main, options, &empty, value, &versions)?)?;
    let stored = create::create(call, object, options).await?;
    Ok(call.respond(201, &stored.bytes))
}

/// Applies a scale: a configuration of the object it belongs to, of nothing but the replicas.
pub(super) async fn scale(call: &Call) -> Result<Response, Status> {
    let options = WriteOptions { applied: true, ..WriteOptions::parse_patch(&call.query, true)? };
    let config = configuration(call, &options, &scale::kind())?;
    let replicas = config.value.pointer("/spec/replicas").filter(|replicas| !replicas.is_null());
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
    scale::apply(call, &options, replicas.and_then(Value::as_i64), |live, scaled, versions| {
        config.accept(merge(call, Target::Other("scale"), &options, live, scaled, versions)?)
    })
    .await
}
