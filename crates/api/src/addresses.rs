//! Addresses and CIDRs as fields of objects hold them: which are accepted, and what an object that was stored under
//! laxer rules may keep.
//!
//! Since v1.36 upstream refuses what different readers take for different addresses: numbers with leading zeros (octal
//! to some), IPv4 addresses in IPv6 clothes, and CIDRs with bits after the prefix. An update may keep such a value that
//! the object before it had ([`keep`]).
//! Not here: warnings of unusual but unambiguous forms, families of Services.
//! Upstream: apimachinery pkg/util/validation/ip.go; the messages are wire behaviour.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{ErrorKind, ErrorList};
use crate::names::prefix;

const ZEROS: &str = "must not have leading 0s";
const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
const CIDR_ZEROS: &str = "must not have leading 0s in IP or prefix length";
const CIDR_MAPPED: &str = "must not have an IPv4-mapped IPv6 address";
const CIDR_BITS: &str = "must not have bits set beyond the prefix length";

/// An address that may have zeros before the numbers of an IPv4 (part of an) address.
fn parse_loosely(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (start, four) = text.split_at(text.rfind(':').map_or(0, |colon| colon + 1));
    let numbers: Vec<&str> = four
        .split('.')
        .map(|number| match number.trim_start_matches('0') {
            "" if !number.is_empty() => "0",
            rest => rest,
        })
        .collect();
    format!("{start}{}", numbers.join(".")).parse().ok()
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}

/// Why a text is no address that a field may hold.
pub fn is_ip(text: &str) -> Vec<String> {
    let message = match (parse_loosely(text), text.parse::<IpAddr>()) {
        (None, _) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        (Some(_), Err(_)) => ZEROS,
        (Some(_), Ok(address)) if is_mapped(address) => MAPPED,
        _ => return Vec::new(),
    };
    vec![message.to_owned()]
}

/// The address with the bits after the prefix cleared.
pub fn network(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((u32::from(four) & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((u128::from(six) & mask).into())
        }
    }
}

/// Why a text is no range of addresses that a field may hold.
pub fn is_cidr(text: &str) -> Vec<String> {
    let parts = text.split_once('/');
    let loosely = parts.and_then(|(address, length)| {
        let bare = match length.trim_start_matches('0') {
            "" if !length.is_empty() => "0",
            rest => rest,
        };
        prefix(parse_loosely(address)?, bare)
    });
    let has_zeros = parts.is_some_and(|(address, length)| {
        address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0'))
    });
    let message = match loosely {
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        Some(_) if has_zeros => CIDR_ZEROS,
        Some((address, _)) if is_mapped(address) => CIDR_MAPPED,
        Some((address, length)) if network(address, length) != address => CIDR_BITS,
        Some(_) => return Vec::new(),
    };
    vec![message.to_owned()]
}

/// Why a text is no range in its one canonical form: the rule of fields that are newer than the one of [`is_cidr`].
pub fn is_canonical_cidr(text: &str) -> Vec<String> {
    let messages = is_cidr(text);
    match crate::names::parse_cidr(text).filter(|_| messages.is_empty()) {
        Some((address, length)) if format!("{address}/{length}") != text => {
            vec![format!("must be in canonical form (\"{address}/{length}\")")]
        }
        _ => messages,
    }
}

/// Takes out what is wrong with addresses that `old` (the object before an update) had too: they were accepted once.
pub fn keep(errors: &mut ErrorList, old: &Value) {
    let is_strict = |error: &crate::field::Error| {
        error.kind == ErrorKind::Invalid
            && [ZEROS, MAPPED, CIDR_ZEROS, CIDR_MAPPED, CIDR_BITS].contains(&&*error.detail)
    };
    errors.retain(|error| {
        let bad = error.bad_value.as_ref().and_then(Value::as_str);
        !is_strict(error) || !bad.is_some_and(|bad| has(old, bad))
    });
}

/// Whether some text within is the address, alone or in a list with commas (an annotation of Services).
fn has(value: &Value, address: &str) -> bool {
    match value {
        Value::String(text) => text.split(',').any(|part| part.trim() == address),
        Value::Array(items) => items.iter().any(|item| has(item, address)),
        Value::Object(fields) => fields.values().any(|field| has(field, address)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::{self, Path};

    #[test]
    fn addresses() {
        const NONE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        for (text, message) in [
            ("10.0.0.1", None),
            ("0.0.0.0", None),
            ("::1", None),
            ("FE80:0:0::1", None),
            ("", Some(NONE)),
            ("a", Some(NONE)),
            ("10.0.0", Some(NONE)),
            ("10.0.0.256", Some(NONE)),
            ("fe80::1%eth0", Some(NONE)),
            ("10.0..1", Some(NONE)),
            ("010.0.0.5", Some(ZEROS)),
            ("10.00.0.5", Some(ZEROS)),
            ("::ffff:10.0.0.1", Some(MAPPED)),
            ("::ffff:10.0.0.01", Some(ZEROS)),
        ] {
            assert_eq!(is_ip(text).first().map(String::as_str), message, "{text:?}");
        }
    }

    #[test]
    fn ranges() {
        const NONE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        for (text, message) in [
            ("10.0.0.0/8", None),
            ("10.0.0.5/32", None),
            ("0.0.0.0/0", None),
            ("::/0", None),
            ("2001:DB8::/32", None),
            ("10.0.0.0", Some(NONE)),
            ("10.0.0.0/33", Some(NONE)),
            ("10.0.0.0/+8", Some(NONE)),
            ("10.0.0.0/", Some(NONE)),
            ("10.0.0.0/08", Some(CIDR_ZEROS)),
            ("010.0.0.0/8", Some(CIDR_ZEROS)),
            ("::ffff:10.0.0.0/104", Some(CIDR_MAPPED)),
            ("10.0.0.5/24", Some(CIDR_BITS)),
            ("2001:db8::1/64", Some(CIDR_BITS)),
        ] {
            assert_eq!(is_cidr(text).first().map(String::as_str), message, "{text:?}");
        }
        assert_eq!(is_canonical_cidr("2001:db8::/32"), Vec::<String>::new());
        assert_eq!(is_canonical_cidr("2001:DB8::/32"), ["must be in canonical form (\"2001:db8::/32\")"]);
        assert_eq!(is_canonical_cidr("10.0.0.5/24"), [CIDR_BITS]);
    }

    #[test]
    fn what_was_there_stays() {
        let path = Path::new("spec");
        let wrong = |value: &str| field::invalid(&path, value, CIDR_BITS);
        let other = field::invalid(&path, "10.0.0.5/24", "something else");
        let mut errors =
            vec![wrong("10.0.0.5/24"), wrong("10.1.0.5/24"), wrong("10.2.0.5/24"), other.clone()];
        keep(&mut errors, &json!({"spec": {"a": ["10.0.0.5/24"], "b": "10.9.0.0/24, 10.1.0.5/24"}}));
        assert_eq!(errors, [wrong("10.2.0.5/24"), other]);
    }
}
