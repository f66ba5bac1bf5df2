//! Request bodies to objects: media types, YAML, field validation, the kind that the path wants.
//!
//! Not here: the limit of the body's size (`filters`), defaults and validation (hooks).
//! Upstream: apiserver/pkg/endpoints/handlers/{create,rest}.go (transformDecodeError).

use std::borrow::Cow;

use api::field::{self, Path};
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
    // The objects of definitions have no type of their own that would say what they are when they do not.
    let judge = |api_version: &str, kind: &str| match schema {
        Schema::Structural(_) => check_custom(api_version, kind, wanted, &call.body),
        Schema::BuiltIn(_) => check_kind(api_version, kind, wanted),
    };
    // What a body says it is comes before what is wrong with it. One that could be read is not read twice for that.
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(wrong) => {
            let meta = TypeMeta::of(body.json());
            return Err(meta.and_then(|meta| judge(&meta.api_version, &meta.kind).err()).unwrap_or(wrong));
        }
    };
    let text = |member: &str| decoded.value.get(member).and_then(Value::as_str).unwrap_or_default();
    judge(text("apiVersion"), text("kind"))?;
    if text("kind") != wanted.kind && !text("kind").is_empty() {
        let name = decoded.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let errors = custom_type_errors(None, Some(text("kind")), wanted);
        return Err(Status::invalid(&wanted.group_kind(), name, errors));
    }
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

/// What a body says it is.
struct Said<'a> {
    api_version: Cow<'a, str>,
    kind: Cow<'a, str>,
}

impl TypeMeta<'_> {
    /// `None` for what cannot be read, which is `schema::decode`'s to describe. A list is no object, whatever stands in
    /// the places of its members.
    fn of(body: &[u8]) -> Option<Said<'_>> {
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        let found: TypeMeta<'_> = serde_json::from_slice(body).ok().filter(|_| is_object)?;
        Some(Said {
            api_version: found.api_version.unwrap_or_default(),
            kind: found.kind.unwrap_or_default(),
        })
    }
}

/// Refuses a custom resource that does not say what it is, or is of another version.
fn check_custom(api_version: &str, kind: &str, wanted: &GroupVersionKind, body: &[u8]) -> Result<(), Status> {
    if kind.is_empty() {
        let error = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body));
        return Err(schema::decode::unrecognized(body, &wanted.kind, &error));
    }
    if api_version != wanted.api_version() {
        return Err(other_version(api_version, wanted));
    }
    Ok(())
}

/// What is wrong with what a custom resource says it is.
pub(super) fn custom_type_errors(
    api_version: Option<&str>,
    kind: Option<&str>,
    wanted: &GroupVersionKind,
) -> field::ErrorList {
    let wanted = [("kind", kind, wanted.kind.clone()), ("apiVersion", api_version, wanted.api_version())];
    let wrong = wanted.into_iter().filter_map(|(member, found, wanted)| {
        let found = found.filter(|found| *found != wanted)?;
        Some(field::invalid(&Path::new(member), found, format!("must be {wanted}")))
    });
    wrong.collect()
}

fn other_version(version: &str, wanted: &GroupVersionKind) -> Status {
    Status::bad_request(format!(
        "the API version in the data ({version}) does not match the expected API version ({})",
        wanted.group_version()
    ))
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
    let said = if kind.is_empty() { &wanted.kind } else { kind };
    let known = || schema::table().of_kind(&version.group, &version.version, said).is_some();
    if said != wanted.kind || (!same_version && !known()) {
        return Err(Status::bad_request(format!(
            "{said} in version \"{}\" cannot be handled as a {}: {}",
            version.version,
            wanted.kind,
            unregistered(said, &version.to_string())
        )));
    }
    if !same_version {
        return Err(other_version(&version.to_string(), wanted));
    }
    Ok(())
}

/// What upstream says of a kind that no version has.
pub(super) fn unregistered(kind: &str, version: &str) -> String {
    format!(
        "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    )
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
