//! Conversions between types, and `type`.
//! Upstream: cel-go `common/types` (`ConvertToType`).

use std::sync::Arc;

use super::{Call, time};
use crate::cel::value::{Error, Map, Opaque, Result, Value};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    let [value] = call.arguments else { return Err(call.no_overload()) };
    let converted = match call.function {
        "dyn" => return Ok(value.clone()),
        "type" => {
            return Ok(match value {
                Value::Map(Map::Struct(object)) => Value::Named(Arc::from(object.0.as_str())),
                value => Value::Kind(value.type_name()),
            });
        }
        "bool" => to_bool(value),
        "bytes" => match value {
            Value::Bytes(_) => Some(Ok(value.clone())),
            Value::String(text) => Some(Ok(Value::Bytes(text.as_bytes().into()))),
            _ => None,
        },
        "double" => to_double(value),
        "int" => to_int(value),
        "uint" => to_uint(value),
        _ => to_string(value),
    };
    converted.unwrap_or_else(|| Err(call.no_overload()))
}

fn unreadable<T>(text: &str, wanted: &str) -> Result<T> {
    Err(Error::failed(format!("type conversion error from 'string' to '{wanted}': {text:?}")))
}

fn to_bool<'a>(value: &Value<'a>) -> Option<Result<Value<'a>>> {
    Some(match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            text => Err(Error::failed(format!("strconv.ParseBool: parsing {text:?}: invalid syntax"))),
        },
        _ => return None,
    })
}

fn to_double<'a>(value: &Value<'a>) -> Option<Result<Value<'a>>> {
    Some(match value {
        Value::Double(_) => Ok(value.clone()),
        Value::Int(number) => Ok(Value::Double(*number as f64)),
        Value::Uint(number) => Ok(Value::Double(*number as f64)),
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) => Ok(Value::Double(number)),
            Err(_) => {
                Err(Error::failed(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", &**text)))
            }
        },
        _ => return None,
    })
}

fn parse<T: std::str::FromStr<Err = std::num::ParseIntError>>(text: &str, function: &str) -> Result<T> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| {
        let what = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Error::failed(format!("strconv.{function}: parsing {text:?}: {what}"))
    })
}

fn to_int<'a>(value: &Value<'a>) -> Option<Result<Value<'a>>> {
    let overflow = || Error::failed("integer overflow");
    Some(match value {
        Value::Int(_) => Ok(value.clone()),
        Value::Uint(number) => i64::try_from(*number).map(Value::Int).map_err(|_| overflow()),
        // The bounds themselves are no 64-bit integers as floats.
        Value::Double(number)
            if *number > -9.223_372_036_854_776e18 && *number < 9.223_372_036_854_776e18 =>
        {
            Ok(Value::Int(*number as i64))
        }
        Value::Double(_) => Err(overflow()),
        Value::String(text) => parse::<i64>(text, "ParseInt").map(Value::Int),
        Value::Timestamp(at) => Ok(Value::Int(at.as_second())),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        _ => return None,
    })
}

fn to_uint<'a>(value: &Value<'a>) -> Option<Result<Value<'a>>> {
    let overflow = || Error::failed("unsigned integer overflow");
    Some(match value {
        Value::Uint(_) => Ok(value.clone()),
        Value::Int(number) => u64::try_from(*number).map(Value::Uint).map_err(|_| overflow()),
        Value::Double(number) if *number >= 0.0 && *number < 1.844_674_407_370_955_2e19 => {
            Ok(Value::Uint(*number as u64))
        }
        Value::Double(_) => Err(overflow()),
        Value::String(text) => parse::<u64>(text, "ParseUint").map(Value::Uint),
        _ => return None,
    })
}

fn to_string<'a>(value: &Value<'a>) -> Option<Result<Value<'a>>> {
    Some(match value {
        Value::String(_) => Ok(value.clone()),
        Value::Bool(value) => Ok(Value::text(value.to_string())),
        Value::Int(number) => Ok(Value::text(number.to_string())),
        Value::Uint(number) => Ok(Value::text(number.to_string())),
        Value::Double(number) => Ok(Value::text(double_text(*number))),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::text(text)),
            Err(_) => Err(Error::failed("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Timestamp(at) => Ok(Value::text(time::timestamp_text(*at))),
        Value::Duration(nanos) => Ok(Value::text(time::duration_text(*nanos))),
        Value::Opaque(Opaque::Ip(address)) => Ok(Value::text(address.to_string())),
        Value::Opaque(Opaque::Cidr(address, bits)) => Ok(Value::text(format!("{address}/{bits}"))),
        Value::Null => return Some(unreadable("null", "string")),
        _ => return None,
    })
}

/// A float as Go's `strconv.FormatFloat(…, 'g', -1, 64)`.
pub(in crate::cel) fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return number.to_string() };
    let size: i32 = exponent.parse().unwrap_or_default();
    let written = digits.chars().filter(char::is_ascii_digit).count() as i32;
    if size >= -4 && size < 21.min(written.max(21)) {
        return number.to_string();
    }
    let sign = if size < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", size.abs())
}
