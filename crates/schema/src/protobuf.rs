//! Objects as protobuf: `application/vnd.kubernetes.protobuf`, both ways.
//!
//! Messages are read and written by the table of definitions and the field numbers in `generated/protobuf.txt`; no
//! struct is generated for them. An object stands in an envelope (`runtime.Unknown`) behind four magic bytes. What is
//! written is what upstream writes of the same object, but for fields that hold nothing, which upstream writes out
//! where Go holds them by value: both read as nothing.
//! Not here: what is asked for (apiserver's `negotiation`), custom resources, which have no numbers.
//! Upstream: apimachinery `pkg/runtime/serializer/protobuf`, the `generated.proto` of each group.

mod layout;
mod read;
mod write;

use api::Status;
use serde_json::Value;

use crate::Schema;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a watch: events behind their length in four bytes.
pub const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

const MAGIC: &[u8] = b"k8s\0";

/// Messages nest no deeper; only the schemas in CustomResourceDefinitions come near.
const DEPTH: usize = 100;

/// Why a body cannot be read, or an object not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// The body ends inside a field.
    #[error("unexpected EOF")]
    End,
    /// A number has more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field is of another kind than its definition says.
    #[error("proto: wrong wireType")]
    WireType,
    /// A text is not UTF-8.
    #[error("proto: invalid UTF-8")]
    Text,
    /// A field has the number zero.
    #[error("proto: illegal tag 0")]
    Tag,
    /// Nested more deeply than any object.
    #[error("proto: message is nested too deeply")]
    Depth,
    /// The kind has no protobuf form.
    #[error(
        "{0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    Kind(String),
    /// What is to be JSON inside of the message is none, or nested too deeply.
    #[error("proto: a raw value is not JSON")]
    Raw,
    /// A value does not fit its definition.
    #[error("proto: field {0} cannot be encoded")]
    Value(&'static str),
}

/// Whether objects of this shape have a protobuf form.
pub fn supports(schema: &Schema) -> bool {
    matches!(schema, Schema::BuiltIn(definition) if layout::of(definition).is_some())
}

/// The object in its envelope.
pub fn encode(object: &Value, schema: &Schema) -> Result<Vec<u8>, Error> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    write::envelope(text("apiVersion"), text("kind"), |out| write::object(out, object, schema))
}

/// A list in its envelope, item by item: `item` gives the objects until there is none.
pub fn encode_list(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    item_schema: &Schema,
    mut item: impl FnMut() -> Option<Value>,
) -> Result<Vec<u8>, Error> {
    write::envelope(api_version, kind, |out| {
        write::list_meta(out, metadata)?;
        while let Some(object) = item() {
            write::nested(out, 2, |out| write::object(out, &object, item_schema))?;
        }
        Ok(())
    })
}

/// One event of a watch, behind its length: `object` is in its envelope.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    write::watch_event(&mut out, event, object);
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// The object in an envelope, with whatever kind the envelope says it is.
pub fn decode(body: &[u8], schema: &Schema) -> Result<Value, Error> {
    match schema {
        Schema::BuiltIn(definition) => read::unknown(body, definition),
        Schema::Structural(custom) => Err(Error::Kind(custom.kind.kind.clone())),
    }
}

/// The object in an envelope, of the built-in kind that the envelope names.
pub fn decode_named(body: &[u8]) -> Result<Value, Error> {
    let (version, kind) = read::named(body)?;
    let version = api::GroupVersion::parse(version).ok_or_else(|| Error::Kind(kind.to_owned()))?;
    let definition = crate::table().of_kind(&version.group, &version.version, kind);
    read::unknown(body, definition.ok_or_else(|| Error::Kind(kind.to_owned()))?)
}

/// The JSON of a request's body.
pub fn to_json(body: &[u8], schema: &Schema) -> Result<Vec<u8>, Status> {
    match decode(body, schema) {
        Ok(value) => serde_json::to_vec(&value).map_err(Status::internal),
        Err(Error::Kind(_)) => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml",
        )),
        Err(error) => Err(Status::bad_request(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
