//! URLs, as far as their parts are asked for.
//! Upstream: apiserver `pkg/cel/library/urls.go`, Go's `net/url` (`ParseRequestURI`).

use std::rc::Rc;

use super::Call;
use crate::cel::value::{Error, Map, Opaque, Result, Value};

/// The parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Reads a URL, or an absolute path.
    pub(in crate::cel) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.chars().any(|c| c.is_control()) {
            return None;
        }
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest))
                if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                    && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
            {
                (scheme.to_ascii_lowercase(), rest)
            }
            _ => (String::new(), text),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            return None;
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() || !rest.starts_with("///") => match after.find('/') {
                Some(slash) => (&after[..slash], &after[slash..]),
                None => (after, ""),
            },
            _ => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.contains([' ', '<', '>', '"']) || !escapes(path) || !port(host) {
            return None;
        }
        let (host, path) = (host.to_owned(), encode(path));
        Some(Self { text: text.to_owned(), scheme, host, path, query: query.to_owned() })
    }

    /// As written.
    pub(in crate::cel) fn text(&self) -> &str {
        &self.text
    }
}

fn escapes(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

fn port(host: &str) -> bool {
    let after = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, after)) => after,
            None => return false,
        },
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    after.is_empty() || after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
                decoded.push(u8::from_str_radix(digits, 16).ok()?);
                at += 2;
            }
            other => decoded.push(*other),
        }
        at += 1;
    }
    String::from_utf8(decoded).ok()
}

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("url", [Value::String(text)]) => match Url::parse(text) {
            Some(url) => Ok(Value::Opaque(Opaque::Url(Rc::new(url)))),
            None => Err(Error::failed(format!(
                "URL parse error during conversion from string: parse {:?}: invalid URI for request",
                &**text
            ))),
        },
        ("isURL", [Value::String(text)]) => Ok(Value::Bool(Url::parse(text).is_some())),
        (function, [Value::Opaque(Opaque::Url(url))]) => Ok(match function {
            "getScheme" => Value::text(&url.scheme),
            "getHost" => Value::text(&url.host),
            "getHostname" => Value::text(host_name(&url.host)),
            "getPort" => {
                let after = url.host.rfind(']').map_or(&url.host[..], |at| &url.host[at..]);
                Value::text(after.split_once(':').map_or("", |(_, port)| port))
            }
            "getEscapedPath" => Value::text(&url.path),
            _ => query(&url.query),
        }),
        _ => Err(call.no_overload()),
    }
}

fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn query<'a>(text: &str) -> Value<'a> {
    let mut entries: Vec<(String, Vec<Value<'a>>)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (decode(key), decode(value)) else { continue };
        match entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(Value::text(value)),
            None => entries.push((key, vec![Value::text(value)])),
        }
    }
    let entries = entries.into_iter().map(|(key, values)| (Value::text(key), Value::list(values))).collect();
    Value::Map(Map::Made(Rc::new(entries)))
}
