//! Objects and lists in the form a client wants: whole, as a Table, or metadata only; in any encoding.
//!
//! Whole objects in compact JSON are the stored bytes, untouched. Everything else is derived from them.
//! Upstream: apiserver/pkg/endpoints/handlers/response.go, apimachinery's meta/v1 Table.

use api::kind::Descriptor;
use api::{GroupVersion, Status};
use bytes::Bytes;
use http::header;
use jiff::Timestamp;
use schema::{Schema, cbor, protobuf};
use serde_json::{Map, Value, json};

use crate::cache::change_frame;
use crate::encoding;
use crate::negotiation::{Accepted, Encoding, Form};
use crate::registry::Resource;
use crate::request::Query;
use crate::response::{self, Response};
use crate::traces::{self, Span};

/// How to lay out the objects of one resource.
pub struct Output<'a> {
    /// What the client wants.
    pub accepted: Accepted,
    /// Columns and cells.
    pub descriptor: &'a Descriptor,
    /// The shape of whole objects.
    pub schema: &'a Schema,
    /// `includeObject` of tables: `Metadata` (also when not given), `None` or `Object`.
    pub include: &'a str,
    /// The present, for ages.
    pub now: Timestamp,
}

impl<'a> Output<'a> {
    /// Reads `includeObject`.
    pub fn new(accepted: Accepted, resource: &'a Resource, query: &'a Query, now: Timestamp) -> Self {
        let include = query.get("includeObject").unwrap_or_default();
        Self { accepted, descriptor: &resource.descriptor, schema: &resource.schema, include, now }
    }

    /// A response with one object.
    pub fn object(&self, code: u16, object: &Bytes) -> Response {
        let _span = serializing(self.accepted);
        match self.accepted.form {
            Form::Whole => self.encoded(code, object.clone()),
            Form::Table(version) => {
                let value = parse(object);
                let revision = value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                let table = self.table(version, json!({"resourceVersion": revision}), &[value], true);
                self.value(code, &table)
            }
            Form::Partial { version, .. } => self.value(code, &partial(&parse(object), version)),
        }
    }

    /// A response with a list; `metadata` is the ListMeta.
    pub fn list(&self, metadata: Value, items: Vec<Bytes>) -> Response {
        let _span = serializing(self.accepted);
        match self.accepted.form {
            Form::Whole if self.accepted.encoding == Encoding::Json && !self.accepted.pretty => {
                let head = format!(
                    "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                    self.descriptor.list_kind,
                    self.descriptor.group_version(),
                );
                response::concatenation(response::JSON, head.into(), items, Bytes::from_static(b"]}"))
            }
            Form::Whole if self.accepted.encoding == Encoding::Protobuf => self.protobuf(&metadata, &items),
            Form::Whole => self.value(
                200,
                &json!({
                    "kind": self.descriptor.list_kind,
                    "apiVersion": self.descriptor.group_version().to_string(),
                    "metadata": metadata,
                    "items": items.iter().map(parse).collect::<Vec<_>>(),
                }),
            ),
            Form::Table(version) => {
                let items: Vec<Value> = items.iter().map(parse).collect();
                self.value(200, &self.table(version, metadata, &items, true))
            }
            Form::Partial { version, .. } => self.value(
                200,
                &json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata,
                    "items": items.iter().map(|item| partial(&parse(item), version)).collect::<Vec<_>>(),
                }),
            ),
        }
    }

    /// A list as protobuf, without ever being a tree as a whole.
    fn protobuf(&self, metadata: &Value, items: &[Bytes]) -> Response {
        let mut objects = items.iter();
        let version = self.descriptor.group_version().to_string();
        let encoded =
            protobuf::encode_list(&version, &self.descriptor.list_kind, metadata, self.schema, || {
                objects.next().map(parse)
            });
        match encoded {
            Ok(body) => response::bytes(200, protobuf::MEDIA_TYPE, body),
            Err(error) => response::failure(&Status::not_acceptable(error.to_string())),
        }
    }

    /// The object of a watch event in this form. `header`: whether a table carries its columns.
    pub fn watched(&self, object: &Bytes, header: bool) -> Bytes {
        match self.accepted.form {
            Form::Whole => object.clone(),
            Form::Table(version) => {
                let value = parse(object);
                let revision = value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                encoding::to_json(&self.table(
                    version,
                    json!({"resourceVersion": revision}),
                    &[value],
                    header,
                ))
            }
            Form::Partial { version, .. } => encoding::to_json(&partial(&parse(object), version)),
        }
    }

    fn table(&self, version: &str, metadata: Value, items: &[Value], header: bool) -> Value {
        let columns: Vec<Value> = self
            .descriptor
            .columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.r#type, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect();
        let mut items: Vec<&Value> = items.iter().collect();
        if let Some(order) = self.descriptor.hooks.row_order() {
            items.sort_by(|a, b| order(a, b));
        }
        let rows: Vec<Value> = items
            .into_iter()
            .map(|item| {
                let mut row = Map::new();
                row.insert("cells".into(), self.descriptor.hooks.cells(item, self.now).into());
                if let Some(condition) = self.completion(item) {
                    row.insert("conditions".into(), json!([condition]));
                }
                match self.include {
                    "None" => {}
                    "Object" => {
                        row.insert("object".into(), item.clone());
                    }
                    _ => {
                        row.insert("object".into(), partial(item, version));
                    }
                }
                row.into()
            })
            .collect();
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
            "columnDefinitions": if header { Value::from(columns) } else { Value::Null },
            "rows": rows,
        })
    }

    /// What the row of an object that came to its end says about it.
    fn completion(&self, item: &Value) -> Option<Value> {
        let (phase, message) = match item.pointer("/status/phase")?.as_str()? {
            phase @ "Succeeded" => (phase, "completed successfully."),
            phase @ "Failed" => (phase, "failed."),
            _ => return None,
        };
        let has = if phase == "Succeeded" { " has" } else { "" };
        let message = format!("The {}{has} {message}", self.descriptor.singular);
        self.descriptor
            .ends
            .then(|| json!({"type": "Completed", "status": "True", "reason": phase, "message": message}))
    }

    fn value(&self, code: u16, value: &Value) -> Response {
        value_response(self.accepted, code, value)
    }

    fn encoded(&self, code: u16, json: Bytes) -> Response {
        if self.accepted.encoding == Encoding::Json && !self.accepted.pretty {
            return response::bytes(code, response::JSON, json);
        }
        let (media_type, body) = encode(self.accepted, &parse(&json), Some(self.schema));
        response::bytes(code, media_type, body)
    }
}

/// The span of an answer that is put into its form.
fn serializing(accepted: Accepted) -> Span {
    let mut span = traces::span("SerializeObject");
    span.set("mediaType", accepted.encoding.media_type());
    span
}

/// A response with any value in the encoding agreed on.
pub fn value_response(accepted: Accepted, code: u16, value: &Value) -> Response {
    let (media_type, body) = encode(accepted, value, schema_of(value).as_ref());
    response::bytes(code, media_type, body)
}

/// A failure in the encoding agreed on.
pub fn failure(accepted: Accepted, status: &Status) -> Response {
    let mut response = response::failure(status);
    if accepted.encoding != Encoding::Json || accepted.pretty {
        let (media_type, body) = value_response(accepted, status.code, &status.to_json()).into_parts();
        *response.body_mut() = body;
        if let Some(kind) = media_type.headers.get(header::CONTENT_TYPE) {
            response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
    }
    response
}

/// The shape of a value of a built-in kind. What says no version (the oldest forms of discovery) is of the first.
fn schema_of(value: &Value) -> Option<Schema> {
    let version = GroupVersion::parse(value.get("apiVersion").map_or(Some("v1"), Value::as_str)?)?;
    let kind = value.get("kind")?.as_str()?;
    // The forms of meta.k8s.io are the same in both versions.
    let number = if version.group == "meta.k8s.io" { "v1" } else { &version.version };
    schema::table().of_kind(&version.group, number, kind).map(Schema::BuiltIn)
}

/// The value in an encoding, and what that is. What has no protobuf form (the paths of the server) stays JSON.
fn encode(accepted: Accepted, value: &Value, schema: Option<&Schema>) -> (&'static str, Bytes) {
    let media_type = accepted.encoding.media_type();
    let json = |value| {
        if accepted.pretty {
            serde_json::to_vec_pretty(value).unwrap_or_default().into()
        } else {
            encoding::to_json(value)
        }
    };
    match accepted.encoding {
        Encoding::Json => (media_type, json(value)),
        Encoding::Yaml => (media_type, serde_yaml_ng::to_string(value).unwrap_or_default().into()),
        Encoding::Cbor => (media_type, cbor::encode(value, schema).into()),
        Encoding::Protobuf => match schema.map(|schema| protobuf::encode(value, schema)) {
            Some(Ok(body)) => (media_type, body.into()),
            Some(Err(error)) => {
                tracing::warn!(%error, kind = %value["kind"], "an object has no protobuf form");
                (response::JSON, json(value))
            }
            None => (response::JSON, json(value)),
        },
    }
}

/// What an answer says, whatever encoding it went out in; `None` for what is no object.
pub fn read_back(headers: &header::HeaderMap, body: &[u8]) -> Option<Value> {
    let media_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match Encoding::of(media_type.split(';').next()?.trim())? {
        Encoding::Json => serde_json::from_slice(body).ok(),
        Encoding::Yaml => {
            schema::yaml_to_json(body).ok().and_then(|converted| serde_json::from_slice(&converted.json).ok())
        }
        Encoding::Cbor => cbor::decode(body).ok(),
        Encoding::Protobuf => protobuf::decode_named(body).ok(),
    }
}

/// One event of a watch around the JSON of its object. `schema` is that of whole objects of the resource; what is of
/// another kind (errors, partial metadata) says so itself.
pub fn watch_frame(encoding: Encoding, event: &str, object: &Bytes, schema: Option<&Schema>) -> Bytes {
    if matches!(encoding, Encoding::Json | Encoding::Yaml) {
        return change_frame(event, object);
    }
    let value = parse(object);
    let own = if schema.is_none() { schema_of(&value) } else { None };
    let schema = schema.or(own.as_ref());
    if encoding == Encoding::Cbor {
        return cbor::watch_event(event, &value, schema).into();
    }
    match schema.map(|schema| protobuf::encode(&value, schema)) {
        Some(Ok(body)) => protobuf::watch_frame(event, &body).into(),
        _ => protobuf::watch_frame("ERROR", &[]).into(),
    }
}

fn parse(object: &Bytes) -> Value {
    serde_json::from_slice(object).unwrap_or_default()
}

fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}
