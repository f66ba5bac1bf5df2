//! Mathematics.
//! Upstream: cel-go `ext/math.go`.

use std::cmp::Ordering;

use super::Call;
use crate::cel::value::{Error, Result, Value, compare};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("math.greatest" | "math.least", arguments) => {
            let wanted = if call.function == "math.least" { Ordering::Less } else { Ordering::Greater };
            let all = match arguments {
                [Value::List(list)] => list.elements()?,
                arguments => arguments.to_vec(),
            };
            let name = if wanted == Ordering::Less { "math.@min" } else { "math.@max" };
            let mut elements = all.into_iter();
            let Some(mut best) = elements.next() else {
                return Err(Error::failed(format!("{name}(list) argument must not be empty")));
            };
            for element in elements {
                match compare(&element, &best) {
                    Some(found) if found == wanted => best = element,
                    Some(_) => {}
                    None => return Err(call.no_overload()),
                }
            }
            Ok(best)
        }
        ("math.abs", [Value::Int(number)]) => {
            number.checked_abs().map(Value::Int).ok_or_else(|| Error::failed("integer overflow"))
        }
        ("math.abs", [value @ Value::Uint(_)]) => Ok(value.clone()),
        ("math.sign", [Value::Int(number)]) => Ok(Value::Int(number.signum())),
        (function, [Value::Double(number)]) => Ok(match function {
            "math.abs" => Value::Double(number.abs()),
            "math.ceil" => Value::Double(number.ceil()),
            "math.floor" => Value::Double(number.floor()),
            "math.round" => Value::Double(number.round()),
            "math.trunc" => Value::Double(number.trunc()),
            "math.sign" if *number == 0.0 || number.is_nan() => Value::Double(*number),
            "math.sign" => Value::Double(number.signum()),
            "math.isNaN" => Value::Bool(number.is_nan()),
            "math.isInf" => Value::Bool(number.is_infinite()),
            "math.isFinite" => Value::Bool(number.is_finite()),
            _ => return Err(call.no_overload()),
        }),
        _ => Err(call.no_overload()),
    }
}
