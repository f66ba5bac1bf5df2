//! Objects and lists in the form a client wants: whole, as a Table, or metadata only; JSON or YAML.
//!
//! Whole objects in compact JSON are the stored bytes, untouched. Everything else is derived from them.
//! Upstream: apiserver/pkg/endpoints/handlers/response.go, apimachinery's meta/v1 Table.

use api::kind::Descriptor;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::encoding;
use crate::negotiation::{Accepted, Encoding, Form};
use crate::request::Query;
use crate::response::{self, Response};

/// How to lay out the objects of one resource.
pub struct Output<'a> {
    /// What the client wants.
    pub accepted: Accepted,
    /// Columns and cells.
    pub descriptor: &'a Descriptor,
    /// `includeObject` of tables: `Metadata` (also when not given), `None` or `Object`.
    pub include: &'a str,
    /// The present, for ages.
    pub now: Timestamp,
}

impl<'a> Output<'a> {
    /// Reads `includeObject`.
    pub fn new(accepted: Accepted, descriptor: &'a Descriptor, query: &'a Query, now: Timestamp) -> Self {
        Self { accepted, descriptor, include: query.get("includeObject").unwrap_or_default(), now }
    }

    /// A response with one object.
    pub fn object(&self, code: u16, object: &Bytes) -> Response {
        match self.accepted.form {
            Form::Whole => self.encoded(code, object.clone()),
            Form::Table(version) => {
                let value = parse(object);
                let revision = value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                let table = self.table(version, json!({"resourceVersion": revision}), &[value], true);
                self.value(code, &table)
            }
            Form::Partial(version) => self.value(code, &partial(&parse(object), version)),
        }
    }

    /// A response with a list; `metadata` is the ListMeta.
    pub fn list(&self, metadata: Value, items: Vec<Bytes>) -> Response {
        match self.accepted.form {
            Form::Whole if self.accepted.encoding == Encoding::Json && !self.accepted.pretty => {
                let head = format!(
                    "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                    self.descriptor.list_kind,
                    self.descriptor.group_version(),
                );
                response::concatenation(response::JSON, head.into(), items, Bytes::from_static(b"]}"))
            }
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
            Form::Partial(version) => self.value(
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
            Form::Partial(version) => encoding::to_json(&partial(&parse(object), version)),
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
        let rows: Vec<Value> = items
            .iter()
            .map(|item| {
                let mut row = Map::new();
                row.insert("cells".into(), self.descriptor.hooks.cells(item, self.now).into());
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

    fn value(&self, code: u16, value: &Value) -> Response {
        value_response(self.accepted, code, value)
    }

    fn encoded(&self, code: u16, json: Bytes) -> Response {
        if self.accepted.encoding == Encoding::Json && !self.accepted.pretty {
            return response::bytes(code, response::JSON, json);
        }
        self.value(code, &parse(&json))
    }
}

/// A response with any value in the encoding agreed on.
pub fn value_response(accepted: Accepted, code: u16, value: &Value) -> Response {
    let body: Bytes = match accepted.encoding {
        Encoding::Json if accepted.pretty => serde_json::to_vec_pretty(value).unwrap_or_default().into(),
        Encoding::Json => encoding::to_json(value),
        Encoding::Yaml => serde_yaml_ng::to_string(value).unwrap_or_default().into(),
    };
    response::bytes(code, accepted.encoding.media_type(), body)
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
