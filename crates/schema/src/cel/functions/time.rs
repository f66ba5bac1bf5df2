//! Timestamps and durations.
//! Upstream: cel-go `common/types/{timestamp,duration}.go`, Go's `time.ParseDuration`.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::Call;
use crate::cel::value::{Error, Result, Value};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("duration", [value @ Value::Duration(_)]) | ("timestamp", [value @ Value::Timestamp(_)]) => {
            Ok(value.clone())
        }
        ("duration", [Value::String(text)]) => match parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => Err(Error::failed(format!("time: invalid duration {:?}", &**text))),
        },
        ("duration", [Value::Int(nanos)]) => Ok(Value::Duration(*nanos)),
        ("timestamp", [Value::String(text)]) => match parse_timestamp(text) {
            Some(at) => Ok(Value::Timestamp(at)),
            None => Err(Error::failed(format!("parsing time {:?} as RFC 3339 failed", &**text))),
        },
        ("timestamp", [Value::Int(second)]) => Timestamp::from_second(*second)
            .map(Value::Timestamp)
            .map_err(|_| Error::failed("timestamp overflow")),
        (function, [Value::Duration(nanos)]) => {
            let unit = match function {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => 1_000_000,
                _ => return Err(call.no_overload()),
            };
            Ok(Value::Int(nanos / unit))
        }
        (function, [Value::Timestamp(at)]) => part(function, *at, TimeZone::UTC),
        (function, [Value::Timestamp(at), Value::String(zone)]) => part(function, *at, time_zone(zone)?),
        _ => Err(call.no_overload()),
    }
}

fn part<'a>(function: &str, at: Timestamp, zone: TimeZone) -> Result<Value<'a>> {
    let at = at.to_zoned(zone);
    Ok(Value::Int(match function {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        _ => i64::from(at.millisecond()),
    }))
}

/// A name of the time zone database, or an offset such as `+05:30`.
fn time_zone(text: &str) -> Result<TimeZone> {
    if text.contains(':') {
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let digits = text.trim_start_matches(['+', '-']);
        let parts = digits
            .split_once(':')
            .and_then(|(hours, minutes)| Some((hours.parse::<i32>().ok()?, minutes.parse::<i32>().ok()?)));
        let offset = parts.and_then(|(hours, minutes)| {
            Offset::from_seconds(sign * (hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?))
                .ok()
        });
        return offset.map(TimeZone::fixed).ok_or_else(|| Error::failed(format!("unknown time zone {text}")));
    }
    if text.is_empty() || text == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(text).map_err(|_| Error::failed(format!("unknown time zone {text}")))
}

/// RFC 3339, with any number of digits after the second.
pub(in crate::cel) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|d| d.iter().all(u8::is_ascii_digit));
    let shape = digits(0..4)
        && digits(5..7)
        && digits(8..10)
        && digits(11..13)
        && digits(14..16)
        && digits(17..19)
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|(at, c)| bytes[*at] == *c);
    if !shape || !text.is_ascii() {
        return None;
    }
    let rest = &text[19..];
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = zone.len() == 6 && matches!(zone.as_bytes()[0], b'+' | b'-') && zone.as_bytes()[3] == b':';
    if zone != "Z" && !offset {
        return None;
    }
    text.parse().ok()
}

/// A duration as Go writes it: `1h30m`, `-1.5s`, `300ms`; in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (unit, size) = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"]
            .iter()
            .find(|unit| {
                after.strip_prefix(**unit).is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                })
            })
            .map(|unit| {
                let size: i128 = match *unit {
                    "ns" => 1,
                    "us" | "µs" | "μs" => 1_000,
                    "ms" => 1_000_000,
                    "s" => 1_000_000_000,
                    "m" => 60_000_000_000,
                    _ => 3_600_000_000_000,
                };
                (*unit, size)
            })?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = &fraction[..fraction.len().min(18)];
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(whole.checked_mul(size)?.checked_add(parts * size / scale)?)?;
        rest = &after[unit.len()..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// RFC 3339 with as many digits after the second as it takes.
pub(in crate::cel) fn timestamp_text(at: Timestamp) -> String {
    at.to_string()
}

/// Seconds, with as many digits as it takes.
pub(in crate::cel) fn duration_text(nanos: i64) -> String {
    let (whole, parts) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).unsigned_abs());
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    if parts == 0 {
        return format!("{whole}s");
    }
    let fraction = format!("{parts:09}");
    format!("{sign}{whole}.{}s", fraction.trim_end_matches('0'))
}
