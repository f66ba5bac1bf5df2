//! JSON values to messages. A nested message is written behind the place of its length, which is then made room for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::layout::{self, Layout, Slot};
use super::{Error, MAGIC};
use crate::Schema;
use crate::table::{Definition, JSON_SCHEMA_PROPS, SchemaOr, Type, table};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

type Written = Result<(), Error>;

/// `runtime.Unknown` around what `raw` writes.
pub(super) fn envelope(
    api_version: &str,
    kind: &str,
    raw: impl FnOnce(&mut Vec<u8>) -> Written,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(MAGIC);
    nested(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
        Ok(())
    })?;
    nested(&mut out, 2, raw)?;
    // The encoding and type of the content, which are those of the envelope.
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    Ok(out)
}

pub(super) fn watch_event(out: &mut Vec<u8>, event: &str, object: &[u8]) {
    bytes(out, 1, event.as_bytes());
    let mut raw = Vec::with_capacity(object.len() + 8);
    bytes(&mut raw, 1, object);
    bytes(out, 2, &raw);
}

pub(super) fn object(out: &mut Vec<u8>, object: &Value, schema: &Schema) -> Written {
    let kind = || object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    match (schema, object) {
        (Schema::BuiltIn(definition), Value::Object(object)) => message(out, object, definition),
        _ => Err(Error::Kind(kind())),
    }
}

/// The `metadata` of a list.
pub(super) fn list_meta(out: &mut Vec<u8>, metadata: &Value) -> Written {
    let definition = table().definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    match (definition, metadata.as_object()) {
        (Some(definition), Some(metadata)) => nested(out, 1, |out| message(out, metadata, definition)),
        _ => Ok(()),
    }
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

fn key(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn number(out: &mut Vec<u8>, at: u32, number: i64) {
    key(out, at, VARINT);
    varint(out, number.cast_unsigned());
}

fn bytes(out: &mut Vec<u8>, at: u32, bytes: &[u8]) {
    key(out, at, BYTES);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message within a message.
pub(super) fn nested(out: &mut Vec<u8>, at: u32, content: impl FnOnce(&mut Vec<u8>) -> Written) -> Written {
    key(out, at, BYTES);
    let start = out.len();
    // Most are shorter than 128 bytes, whose length takes one.
    out.push(0);
    content(out)?;
    let length = out.len() - start - 1;
    if let Ok(short @ 0..=0x7f) = u8::try_from(length) {
        out[start] = short;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(10);
    varint(&mut prefix, length as u64);
    out.splice(start..=start, prefix);
    Ok(())
}

fn message(out: &mut Vec<u8>, object: &Map<String, Value>, definition: &'static Definition) -> Written {
    if definition.fields.is_empty() {
        return Ok(());
    }
    let layout = layout::of(definition).ok_or_else(|| Error::Kind(definition.short_name().to_owned()))?;
    slots(out, object, layout)
}

fn slots(out: &mut Vec<u8>, object: &Map<String, Value>, layout: &Layout) -> Written {
    for (at, slot) in &layout.0 {
        match slot {
            Slot::Inline(below) => nested(out, *at, |out| slots(out, object, below))?,
            Slot::Field(field) => match object.get(field.name) {
                None | Some(Value::Null) => {}
                Some(value) => member(out, *at, value, &field.r#type).map_err(|error| match error {
                    Error::Value("") => Error::Value(field.name),
                    other => other,
                })?,
            },
        }
    }
    Ok(())
}

/// A field of any type; lists and maps are several fields of one number.
fn member(out: &mut Vec<u8>, at: u32, value: &Value, r#type: &Type) -> Written {
    match (r#type, value) {
        (Type::Array(item), Value::Array(list)) => list.iter().try_for_each(|one| single(out, at, one, item)),
        (Type::Map(item), Value::Object(map)) => map.iter().try_for_each(|(name, one)| {
            nested(out, at, |out| {
                bytes(out, 1, name.as_bytes());
                match (&**item, one) {
                    // A list in a map is a message of its own (ExtraValue).
                    (Type::Array(_), one) => nested(out, 2, |out| member(out, 1, one, item)),
                    (Type::String | Type::Bytes, Value::Null) => {
                        bytes(out, 2, b"");
                        Ok(())
                    }
                    (_, one) => single(out, 2, one, item),
                }
            })
        }),
        (Type::Array(_) | Type::Map(_), _) => Err(Error::Value("")),
        (single_type, value) => single(out, at, value, single_type),
    }
}

fn single(out: &mut Vec<u8>, at: u32, value: &Value, r#type: &Type) -> Written {
    let mistyped = Error::Value("");
    match r#type {
        Type::String => bytes(out, at, value.as_str().ok_or(mistyped)?.as_bytes()),
        Type::Bytes => {
            let decoded = STANDARD.decode(value.as_str().ok_or(Error::Value(""))?);
            bytes(out, at, &decoded.map_err(|_| mistyped)?);
        }
        Type::Int32 | Type::Int64 => number(out, at, value.as_i64().ok_or(mistyped)?),
        Type::Number => {
            key(out, at, FIXED64);
            out.extend_from_slice(&value.as_f64().ok_or(mistyped)?.to_le_bytes());
        }
        Type::Boolean => number(out, at, value.as_bool().ok_or(mistyped)?.into()),
        Type::Quantity => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(mistyped),
            };
            return nested(out, at, |out| {
                bytes(out, 1, text.as_bytes());
                Ok(())
            });
        }
        Type::IntOrString => {
            return nested(out, at, |out| {
                let (kind, whole, text) = match value {
                    Value::String(text) => (1, 0, text.as_str()),
                    other => (0, other.as_i64().ok_or(Error::Value(""))?, ""),
                };
                number(out, 1, kind);
                number(out, 2, whole);
                bytes(out, 3, text.as_bytes());
                Ok(())
            });
        }
        Type::Time | Type::MicroTime => {
            let time: Option<jiff::Timestamp> = value.as_str().and_then(|text| text.parse().ok());
            let time = time.ok_or(mistyped)?;
            return nested(out, at, |out| {
                // Nanoseconds count up from a whole second, also before 1970.
                let whole = time.as_nanosecond().div_euclid(1_000_000_000);
                let rest = time.as_nanosecond().rem_euclid(1_000_000_000);
                number(out, 1, i64::try_from(whole).unwrap_or_default());
                number(out, 2, i64::try_from(rest).unwrap_or_default());
                Ok(())
            });
        }
        Type::Object(_) | Type::Any => {
            let json = serde_json::to_vec(value).map_err(|_| mistyped)?;
            return nested(out, at, |out| {
                bytes(out, 1, &json);
                Ok(())
            });
        }
        Type::SchemaOr(other) => return nested(out, at, |out| schema_or(out, value, *other)),
        Type::Definition(reference) => {
            let object = value.as_object().ok_or(mistyped)?;
            return nested(out, at, |out| message(out, object, table().get(*reference)));
        }
        Type::Array(_) | Type::Map(_) => return Err(mistyped),
    }
    Ok(())
}

fn schema_or(out: &mut Vec<u8>, value: &Value, other: SchemaOr) -> Written {
    let schema = |out: &mut Vec<u8>, at: u32, object: &Map<String, Value>| match table()
        .definition(JSON_SCHEMA_PROPS)
    {
        Some(definition) => nested(out, at, |out| message(out, object, definition)),
        None => Err(Error::Value("")),
    };
    match (other, value) {
        (SchemaOr::Bool, Value::Bool(allows)) => number(out, 1, (*allows).into()),
        (SchemaOr::Bool, Value::Object(object)) => {
            number(out, 1, 1);
            schema(out, 2, object)?;
        }
        (_, Value::Object(object)) => schema(out, 1, object)?,
        (SchemaOr::Array, Value::Array(list)) => {
            for one in list {
                schema(out, 2, one.as_object().ok_or(Error::Value(""))?)?;
            }
        }
        (SchemaOr::StringArray, Value::Array(list)) => {
            for one in list {
                bytes(out, 2, one.as_str().ok_or(Error::Value(""))?.as_bytes());
            }
        }
        _ => return Err(Error::Value("")),
    }
    Ok(())
}
