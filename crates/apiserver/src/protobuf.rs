//! Protobuf request bodies of built-in kinds, read as the JSON that everything else works with.
//!
//! `kubectl create`, `auth can-i` and other typed clients send `application/vnd.kubernetes.protobuf`. The shape is
//! the kind's schema; the field numbers are a generated table. Responses are JSON.
//! Protobuf does not tell an absent value from a zero one where upstream's struct has no pointer: zeros are left
//! out but for the fields in [`POINTERS`], for which zero means something of its own.
//! Upstream: apimachinery/pkg/runtime/serializer/protobuf, the `generated.proto` of each group.

use std::collections::HashMap;
use std::sync::OnceLock;

use api::Status;
use base64::Engine;
use schema::Schema;
use schema::table::{Definition, Type};
use serde_json::{Map, Value};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// Messages nest no deeper in any built-in kind (CustomResourceDefinitions aside, which are not read).
const DEPTH: usize = 32;

/// Fields that are pointers upstream and for which zero is not the default.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowed",
    "attachRequired",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "immutable",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "podInfoOnMount",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "volumeAttributesClassName",
];

/// Why a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    #[error("unexpected EOF")]
    End,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: wrong wireType")]
    WireType,
    #[error("proto: invalid UTF-8")]
    Text,
    #[error("proto: illegal tag 0")]
    Tag,
    #[error("proto: message is nested too deeply")]
    Depth,
}

/// The JSON of a body that is an object of the shape `schema`.
pub fn to_json(body: &[u8], schema: &Schema) -> Result<Vec<u8>, Status> {
    let Schema::BuiltIn(definition) = schema else { return Err(unsupported()) };
    if !tags().contains_key(definition.name) {
        return Err(unsupported());
    }
    let value = unknown(body, definition).map_err(|error| Status::bad_request(error.to_string()))?;
    serde_json::to_vec(&value).map_err(Status::internal)
}

fn unsupported() -> Status {
    Status::unsupported_media_type(
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml",
    )
}

/// Field numbers by definition and JSON name.
fn tags() -> &'static HashMap<&'static str, HashMap<&'static str, Vec<u32>>> {
    static TAGS: OnceLock<HashMap<&'static str, HashMap<&'static str, Vec<u32>>>> = OnceLock::new();
    TAGS.get_or_init(|| {
        let lines = include_str!("protobuf/tags.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let mut words = line.split(' ');
                let name = words.next()?;
                let fields = words.filter_map(|word| {
                    let (field, path) = word.split_once('=')?;
                    Some((field, path.split('.').map(str::parse).collect::<Result<_, _>>().ok()?))
                });
                Some((name, fields.collect()))
            })
            .collect()
    })
}

/// One field off the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(Error::WireType),
        }
    }

    fn number(self) -> Result<u64, Error> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(Error::WireType),
        }
    }

    fn text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Text)
    }
}

fn varint(data: &mut &[u8]) -> Result<u64, Error> {
    let mut out = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first().ok_or(Error::End)?;
        *data = rest;
        out |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(out);
        }
    }
    Err(Error::Overflow)
}

fn take<'a>(data: &mut &'a [u8], length: usize) -> Result<&'a [u8], Error> {
    let (taken, rest) = data.split_at_checked(length).ok_or(Error::End)?;
    *data = rest;
    Ok(taken)
}

/// The fields of a message in order.
fn fields(mut data: &[u8]) -> Result<Vec<(u32, Wire<'_>)>, Error> {
    let mut out = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data)?;
        let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0).ok_or(Error::Tag)?;
        let wire = match key & 7 {
            0 => Wire::Number(varint(&mut data)?),
            1 => {
                let bytes = take(&mut data, 8)?;
                Wire::Number(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            2 => {
                let length = usize::try_from(varint(&mut data)?).map_err(|_| Error::Overflow)?;
                Wire::Bytes(take(&mut data, length)?)
            }
            5 => {
                let bytes = take(&mut data, 4)?;
                Wire::Number(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            _ => return Err(Error::WireType),
        };
        out.push((number, wire));
    }
    Ok(out)
}

/// The last field of a number: later ones replace earlier ones.
fn last<'a>(fields: &[(u32, Wire<'a>)], number: u32) -> Option<Wire<'a>> {
    fields.iter().rev().find(|(n, _)| *n == number).map(|(_, wire)| *wire)
}

/// `runtime.Unknown`: the type and the bytes of the object.
fn unknown(body: &[u8], definition: &'static Definition) -> Result<Value, Error> {
    let envelope = fields(body.strip_prefix(MAGIC).ok_or(Error::Magic)?)?;
    let raw = last(&envelope, 2).map(Wire::bytes).transpose()?.unwrap_or_default();
    let mut object = message(raw, definition, DEPTH)?;
    if let Some(meta) = last(&envelope, 1) {
        let meta = fields(meta.bytes()?)?;
        for (number, member) in [(1, "apiVersion"), (2, "kind")] {
            let text = last(&meta, number).map(Wire::text).transpose()?.unwrap_or_default();
            if !text.is_empty() {
                object.insert(member.to_owned(), text.into());
            }
        }
    }
    Ok(object.into())
}

fn message(data: &[u8], definition: &'static Definition, depth: usize) -> Result<Map<String, Value>, Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Depth)?;
    let mut out = Map::new();
    let Some(numbers) = tags().get(definition.name) else { return Ok(out) };
    let top = fields(data)?;
    for field in &definition.fields {
        let Some((number, path)) = numbers.get(field.name).and_then(|path| path.split_last()) else {
            continue;
        };
        let mut at = top.clone();
        for step in path {
            let inlined = last(&at, *step).map(Wire::bytes).transpose()?.unwrap_or_default();
            at = fields(inlined)?;
        }
        let wires: Vec<Wire<'_>> =
            at.into_iter().filter(|(n, _)| n == number).map(|(_, wire)| wire).collect();
        if wires.is_empty() {
            continue;
        }
        let value = value(&wires, &field.r#type, depth)?;
        if !is_zero(&value) || (POINTERS.contains(&field.name) && !value.is_null()) {
            out.insert(field.name.to_owned(), value);
        }
    }
    Ok(out)
}

/// Whether upstream's JSON leaves the value out (`omitempty`); an empty message is there for its own sake.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

fn value(wires: &[Wire<'_>], kind: &Type, depth: usize) -> Result<Value, Error> {
    match kind {
        Type::Array(item) => {
            let items = wires.iter().map(|wire| value(std::slice::from_ref(wire), item, depth));
            Ok(items.collect::<Result<Vec<_>, _>>()?.into())
        }
        Type::Map(item) => {
            let mut out = Map::new();
            for wire in wires {
                let entry = fields(wire.bytes()?)?;
                let key = last(&entry, 1).map(Wire::text).transpose()?.unwrap_or_default();
                let held = last(&entry, 2);
                let item = match (held, &**item) {
                    // A list in a map is a message of its own (ExtraValue).
                    (Some(held), Type::Array(_)) => {
                        let items = fields(held.bytes()?)?.into_iter().filter(|(number, _)| *number == 1);
                        let items: Vec<Wire<'_>> = items.map(|(_, wire)| wire).collect();
                        value(&items, item, depth)?
                    }
                    (Some(held), item) => value(&[held], item, depth)?,
                    (None, Type::String | Type::Bytes) => "".into(),
                    (None, _) => Value::Null,
                };
                out.insert(key.to_owned(), item);
            }
            Ok(out.into())
        }
        single => match wires.last() {
            Some(wire) => one(*wire, single, depth),
            None => Ok(Value::Null),
        },
    }
}

fn one(wire: Wire<'_>, kind: &Type, depth: usize) -> Result<Value, Error> {
    let number = |fields: &[(u32, Wire<'_>)], at: u32| -> Result<i64, Error> {
        Ok(last(fields, at).map(Wire::number).transpose()?.unwrap_or(0).cast_signed())
    };
    Ok(match kind {
        Type::String => wire.text()?.into(),
        Type::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
        Type::Int32 | Type::Int64 => wire.number()?.cast_signed().into(),
        Type::Number => f64::from_bits(wire.number()?).into(),
        Type::Boolean => (wire.number()? != 0).into(),
        Type::Quantity => {
            let quantity = fields(wire.bytes()?)?;
            last(&quantity, 1).map(Wire::text).transpose()?.unwrap_or("0").into()
        }
        Type::IntOrString => {
            let fields = fields(wire.bytes()?)?;
            match number(&fields, 1)? {
                0 => number(&fields, 2)?.into(),
                _ => last(&fields, 3).map(Wire::text).transpose()?.unwrap_or_default().into(),
            }
        }
        Type::Time | Type::MicroTime => {
            let fields = fields(wire.bytes()?)?;
            // The zero time is written as an empty message.
            if fields.is_empty() {
                return Ok(Value::Null);
            }
            let nanos = i32::try_from(number(&fields, 2)?).unwrap_or(0);
            let Ok(time) = jiff::Timestamp::new(number(&fields, 1)?, nanos) else { return Ok(Value::Null) };
            let format = if *kind == Type::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            time.strftime(format).to_string().into()
        }
        Type::Object(_) | Type::Any => {
            let fields = fields(wire.bytes()?)?;
            let raw = last(&fields, 1).map(Wire::bytes).transpose()?.unwrap_or_default();
            serde_json::from_slice(raw).unwrap_or_default()
        }
        Type::Definition(reference) => message(wire.bytes()?, schema::table().get(*reference), depth)?.into(),
        // Only CustomResourceDefinitions have these, and they have no field numbers here.
        Type::SchemaOr(_) => Value::Null,
        Type::Array(_) | Type::Map(_) => return Err(Error::WireType),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(name: &str) -> Schema {
        Schema::built_in(name).unwrap()
    }

    /// `field` as a length-delimited field of a message.
    fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [part(1, api_version.as_bytes()), part(2, kind.as_bytes())].concat();
        [MAGIC, &part(1, &meta), &part(2, raw)].concat()
    }

    #[test]
    fn what_kubectl_sends_is_read() {
        let labels = [part(1, b"a"), part(2, b"b")].concat();
        // Name, an empty generateName, an empty creationTimestamp, a label.
        let metadata = [part(1, b"x"), part(2, b""), part(8, b""), part(11, &labels)].concat();
        let data = [part(1, b"k"), part(2, b"v")].concat();
        let raw = [part(1, &metadata), part(2, &data)].concat();
        let json = to_json(&body("v1", "ConfigMap", &raw), &schema("io.k8s.api.core.v1.ConfigMap")).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "x", "labels": {"a": "b"}}, "data": {"k": "v"},
            })
        );
    }

    #[test]
    fn a_zero_that_means_something_is_kept() {
        let spec = vec![1 << 3, 0, 5 << 3, 0];
        let raw = part(2, &spec);
        let json =
            to_json(&body("apps/v1", "Deployment", &raw), &schema("io.k8s.api.apps.v1.Deployment")).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["spec"], serde_json::json!({"replicas": 0}));
    }

    #[test]
    fn garbage_is_refused_and_never_more() {
        let schema = schema("io.k8s.api.core.v1.Pod");
        let good = body("v1", "Pod", &part(1, &part(1, b"x")));
        for bad in [
            &b""[..],
            b"k8s",
            b"{}",
            b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"k8s\0\x12\xff\x01x",
        ] {
            assert_eq!(to_json(bad, &schema).map_err(|status| status.code), Err(400), "{bad:?}");
        }
        for at in 0..good.len() {
            // Cut short or with one byte changed: read or refused, but nothing else.
            let _ = to_json(&good[..at], &schema);
            let mut changed = good.clone();
            changed[at] ^= 0xff;
            let _ = to_json(&changed, &schema);
        }
    }

    #[test]
    fn every_definition_in_the_table_is_known() {
        for name in tags().keys() {
            assert!(schema::table().definition(name).is_some(), "{name}");
        }
        assert!(tags().len() > 300, "{}", tags().len());
        assert_eq!(tags()["io.k8s.api.core.v1.Volume"]["emptyDir"], [2, 2]);
    }
}
