//! Formats of texts that custom resources may demand. Formats that are not known here are not checked, as upstream
//! does with those it does not know.
//! Upstream: kube-openapi `pkg/validation/strfmt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::civil::Date;

use crate::cel::parse_duration;
use crate::decode::scalar::{self, Precision};

/// Whether a text is of a format.
pub(crate) fn matches(format: &str, text: &str) -> bool {
    // Upstream's names have no dashes, and what is asked for is compared without them.
    match &*format.replace('-', "") {
        "datetime" => scalar::time(text, Precision::Seconds).is_ok(),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "byte" => scalar::base64(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, bits)| {
            let most = match address.parse() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        }),
        format @ ("uuid" | "uuid3" | "uuid4" | "uuid5") => is_uuid(format, text),
        "hostname" => api::names::is_dns1123_subdomain(&text.to_ascii_lowercase()).is_empty(),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6
                && parts
                    .iter()
                    .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        }
        "uri" => text.split_once(':').is_some_and(|(scheme, rest)| {
            !rest.is_empty()
                && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
                && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
        }),
        "email" => text.rsplit_once('@').is_some_and(|(mailbox, host)| {
            !mailbox.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace)
        }),
        "duration" => is_duration(text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_card(text),
        "ssn" => {
            let digits = |range: std::ops::Range<usize>| {
                text.as_bytes().get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
            };
            let gap = |at: usize| matches!(text.as_bytes().get(at), Some(b'-' | b' '));
            text.len() == 11 && digits(0..3) && gap(3) && digits(4..6) && gap(6) && digits(7..11)
        }
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        "rgbcolor" => is_rgb(text),
        "k8sshortname" => api::names::is_dns1123_label(text).is_empty(),
        "k8slongname" => api::names::is_dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// As Go writes a duration, or numbers with the names of units, such as `3 days`.
fn is_duration(text: &str) -> bool {
    // A unit in full, or by a beginning that is long enough to know it by.
    const NAMES: [&str; 16] =
        ["ns", "nano", "us", "µs", "micro", "ms", "milli", "s", "sec", "m", "min", "h", "hr", "d", "w", "wk"];
    const BEGINNINGS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    if parse_duration(text).is_some() {
        return true;
    }
    let mut rest = text;
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let after = rest[start..].trim_start_matches(|letter: char| letter.is_ascii_digit()).trim_start();
        let end =
            after.find(|letter: char| !letter.is_ascii_alphabetic() && letter != 'µ').unwrap_or(after.len());
        let unit = after[..end].to_lowercase();
        if NAMES.contains(&&*unit) || BEGINNINGS.iter().any(|name| unit.starts_with(name)) {
            return true;
        }
        rest = &after[end..];
    }
    false
}

/// The digits of a text that has nothing else but blanks and dashes; what else there is comes as it is.
fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'-').collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = digits(text);
    let value = |(at, byte): (usize, &u8)| match byte {
        b'0'..=b'9' => Some(u32::from(byte - b'0')),
        b'X' if at == 9 => Some(10),
        _ => None,
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    values.is_some_and(|values| {
        values.len() == 10 && (1..).zip(values).map(|(at, v)| at * v).sum::<u32>() % 11 == 0
    })
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits(text);
    let sum: u32 = digits
        .iter()
        .zip([1, 3].into_iter().cycle())
        .map(|(byte, by)| u32::from(byte.wrapping_sub(b'0')) * by)
        .sum();
    digits.len() == 13 && digits.iter().all(u8::is_ascii_digit) && sum % 10 == 0
}

/// A number of one of the known issuers, with the right check digit.
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|letter| letter.to_digit(10)).collect();
    let first = |count: usize| digits.iter().take(count).fold(0, |number, digit| number * 10 + digit);
    let issued = match digits.len() {
        13 => first(1) == 4,
        14 => matches!(first(3), 300..=305) || matches!(first(2), 36 | 38),
        15 => matches!(first(2), 34 | 37) || matches!(first(4), 1800 | 2131),
        16 => {
            first(1) == 4
                || matches!(first(2), 51..=55 | 35 | 62 | 67 | 65)
                || matches!(first(4), 2221..=2720 | 6011)
        }
        _ => false,
    };
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit })
        .sum();
    issued && sum.is_multiple_of(10)
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let share = |part: &str| {
        let part = part.trim();
        part.parse::<u8>().is_ok_and(|number| number.to_string() == part)
    };
    inner.is_some_and(|inner| inner.split(',').count() == 3 && inner.split(',').all(share))
}

fn is_uuid(format: &str, text: &str) -> bool {
    let plain: String = text.chars().filter(|letter| *letter != '-').collect();
    let shape = plain.len() == 32
        && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
        && (text.len() == 32 || text.split('-').map(str::len).eq([8, 4, 4, 4, 12]));
    let version = format.strip_prefix("uuid").unwrap_or_default();
    let variant = plain.get(16..17).is_some_and(|digit| "89abAB".contains(digit));
    shape
        && (version.is_empty() || plain.get(12..13) == Some(version))
        && (!matches!(version, "4" | "5") || variant)
}

#[cfg(test)]
mod tests {
    #[test]
    fn formats() {
        let cases = [
            ("date-time", "2024-01-01T00:00:00Z", true),
            ("date-time", "2024-01-01", false),
            ("date", "2024-02-29", true),
            ("date", "2023-02-29", false),
            ("byte", "aGk=", true),
            ("byte", "?", false),
            ("ipv4", "10.0.0.1", true),
            ("ipv4", "::1", false),
            ("ipv6", "::1", true),
            ("cidr", "10.0.0.0/8", true),
            ("cidr", "10.0.0.0/33", false),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", true),
            ("uuid4", "123e4567-e89b-12d3-a456-426614174000", false),
            ("uuid", "123e4567", false),
            ("hostname", "a.example", true),
            ("hostname", "a_b", false),
            ("mac", "01:02:03:04:05:0a", true),
            ("uri", "https://a/b", true),
            ("uri", "a b", false),
            ("email", "a@b", true),
            ("email", "ab", false),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", true),
            ("uuid4", "123e4567-e89b-42d3-c456-426614174000", false),
            ("duration", "1h30m", true),
            ("duration", "3 days", true),
            ("duration", "2 weeks", true),
            ("duration", "abc", false),
            ("duration", "", false),
            ("duration", "5", false),
            ("bsonobjectid", "507f1f77bcf86cd799439011", true),
            ("bsonobjectid", "507f1f77", false),
            ("isbn", "978-4-87311-336-4", true),
            ("isbn10", "3-8362-2119-5", true),
            ("isbn10", "3-8362-2119-4", false),
            ("isbn13", "978-4-87311-336-5", false),
            ("creditcard", "4111-1111-1111-1111", true),
            ("creditcard", "4111-1111-1111-1112", false),
            ("creditcard", "9111-1111-1111-1111", false),
            ("ssn", "111-11-1111", true),
            ("ssn", "111-11-111", false),
            ("hexcolor", "#fFf", true),
            ("hexcolor", "#ffff", false),
            ("rgbcolor", "rgb(1, 20,255)", true),
            ("rgbcolor", "rgb(1,2,256)", false),
            ("k8s-short-name", "a-b", true),
            ("k8s-short-name", "a.b", false),
            ("k8s-long-name", "a.b", true),
            ("password", "anything", true),
            ("no-such-format", "x", true),
        ];
        for (format, text, expected) in cases {
            assert_eq!(super::matches(format, text), expected, "{format}: {text}");
        }
    }
}
