//! Named formats of texts.
//! Upstream: apiserver `pkg/cel/library/format.go`.

use api::names;

use super::{Call, url};
use crate::cel::value::{Opaque, Result, Value};
use crate::structural::format_matches;

/// A format.
#[derive(Debug)]
pub struct Format {
    /// The name by which it is found.
    pub(in crate::cel) name: &'static str,
    /// How long the regular expression is taken to be that checks it.
    pub(in crate::cel) regex_size: u64,
    check: fn(&str) -> Vec<String>,
}

/// What the longest of the name formats costs to check.
pub(in crate::cel) const MAX_NAME_REGEX_SIZE: f64 = 128.0;

fn prefixed(text: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    // A prefix may end in a dash: what follows it is not known yet.
    match text.strip_suffix('-') {
        Some(text) => check(&format!("{text}a")),
        None => check(text),
    }
}

fn unless(valid: bool, message: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![message.to_owned()] }
}

const FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", regex_size: 30, check: names::is_dns1123_label },
    Format { name: "dns1123Subdomain", regex_size: 60, check: names::is_dns1123_subdomain },
    Format { name: "dns1035Label", regex_size: 30, check: names::is_dns1035_label },
    Format { name: "qualifiedName", regex_size: 60, check: names::is_qualified_name },
    Format {
        name: "dns1123LabelPrefix",
        regex_size: 30,
        check: |text| prefixed(text, names::is_dns1123_label),
    },
    Format {
        name: "dns1123SubdomainPrefix",
        regex_size: 60,
        check: |text| prefixed(text, names::is_dns1123_subdomain),
    },
    Format {
        name: "dns1035LabelPrefix",
        regex_size: 30,
        check: |text| prefixed(text, names::is_dns1035_label),
    },
    Format { name: "labelValue", regex_size: 40, check: names::is_label_value },
    Format {
        name: "uri",
        regex_size: 1_100,
        check: |text| {
            let message = format!("parse {text:?}: invalid URI for request");
            unless(url::Url::parse(text).is_some(), &message)
        },
    },
    Format {
        name: "uuid",
        regex_size: 82,
        check: |text| unless(format_matches("uuid", text), "does not match the UUID format"),
    },
    Format {
        name: "byte",
        regex_size: 76,
        check: |text| unless(format_matches("byte", text), "invalid base64"),
    },
    Format {
        name: "date",
        regex_size: 104,
        check: |text| unless(format_matches("date", text), "invalid date"),
    },
    Format {
        name: "datetime",
        regex_size: 104,
        check: |text| unless(format_matches("datetime", text), "invalid datetime"),
    },
];

fn named(name: &str) -> Option<&'static Format> {
    const ALL: &[Format] = &FORMATS;
    ALL.iter().find(|format| format.name == name)
}

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    let made = |format: &'static Format| Value::Opaque(Opaque::Format(format));
    match (call.function, call.arguments) {
        ("format.named", [Value::String(name)]) => {
            Ok(named(name).map_or(Value::Optional(None), |format| Value::some(made(format))))
        }
        ("validate", [Value::Opaque(Opaque::Format(format)), Value::String(text)]) => {
            let found = (format.check)(text);
            Ok(match found.is_empty() {
                true => Value::Optional(None),
                false => Value::some(Value::list(found.iter().map(Value::text).collect())),
            })
        }
        (function, []) => {
            let format = function.strip_prefix("format.").and_then(named);
            format.map(made).ok_or_else(|| call.no_overload())
        }
        _ => Err(call.no_overload()),
    }
}
