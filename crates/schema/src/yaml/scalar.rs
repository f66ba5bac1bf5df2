//! The values of YAML scalars: YAML 1.1, but for numbers to the base of sixty.
//! Upstream: go.yaml.in/yaml/v2 `resolve.go`; the texts of floats as keys: sigs.k8s.io/yaml.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Error;

const CORE: &str = "tag:yaml.org,2002:";

/// What a scalar means.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond the signed ones.
    Uint(u64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn tag(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Uint(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
        }
    }
}

/// The value of a scalar's text. Times are texts, as upstream hands them out.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Scalar, Error> {
    let Some(tag) = tag else {
        return Ok(if plain { by_text(text) } else { Scalar::Text(text.to_owned()) });
    };
    match tag.strip_prefix(CORE) {
        Some("binary") => STANDARD
            .decode(text.replace(['\n', '\r'], ""))
            .map(|bytes| Scalar::Text(String::from_utf8_lossy(&bytes).into_owned()))
            .map_err(|_| Error::syntax("!!binary value contains invalid base64 data")),
        Some(wanted @ ("bool" | "int" | "float" | "null")) => match (by_text(text), wanted) {
            (Scalar::Int(whole), "float") => Ok(Scalar::Float(whole as f64)),
            (value, wanted) if value.tag() == wanted => Ok(value),
            (value, _) => {
                Err(Error::syntax(format!("cannot decode !!{} `{text}` as a !!{wanted}", value.tag())))
            }
        },
        _ => Ok(Scalar::Text(text.to_owned())),
    }
}

fn by_text(text: &str) -> Scalar {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        _ => number(text).unwrap_or_else(|| Scalar::Text(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Scalar> {
    let digits = match text.as_bytes().first()? {
        b'.' => return float(text),
        b'0'..=b'9' | b'+' | b'-' => text.replace('_', ""),
        _ => return None,
    };
    whole(&digits).or_else(|| float(&digits))
}

/// Decimal, `0x`, `0o`, `0b`, and octal for what begins with a zero.
fn whole(text: &str) -> Option<Scalar> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&unsigned[2..], 16),
        [b'0', b'o' | b'O', ..] => (&unsigned[2..], 8),
        [b'0', b'b' | b'B', ..] => (&unsigned[2..], 2),
        [b'0', _, ..] => (&unsigned[1..], 8),
        _ => (unsigned, 10),
    };
    // Rust would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let size = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        return i64::try_from(-i128::from(size)).ok().map(Scalar::Int);
    }
    match i64::try_from(size) {
        Ok(whole) => Some(Scalar::Int(whole)),
        // A sign makes it a signed number, which has no room for it.
        Err(_) => (!text.starts_with('+')).then_some(Scalar::Uint(size)),
    }
}

/// Digits with a point or an exponent or both; what is beyond 64 bits is no number.
fn float(text: &str) -> Option<Scalar> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let shaped = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let number: f64 = shaped.then(|| text.parse().ok()).flatten()?;
    number.is_finite().then_some(Scalar::Float(number))
}

/// A float as upstream writes it as a key: with an exponent unless that is from -4 to 20 (Go's shortest `%g`).
pub(super) fn float_text(number: f64) -> String {
    if number.is_nan() {
        return ".nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.into();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(size) if !(-4..21).contains(&size) => {
            format!("{digits}e{}{:02}", if size < 0 { '-' } else { '+' }, size.abs())
        }
        _ => number.to_string(),
    }
}
