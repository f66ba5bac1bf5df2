//! The wire forms of times and bytes: what is accepted, what is kept, and what upstream says of the rest.
//! Not here: quantities (`api::quantity`).
//! Upstream: Go's `time.Parse` and `encoding/base64`, whose errors reach the client.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use jiff::tz::Offset;

/// How finely a time is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// `metav1.Time`; a fraction is accepted and cut.
    Seconds,
    /// `metav1.MicroTime`; six digits are demanded.
    Microseconds,
}

impl Precision {
    fn layout(self) -> &'static str {
        match self {
            Self::Seconds => "2006-01-02T15:04:05Z07:00",
            Self::Microseconds => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// The canonical text of a time; `None` for Go's zero time, which is written as absence.
pub(crate) fn time(text: &str, precision: Precision) -> Result<Option<String>, String> {
    let failure = |rest: &str, element: &str| {
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            api::field::quote(text),
            api::field::quote(precision.layout()),
            api::field::quote(rest),
            api::field::quote(element),
        )
    };
    let out_of_range = |part: &str| format!("parsing time {}: {part} out of range", api::field::quote(text));

    let mut rest = text;
    let mut parts = [0_i16; 6];
    let elements =
        [("2006", 4, "-"), ("01", 2, "-"), ("02", 2, "T"), ("15", 2, ":"), ("04", 2, ":"), ("05", 2, "")];
    for (part, (element, digits, separator)) in parts.iter_mut().zip(elements) {
        let number = rest.get(..digits).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        *part = number.and_then(|number| number.parse().ok()).ok_or_else(|| failure(rest, element))?;
        rest = &rest[digits..];
        rest = rest.strip_prefix(separator).ok_or_else(|| failure(rest, separator))?;
    }
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        fraction = &after[..digits];
        if digits > 0 {
            rest = &after[digits..];
        }
    }
    if precision == Precision::Microseconds && fraction.len() != 6 {
        return Err(failure(&text[19.min(text.len())..], ".000000"));
    }
    let offset = offset(rest).ok_or_else(|| failure(rest, "Z07:00"))?;
    let after = rest.strip_prefix('Z').unwrap_or_else(|| &rest["±hh:mm".chars().count()..]);
    if !after.is_empty() {
        return Err(format!(
            "parsing time {}: extra text: {}",
            api::field::quote(text),
            api::field::quote(after)
        ));
    }
    let [year, month, day, hour, minute, second] = parts;
    let in_range = |value: i16, range: std::ops::RangeInclusive<i16>, part: &str| {
        if range.contains(&value) {
            i8::try_from(value).map_err(|_| out_of_range(part))
        } else {
            Err(out_of_range(part))
        }
    };
    let month = in_range(month, 1..=12, "month")?;
    let day = in_range(day, 1..=31, "day")?;
    let hour = in_range(hour, 0..=23, "hour")?;
    let minute = in_range(minute, 0..=59, "minute")?;
    let second = in_range(second, 0..=59, "second")?;
    let date = Date::new(year, month, day).map_err(|_| out_of_range("day"))?;
    let local = date.at(hour, minute, second, 0);
    let utc = Offset::from_seconds(offset)
        .and_then(|offset| offset.to_timestamp(local))
        .map(|timestamp| Offset::UTC.to_datetime(timestamp))
        .map_err(|_| out_of_range("year"))?;
    if (utc.year(), utc.month(), utc.day(), utc.hour(), utc.minute(), utc.second()) == (1, 1, 1, 0, 0, 0)
        && fraction.bytes().all(|digit| digit == b'0')
    {
        return Ok(None);
    }
    let fraction = match precision {
        Precision::Seconds => String::new(),
        Precision::Microseconds => format!(".{fraction}"),
    };
    Ok(Some(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}Z",
        utc.year(),
        utc.month(),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second()
    )))
}

/// Seconds east of UTC of `Z` or `±hh:mm` at the beginning of a text.
fn offset(text: &str) -> Option<i32> {
    if text.starts_with('Z') {
        return Some(0);
    }
    let (sign, digits) = match text.as_bytes() {
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let [h1 @ b'0'..=b'9', h2 @ b'0'..=b'9', b':', m1 @ b'0'..=b'9', m2 @ b'0'..=b'9', ..] = digits else {
        return None;
    };
    let number = |tens: &u8, ones: &u8| i32::from(tens - b'0') * 10 + i32::from(ones - b'0');
    let (hours, minutes) = (number(h1, h2), number(m1, m2));
    (hours <= 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// The canonical text of base64; line breaks inside are dropped.
pub(crate) fn base64(text: &str) -> Result<String, String> {
    let compact: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    match STANDARD.decode(&compact) {
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(error) => {
            let offset = match error {
                base64::DecodeError::InvalidByte(offset, _)
                | base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
                // Go names the end of the text when padding is short.
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => compact.len(),
            };
            Err(format!("illegal base64 data at input byte {offset}"))
        }
    }
}

/// Bytes as base64.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_utc() {
        use Precision::{Microseconds, Seconds};
        let cases = [
            ("2024-02-29T23:59:59Z", Seconds, Some("2024-02-29T23:59:59Z")),
            ("2024-03-01T01:30:00+02:00", Seconds, Some("2024-02-29T23:30:00Z")),
            ("2024-03-01T01:30:00.987654321Z", Seconds, Some("2024-03-01T01:30:00Z")),
            ("0001-01-01T00:00:00Z", Seconds, None),
            ("2024-03-01T01:30:00.000001-01:30", Microseconds, Some("2024-03-01T03:00:00.000001Z")),
        ];
        for (text, precision, expected) in cases {
            assert_eq!(time(text, precision), Ok(expected.map(String::from)), "{text}");
        }
    }

    #[test]
    fn wrong_times_are_explained_as_go_does() {
        use Precision::{Microseconds, Seconds};
        let cases = [
            ("yesterday", Seconds, r#"as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#),
            ("2024/01/01", Seconds, r#"cannot parse "/01/01" as "-""#),
            ("2024-01-01", Seconds, r#"cannot parse "" as "T""#),
            ("2024-01-01T00:00:00", Seconds, r#"cannot parse "" as "Z07:00""#),
            ("2024-13-01T00:00:00Z", Seconds, r#"parsing time "2024-13-01T00:00:00Z": month out of range"#),
            ("2023-02-29T00:00:00Z", Seconds, "day out of range"),
            ("2023-02-01T24:00:00Z", Seconds, "hour out of range"),
            ("2024-01-01T00:00:00Zebra", Seconds, r#"extra text: "ebra""#),
            ("2024-01-01T00:00:00Z", Microseconds, r#"cannot parse "Z" as ".000000""#),
            ("2024-01-01T00:00:00é", Seconds, "cannot parse"),
            ("é024-01-01T00:00:00", Seconds, "cannot parse"),
        ];
        for (text, precision, expected) in cases {
            let error = time(text, precision).unwrap_err();
            assert!(error.starts_with("parsing time ") && error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(base64("aGVs\nbG8="), Ok("aGVsbG8=".into()));
        assert_eq!(base64(""), Ok(String::new()));
        assert_eq!(base64("aGV!"), Err("illegal base64 data at input byte 3".into()));
        assert_eq!(base64("aGVsbG8"), Err("illegal base64 data at input byte 7".into()));
    }
}
