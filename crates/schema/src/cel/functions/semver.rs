//! Semantic versions.
//! Upstream: apiserver `pkg/cel/library/semverlib.go`, blang/semver.

use std::cmp::Ordering;
use std::rc::Rc;

use super::Call;
use crate::cel::value::{Error, Opaque, Result, Value};

/// A version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    before: Vec<String>,
}

impl Semver {
    /// Reads a version; a tolerant reader takes a leading `v`, leading zeros and missing numbers.
    pub(in crate::cel) fn parse(text: &str, tolerant: bool) -> Option<Self> {
        let text = if tolerant { text.trim().trim_start_matches('v') } else { text };
        let (text, build) = match text.split_once('+') {
            Some((text, build)) => (text, Some(build)),
            None => (text, None),
        };
        if build.is_some_and(|build| !build.split('.').all(identifier)) {
            return None;
        }
        let (core, before) = match text.split_once('-') {
            Some((core, before)) => (core, before.split('.').map(str::to_owned).collect()),
            None => (text, Vec::new()),
        };
        let zeros =
            |part: &str| part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
        if !before.iter().all(|part| identifier(part) && !zeros(part)) {
            return None;
        }
        let parts: Vec<&str> = core.split('.').collect();
        let few = if tolerant { 1 } else { 3 };
        if parts.len() < few || parts.len() > 3 {
            return None;
        }
        let mut numbers = [0; 3];
        for (slot, part) in numbers.iter_mut().zip(&parts) {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) || (!tolerant && zeros(part)) {
                return None;
            }
            *slot = part.parse().ok()?;
        }
        Some(Self { numbers, before })
    }

    /// The order of precedence; builds do not count.
    pub(in crate::cel) fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.before.is_empty(), other.before.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => {
                    let parts = self.before.iter().zip(&other.before).map(|(a, b)| {
                        match (a.parse::<u64>(), b.parse::<u64>()) {
                            (Ok(a), Ok(b)) => a.cmp(&b),
                            (Ok(_), Err(_)) => Ordering::Less,
                            (Err(_), Ok(_)) => Ordering::Greater,
                            (Err(_), Err(_)) => a.cmp(b),
                        }
                    });
                    let different = parts.into_iter().find(|order| order.is_ne());
                    different.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
                }
            }
        })
    }
}

fn identifier(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("semver" | "isSemver", [Value::String(text), rest @ ..]) => {
            let tolerant = match rest {
                [] => false,
                [Value::Bool(tolerant)] => *tolerant,
                _ => return Err(call.no_overload()),
            };
            match (call.function, Semver::parse(text, tolerant)) {
                ("isSemver", found) => Ok(Value::Bool(found.is_some())),
                (_, Some(found)) => Ok(Value::Opaque(Opaque::Semver(Rc::new(found)))),
                (_, None) => Err(Error::failed("No Major.Minor.Patch elements found")),
            }
        }
        (function, [Value::Opaque(Opaque::Semver(version))]) => {
            let index = match function {
                "major" => 0,
                "minor" => 1,
                _ => 2,
            };
            Ok(Value::Int(i64::try_from(version.numbers[index]).unwrap_or(i64::MAX)))
        }
        _ => Err(call.no_overload()),
    }
}
