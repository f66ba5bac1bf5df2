//! Request bodies to objects: media types, YAML, field validation, the kind that the path wants.
//!
//! Not here: the limit of the body's size (`filters`), defaults and validation (hooks).
//! Upstream: apiserver/pkg/endpoints/handlers/{create,rest}.go (transformDecodeError).

use std::borrow::Cow;

use api::{GroupVersion, GroupVersionKind, Object, Status};
use http::{HeaderMap, header};
use schema::yaml::Converted;
use schema::{FieldValidation, Schema, cbor, protobuf};
use serde_json::Value;

use super::Call;

/// A body as JSON.
#[derive(Debug)]
pub enum Body<'a> {
    /// JSON, or converted from a form in which nothing can be said twice.
    Json(Cow<'a, [u8]>),
    /// Converted from YAML.
    Yaml(Converted),
}

impl Body<'_> {
    /// The JSON.
    pub fn json(&self) -> &[u8] {
        match self {
            Self::Json(json) => json,
            Self::Yaml(converted) => &converted.json,
        }
    }
}

/// Reads a body in whichever of the known encodings it came.
pub fn read<'a>(headers: &HeaderMap, body: &'a [u8], schema: &Schema) -> Result<Body<'a>, Status> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match media_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(Body::Json(Cow::Borrowed(body))),
        "application/yaml" => schema::yaml_to_json(body)
            .map(Body::Yaml)
            .map_err(|error| schema::decode::refuse_yaml(&error, body, schema)),
        protobuf::MEDIA_TYPE => Ok(Body::Json(Cow::Owned(protobuf::to_json(body, schema)?))),
        cbor::MEDIA_TYPE => Ok(Body::Json(Cow::Owned(cbor::to_json(body)?))),
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor",
        )),
    }
}

/// Decodes the call's body as an object of its resource.
pub(super) fn decode(call: &Call, mode: FieldValidation) -> Result<Object, Status> {
    let wanted = call.resource.descriptor.group_version_kind();
    decode_as(call, &wanted, &call.resource.schema, mode)
}

/// Decodes the call's body as an object of `wanted`, which it may leave unsaid.
pub fn decode_as(
    call: &Call,
    wanted: &GroupVersionKind,
    schema: &Schema,
    mode: FieldValidation,
) -> Result<Object, Status> {
    let mut span = crate::traces::span("Deserialize");
    span.set("size", i64::try_from(call.body.len()).unwrap_or(i64::MAX));
    let body = read(&call.headers, &call.body, schema)?;
    let decoded = match &body {
        Body::Json(json) => schema::decode(json, schema, mode),
        Body::Yaml(converted) => schema::decode_yaml(converted, &call.body, schema, mode),
    };
    // What a body says it is comes before what is wrong with it. One that could be read is not read twice for that.
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(wrong) => return Err(check_kind_of(body.json(), wanted).err().unwrap_or(wrong)),
    };
    let text = |member: &str| decoded.value.get(member).and_then(Value::as_str).unwrap_or_default();
    check_kind(text("apiVersion"), text("kind"), wanted)?;
    call.warn(decoded.warnings);
    let mut object = Object(decoded.value);
    if object.0.is_object() {
        object.0["apiVersion"] = wanted.api_version().into();
        object.0["kind"] = wanted.kind.clone().into();
    }
    crate::audit::request_object(&object.0);
    Ok(object)
}

#[derive(serde::Deserialize)]
struct TypeMeta<'a> {
    #[serde(borrow, default, rename = "apiVersion")]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
}

/// Refuses a body that says it is something else.
fn check_kind_of(body: &[u8], wanted: &GroupVersionKind) -> Result<(), Status> {
    // Unreadable bodies are `schema::decode`'s to describe.
    let Ok(found) = serde_json::from_slice::<TypeMeta<'_>>(body) else { return Ok(()) };
    let (api_version, kind) = (found.api_version.as_deref(), found.kind.as_deref());
    check_kind(api_version.unwrap_or_default(), kind.unwrap_or_default(), wanted)
}

/// Refuses what is something else than is wanted. What is left unsaid is as wanted.
fn check_kind(api_version: &str, kind: &str, wanted: &GroupVersionKind) -> Result<(), Status> {
    let version = if api_version.is_empty() {
        Some(GroupVersion::new(&*wanted.group, &*wanted.version))
    } else {
        GroupVersion::parse(api_version)
    };
    let Some(version) = version else {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: unexpected GroupVersion string: {api_version}"
        )));
    };
    let same_version = version.group == wanted.group && version.version == wanted.version;
    if !kind.is_empty() && kind != wanted.kind {
        return Err(Status::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {}: no kind \"{kind}\" is registered for version \
             \"{version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            version.version, wanted.kind
        )));
    }
    if !same_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            wanted.group_version()
        )));
    }
    Ok(())
}

/// Checks that the object is meant for the namespace in the path, and puts it there.
pub(super) fn place(call: &Call, object: &mut Object) -> Result<(), Status> {
    let namespaced = call.resource.descriptor.is_namespaced();
    match (namespaced, object.namespace()) {
        (true, None) => {
            object.metadata_mut().insert("namespace".into(), call.info.namespace.clone().into());
        }
        (true, Some(namespace)) if namespace != call.info.namespace => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        (false, Some(_)) => {
            // Upstream clears what older clients sent for cluster-scoped kinds.
            object.metadata_mut().remove("namespace");
        }
        _ => {}
    }
    if let Some(metadata) = object.0.get("metadata")
        && !metadata.is_object()
    {
        object.0["metadata"] = Value::Object(serde_json::Map::new());
    }
    Ok(())
}
