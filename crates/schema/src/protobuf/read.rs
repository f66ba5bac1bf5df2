//! Messages to JSON values. Fields without a number in the table are passed over.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::layout::{self, Layout, Slot};
use super::{DEPTH, Error, MAGIC};
use crate::table::{Definition, JSON_SCHEMA_PROPS, SchemaOr, Type, Zero, table};

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

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u32, Wire<'a>), Error> {
        let data = &mut self.0;
        let key = varint(data)?;
        let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0).ok_or(Error::Tag)?;
        let wire = match key & 7 {
            0 => Wire::Number(varint(data)?),
            1 => Wire::Number(little_endian(take(data, 8)?)),
            2 => {
                let length = usize::try_from(varint(data)?).map_err(|_| Error::Overflow)?;
                Wire::Bytes(take(data, length)?)
            }
            5 => Wire::Number(little_endian(take(data, 4)?)),
            _ => return Err(Error::WireType),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The last field of a number: later ones replace earlier ones.
fn last(data: &[u8], number: u32) -> Result<Option<Wire<'_>>, Error> {
    let mut found = None;
    for field in Fields(data) {
        let (at, wire) = field?;
        if at == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn text_at(data: &[u8], number: u32) -> Result<&str, Error> {
    last(data, number)?.map_or(Ok(""), Wire::text)
}

/// `runtime.Unknown`: the type and the bytes of the object.
pub(super) fn unknown(body: &[u8], definition: &'static Definition) -> Result<Value, Error> {
    let layout = layout::of(definition).ok_or_else(|| Error::Kind(definition.short_name().to_owned()))?;
    let envelope = body.strip_prefix(MAGIC).ok_or(Error::Magic)?;
    let raw = last(envelope, 2)?.map(Wire::bytes).transpose()?.unwrap_or_default();
    let mut object = Map::new();
    message(raw, layout, DEPTH, &mut object)?;
    if let Some(meta) = last(envelope, 1)? {
        let meta = meta.bytes()?;
        for (number, member) in [(1, "apiVersion"), (2, "kind")] {
            let text = text_at(meta, number)?;
            if !text.is_empty() {
                object.insert(member.to_owned(), text.into());
            }
        }
    }
    Ok(object.into())
}

/// The `apiVersion` and `kind` that an envelope names.
pub(super) fn named(body: &[u8]) -> Result<(&str, &str), Error> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Error::Magic)?;
    let meta = last(envelope, 1)?.map(Wire::bytes).transpose()?.unwrap_or_default();
    Ok((text_at(meta, 1)?, text_at(meta, 2)?))
}

fn message(data: &[u8], layout: &Layout, depth: usize, out: &mut Map<String, Value>) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Depth)?;
    for field in Fields(data) {
        let (number, wire) = field?;
        match layout.get(number) {
            None => {}
            Some(Slot::Inline(below)) => message(wire.bytes()?, below, depth, out)?,
            Some(Slot::Field(field)) => match &field.r#type {
                Type::Array(item) => {
                    let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        list.push(one(wire, item, depth)?);
                    }
                }
                Type::Map(item) => {
                    let (key, value) = entry(wire.bytes()?, item, depth)?;
                    let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                    map[key] = value;
                }
                single => {
                    let value = one(wire, single, depth)?;
                    if !is_zero(&value) || (field.zero != Zero::Omitted && !value.is_null()) {
                        out.insert(field.name.to_owned(), value);
                    } else {
                        out.remove(field.name);
                    }
                }
            },
        }
    }
    Ok(())
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

/// An entry of a map.
fn entry<'a>(data: &'a [u8], item: &Type, depth: usize) -> Result<(&'a str, Value), Error> {
    let key = text_at(data, 1)?;
    let value = match (last(data, 2)?, item) {
        // A list in a map is a message of its own (ExtraValue).
        (Some(held), Type::Array(item)) => {
            let mut list = Vec::new();
            for field in Fields(held.bytes()?) {
                let (number, wire) = field?;
                if number == 1 {
                    list.push(one(wire, item, depth)?);
                }
            }
            list.into()
        }
        (Some(held), item) => one(held, item, depth)?,
        (None, Type::String | Type::Bytes) => "".into(),
        (None, _) => Value::Null,
    };
    Ok((key, value))
}

/// As Go writes it: a whole number has no fraction.
fn number_of(number: f64) -> Value {
    // The whole numbers of which each has a floating-point number of its own.
    let exact = -9_007_199_254_740_992.0..=9_007_199_254_740_992.0;
    if number.fract() == 0.0 && exact.contains(&number) {
        #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
        return (number as i64).into();
    }
    number.into()
}

fn one(wire: Wire<'_>, r#type: &Type, depth: usize) -> Result<Value, Error> {
    let number = |data: &[u8], at: u32| -> Result<i64, Error> {
        Ok(last(data, at)?.map(Wire::number).transpose()?.unwrap_or(0).cast_signed())
    };
    Ok(match r#type {
        Type::String => wire.text()?.into(),
        Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Type::Int32 | Type::Int64 => wire.number()?.cast_signed().into(),
        Type::Number => number_of(f64::from_bits(wire.number()?)),
        Type::Boolean => (wire.number()? != 0).into(),
        Type::Quantity => match text_at(wire.bytes()?, 1)? {
            "" => "0".into(),
            text => text.into(),
        },
        Type::IntOrString => {
            let data = wire.bytes()?;
            match number(data, 1)? {
                0 => number(data, 2)?.into(),
                _ => text_at(data, 3)?.into(),
            }
        }
        Type::Time | Type::MicroTime => {
            let data = wire.bytes()?;
            // The zero time is written as an empty message.
            if data.is_empty() {
                return Ok(Value::Null);
            }
            let nanos = i32::try_from(number(data, 2)?).unwrap_or(0);
            let Ok(time) = jiff::Timestamp::new(number(data, 1)?, nanos) else { return Ok(Value::Null) };
            let format = if *r#type == Type::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            time.strftime(format).to_string().into()
        }
        Type::Object(_) | Type::Any => {
            let raw = last(wire.bytes()?, 1)?.map(Wire::bytes).transpose()?.unwrap_or_default();
            match raw {
                [] => Value::Null,
                raw => serde_json::from_slice(raw).map_err(|_| Error::Raw)?,
            }
        }
        Type::Definition(reference) => definition(wire, table().get(*reference), depth)?,
        Type::SchemaOr(other) => schema_or(wire.bytes()?, *other, depth)?,
        Type::Array(_) | Type::Map(_) => return Err(Error::WireType),
    })
}

fn definition(wire: Wire<'_>, definition: &'static Definition, depth: usize) -> Result<Value, Error> {
    let mut object = Map::new();
    if let Some(layout) = layout::of(definition) {
        message(wire.bytes()?, layout, depth, &mut object)?;
    }
    Ok(object.into())
}

fn schema_or(data: &[u8], other: SchemaOr, depth: usize) -> Result<Value, Error> {
    let schema = |wire: Wire<'_>| match table().definition(JSON_SCHEMA_PROPS) {
        Some(props) => definition(wire, props, depth),
        None => Ok(Value::Null),
    };
    if other == SchemaOr::Bool {
        return match last(data, 2)? {
            Some(wire) => schema(wire),
            None => Ok((last(data, 1)?.map(Wire::number).transpose()?.unwrap_or(0) != 0).into()),
        };
    }
    if let Some(wire) = last(data, 1)? {
        return schema(wire);
    }
    let mut list = Vec::new();
    for field in Fields(data) {
        let (number, wire) = field?;
        match (number, other) {
            (2, SchemaOr::StringArray) => list.push(wire.text()?.into()),
            (2, _) => list.push(schema(wire)?),
            _ => {}
        }
    }
    Ok(list.into())
}
