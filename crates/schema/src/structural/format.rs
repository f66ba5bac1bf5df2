//! Formats of texts that custom resources may demand. Formats that are not known here are not checked, as upstream
//! does with those it does not know.
//! Upstream: kube-openapi `pkg/validation/strfmt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::civil::Date;

use crate::decode::scalar::{self, Precision};

/// Whether a text is of a format.
pub(crate) fn matches(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => scalar::time(text, Precision::Seconds).is_ok(),
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
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(format, text),
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
        _ => true,
    }
}

fn is_uuid(format: &str, text: &str) -> bool {
    let plain: String = text.chars().filter(|letter| *letter != '-').collect();
    let shape = plain.len() == 32
        && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
        && (text.len() == 32 || text.split('-').map(str::len).eq([8, 4, 4, 4, 12]));
    let version = format.strip_prefix("uuid").unwrap_or_default();
    shape && (version.is_empty() || plain.get(12..13) == Some(version))
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
            ("no-such-format", "x", true),
        ];
        for (format, text, expected) in cases {
            assert_eq!(super::matches(format, text), expected, "{format}: {text}");
        }
    }
}
