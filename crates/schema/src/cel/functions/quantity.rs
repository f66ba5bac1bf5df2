//! Quantities; their comparisons are those of semantic versions too.
//! Upstream: apiserver `pkg/cel/library/quantity.go`.

use std::cmp::Ordering;

use api::quantity::{Format, Quantity};

use super::{Call, semver};
use crate::cel::value::{Error, Opaque, Result, Value};

fn parse(text: &str) -> Option<Quantity> {
    Quantity::parse(text).ok()
}

fn float(quantity: &Quantity) -> f64 {
    if quantity.is_whole() {
        return quantity.value() as f64;
    }
    let milli = quantity.milli_value();
    if quantity.is_whole_milli() && milli != i64::MAX {
        return milli as f64 / 1000.0;
    }
    // Smaller parts than thousandths: what the canonical text says (`5u`, `7n`).
    let text = quantity.to_string();
    let (digits, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let scale = match unit {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        _ => 1.0,
    };
    digits.parse::<f64>().unwrap_or_default() * scale
}

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    let made = |quantity: Quantity| Ok(Value::Opaque(Opaque::Quantity(quantity)));
    let whole = |number: i64| Quantity::new(number, Format::DecimalSi);
    match (call.function, call.arguments) {
        ("quantity", [Value::String(text)]) => match parse(text) {
            Some(quantity) => made(quantity),
            None => Err(Error::failed(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            )),
        },
        ("isQuantity", [Value::String(text)]) => Ok(Value::Bool(parse(text).is_some())),
        (function, [Value::Opaque(Opaque::Quantity(quantity))]) => match function {
            "sign" => Ok(Value::Int(if quantity.is_zero() {
                0
            } else if quantity.is_negative() {
                -1
            } else {
                1
            })),
            "asApproximateFloat" => Ok(Value::Double(float(quantity))),
            "isInteger" => Ok(Value::Bool(quantity.is_whole())),
            "asInteger" if quantity.is_whole() => Ok(Value::Int(quantity.value())),
            "asInteger" => Err(Error::failed("cannot convert value to integer")),
            _ => Err(call.no_overload()),
        },
        ("add", [Value::Opaque(Opaque::Quantity(a)), Value::Opaque(Opaque::Quantity(b))]) => made(*a + *b),
        ("add", [Value::Opaque(Opaque::Quantity(a)), Value::Int(b)]) => made(*a + whole(*b)),
        ("sub", [Value::Opaque(Opaque::Quantity(a)), Value::Opaque(Opaque::Quantity(b))]) => made(*a - *b),
        ("sub", [Value::Opaque(Opaque::Quantity(a)), Value::Int(b)]) => made(*a - whole(*b)),
        (function, [Value::Opaque(a), Value::Opaque(b)]) => {
            let order = match (a, b) {
                (Opaque::Quantity(a), Opaque::Quantity(b)) => a.cmp(b),
                (Opaque::Semver(a), Opaque::Semver(b)) => semver::Semver::compare(a, b),
                _ => return Err(call.no_overload()),
            };
            Ok(match function {
                "isGreaterThan" => Value::Bool(order == Ordering::Greater),
                "isLessThan" => Value::Bool(order == Ordering::Less),
                _ => Value::Int(order as i64),
            })
        }
        _ => Err(call.no_overload()),
    }
}
