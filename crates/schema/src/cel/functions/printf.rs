//! `'…'.format([…])`.
//! Upstream: cel-go `ext/formatting.go`.

use super::{Call, conversion, time};
use crate::cel::value::{Error, Result, Value};

/// The most digits after the point (upstream's bound).
const MAX_PRECISION: usize = 1_000;

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    let [Value::String(pattern), Value::List(arguments)] = call.arguments else {
        return Err(call.no_overload());
    };
    let arguments = arguments.elements()?;
    let mut next = 0;
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        if characters.peek() == Some(&'%') {
            characters.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if characters.peek() == Some(&'.') {
            characters.next();
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let number = digits.parse::<usize>().map_err(|_| {
                Error::failed("could not parse formatting clause: error while parsing precision")
            })?;
            if number > MAX_PRECISION {
                return Err(Error::failed(format!("precision {number} exceeds maximum {MAX_PRECISION}")));
            }
            precision = Some(number);
        }
        let Some(clause) = characters.next() else {
            return Err(Error::failed("could not parse formatting clause: unexpected end of format string"));
        };
        if !"sdfexXob".contains(clause) {
            return Err(Error::failed(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{clause}\""
            )));
        }
        let Some(argument) = arguments.get(next) else {
            return Err(Error::failed(format!("index {next} out of range")));
        };
        next += 1;
        let text = clause_text(clause, precision, argument)
            .map_err(|message| Error::failed(format!("error during formatting: {message}")))?;
        out.push_str(&text);
    }
    Ok(Value::text(out))
}

fn wrong(clause: &str, wanted: &str, value: &Value<'_>) -> String {
    format!("{clause} clause can only be used on {wanted}, was given {}", value.type_name())
}

fn clause_text(
    clause: char,
    precision: Option<usize>,
    value: &Value<'_>,
) -> std::result::Result<String, String> {
    match clause {
        's' => text(value, 0),
        'd' => match value {
            Value::Int(number) => Ok(number.to_string()),
            Value::Uint(number) => Ok(number.to_string()),
            Value::Double(number) if !number.is_finite() => Ok(infinite(*number)),
            other => Err(wrong("decimal", "integers", other)),
        },
        'f' | 'e' => {
            let number = match value {
                Value::Double(number) => *number,
                Value::Int(number) => *number as f64,
                Value::Uint(number) => *number as f64,
                other => {
                    let name = if clause == 'f' { "fixed-point" } else { "scientific" };
                    return Err(wrong(name, "doubles", other));
                }
            };
            if !number.is_finite() {
                return Ok(infinite(number));
            }
            let precision = precision.unwrap_or(6);
            if clause == 'f' {
                return Ok(format!("{number:.precision$}"));
            }
            let written = format!("{number:.precision$e}");
            let Some((digits, exponent)) = written.split_once('e') else { return Ok(written) };
            let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
            Ok(format!("{digits}e{sign}{size:0>2}"))
        }
        'b' => match value {
            Value::Int(number) if *number < 0 => Ok(format!("-{:b}", number.unsigned_abs())),
            Value::Int(number) => Ok(format!("{number:b}")),
            Value::Uint(number) => Ok(format!("{number:b}")),
            Value::Bool(value) => Ok(u8::from(*value).to_string()),
            other => Err(wrong("binary", "integers and bools", other)),
        },
        'o' => match value {
            Value::Int(number) if *number < 0 => Ok(format!("-{:o}", number.unsigned_abs())),
            Value::Int(number) => Ok(format!("{number:o}")),
            Value::Uint(number) => Ok(format!("{number:o}")),
            other => Err(wrong("octal", "integers", other)),
        },
        _ => {
            let lower = match value {
                Value::Int(number) if *number < 0 => format!("-{:x}", number.unsigned_abs()),
                Value::Int(number) => format!("{number:x}"),
                Value::Uint(number) => format!("{number:x}"),
                Value::String(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                other => return Err(wrong("hex", "integers, byte buffers, and strings", other)),
            };
            Ok(if clause == 'X' { lower.to_uppercase() } else { lower })
        }
    }
}

fn infinite(number: f64) -> String {
    match number {
        number if number.is_nan() => "NaN",
        number if number > 0.0 => "Infinity",
        _ => "-Infinity",
    }
    .to_owned()
}

/// Depth is bounded by the data's, which decoding bounds.
fn text(value: &Value<'_>, depth: usize) -> std::result::Result<String, String> {
    let nested = |value: &Value<'_>| text(value, depth + 1);
    Ok(match value {
        Value::String(text) => text.to_string(),
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) if number.is_finite() => conversion::double_text(*number),
        Value::Double(number) => infinite(*number),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(at) => time::timestamp_text(*at),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Kind(name) => (*name).to_owned(),
        Value::List(list) => {
            let elements = list.elements().map_err(|error| error.to_string())?;
            let texts = elements.iter().map(nested).collect::<std::result::Result<Vec<_>, _>>()?;
            format!("[{}]", texts.join(", "))
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                if let Some(value) = map.get(&key).map_err(|error| error.to_string())? {
                    entries.push((nested(&key)?, nested(&value)?));
                }
            }
            entries.sort();
            let texts: Vec<String> = entries.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            format!("{{{}}}", texts.join(", "))
        }
        other => {
            return Err(wrong(
                "string",
                "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
                other,
            ));
        }
    })
}
