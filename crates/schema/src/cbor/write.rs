//! JSON values to items.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::table::{Definition, Type, table};

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
/// «Expected conversion to base64.»
const LATER_BASE64: u64 = 22;

fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        0..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend_from_slice(&[major | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    head(out, BYTES, text.len() as u64);
    out.extend_from_slice(text);
}

/// An object of a definition, or of none.
pub(super) fn object(out: &mut Vec<u8>, value: &Value, definition: Option<&'static Definition>) {
    match (value, definition) {
        (Value::Object(object), Some(definition)) => {
            map(out, object, |name| definition.field(name).map(|field| &field.r#type));
        }
        (value, _) => any(out, value, None),
    }
}

pub(super) fn event(out: &mut Vec<u8>, event: &str, object: &[u8]) {
    head(out, MAP, 2);
    text(out, b"type");
    text(out, event.as_bytes());
    text(out, b"object");
    out.extend_from_slice(object);
}

fn map<'a>(out: &mut Vec<u8>, object: &Map<String, Value>, of: impl Fn(&str) -> Option<&'a Type>) {
    head(out, MAP, object.len() as u64);
    // The order of the encoded keys: their heads hold their lengths.
    let mut members: Vec<(&String, &Value)> = object.iter().collect();
    members.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
    for (name, value) in members {
        text(out, name.as_bytes());
        any(out, value, of(name));
    }
}

/// Bounded by the nesting of the value, which decoding bounded.
fn any(out: &mut Vec<u8>, value: &Value, r#type: Option<&Type>) {
    match (value, r#type) {
        (Value::Object(_), Some(Type::Definition(reference))) => {
            object(out, value, Some(table().get(*reference)));
        }
        (Value::Object(object), Some(Type::Map(item))) => map(out, object, |_| Some(item)),
        (Value::Object(object), _) => map(out, object, |_| None),
        (Value::Array(list), r#type) => {
            let item = match r#type {
                Some(Type::Array(item)) => Some(&**item),
                _ => None,
            };
            head(out, ARRAY, list.len() as u64);
            list.iter().for_each(|one| any(out, one, item));
        }
        (Value::String(base64), Some(Type::Bytes)) => match STANDARD.decode(base64) {
            Ok(bytes) => {
                head(out, TAG, LATER_BASE64);
                text(out, &bytes);
            }
            Err(_) => text(out, base64.as_bytes()),
        },
        (Value::String(string), _) => text(out, string.as_bytes()),
        (Value::Null, _) => out.push(0xf6),
        (Value::Bool(flag), _) => out.push(if *flag { 0xf5 } else { 0xf4 }),
        (Value::Number(number), _) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => head(out, UNSIGNED, whole),
            (None, Some(negative)) => head(out, NEGATIVE, (!negative).cast_unsigned()),
            (None, None) => float(out, number.as_f64().unwrap_or_default()),
        },
    }
}

/// As short as it can be without loss.
fn float(out: &mut Vec<u8>, number: f64) {
    #[expect(clippy::cast_possible_truncation, reason = "compared with the original")]
    let single = number as f32;
    if f64::from(single).to_bits() != number.to_bits() {
        out.push(0xfb);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Some(half) = half(single) {
        out.push(0xf9);
        out.extend_from_slice(&half.to_be_bytes());
    } else {
        out.push(0xfa);
        out.extend_from_slice(&single.to_be_bytes());
    }
}

/// The half-precision form of a number that has one.
fn half(number: f32) -> Option<u16> {
    let bits = number.to_bits();
    let sign = u16::try_from(bits >> 31).unwrap_or_default() << 15;
    let exponent = i32::try_from((bits >> 23) & 0xff).unwrap_or_default() - 127;
    let fraction = bits & 0x007f_ffff;
    if bits << 1 == 0 {
        return Some(sign);
    }
    let narrow = |bits: u32| u16::try_from(bits).ok();
    match exponent {
        -14..=15 if fraction & 0x1fff == 0 => {
            let exponent = narrow(u32::try_from(exponent + 15).ok()?)? << 10;
            Some(sign | exponent | narrow(fraction >> 13)?)
        }
        // Below the least normal number the leading one is part of the fraction.
        -24..=-15 => {
            let whole = fraction | 0x0080_0000;
            let shift = u32::try_from(-exponent - 14 + 13).ok()?;
            (whole & ((1 << shift) - 1) == 0).then_some(sign | narrow(whole >> shift)?)
        }
        _ => None,
    }
}
