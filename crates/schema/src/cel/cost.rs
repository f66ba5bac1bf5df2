//! What calls cost while they are evaluated.
//! Not here: the cost of names, fields and literals (`eval`), estimates before evaluation (`estimate`).
//! Upstream: apiserver `pkg/cel/library/cost.go` (`CallCost`), cel-go `interpreter/runtimecost.go`.

use super::value::{List, Map, Opaque, Value};

/// Walking a text costs this per character.
pub(super) const TEXT: f64 = 0.1;
/// A regular expression is taken to have a step for each four characters.
pub(super) const REGEX: f64 = 0.25;
/// Making a list.
pub(super) const LIST: u64 = 10;
/// Making a map.
pub(super) const MAP: u64 = 30;
/// Making an object.
pub(super) const STRUCT: u64 = 40;
/// Asking the authorizer: two questions may be asked in one expression.
pub(super) const CHECK: u64 = 350_000;

fn size(value: &Value<'_>) -> u64 {
    value.size().unwrap_or(1)
}

/// A size times a factor, rounded up.
fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// So many steps of a walk cost one unit at least, where upstream charges nothing for what is walked (short texts, empty
/// lists).
const STEPS: u64 = 16;

/// Walking all of a value, or as much of it as `most` pays for: values that expressions make share their parts, so there may
/// be far more to walk than was ever made.
fn traversal(value: &Value<'_>, most: u64) -> u64 {
    let mut walk = Walk { cost: 0, steps: 0, most };
    walk.over(value);
    walk.price()
}

/// Whether more would have to be walked to compare or print these than `most` pays for. Only what expressions have made
/// is looked at: everything else is as large as what was decoded.
pub(super) fn is_endless(values: &[Value<'_>], most: u64) -> bool {
    let made = values.iter().filter(|value| {
        matches!(
            value,
            Value::List(List::Made(_) | List::Merged(..))
                | Value::Map(Map::Made(_) | Map::Struct(_))
                | Value::Optional(_)
        )
    });
    let mut walk = Walk { cost: 0, steps: 0, most };
    made.for_each(|value| walk.over(value));
    walk.is_paid_up()
}

struct Walk {
    cost: u64,
    steps: u64,
    most: u64,
}

impl Walk {
    fn price(&self) -> u64 {
        self.cost.max(self.steps / STEPS)
    }

    fn is_paid_up(&self) -> bool {
        self.price() > self.most
    }

    /// Recursion ends where nothing nests, or is paid up: values nest no deeper than what was decoded and the expression
    /// together.
    fn over(&mut self, value: &Value<'_>) {
        self.steps += 1;
        if self.is_paid_up() {
            return;
        }
        match value {
            Value::String(text) => self.cost += (text.len() as f64 * TEXT) as u64,
            Value::Bytes(bytes) => self.cost += (bytes.len() as f64 * TEXT) as u64,
            Value::List(list) => {
                for at in 0..list.len() {
                    let Ok(Some(element)) = list.get(at) else { continue };
                    self.over(&element);
                    if self.is_paid_up() {
                        return;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    self.over(&key);
                    if let Ok(Some(value)) = map.get(&key) {
                        self.over(&value);
                    }
                    if self.is_paid_up() {
                        return;
                    }
                }
            }
            Value::Optional(Some(inner)) => {
                self.cost += 1;
                self.over(inner);
            }
            _ => self.cost += 1,
        }
    }
}

/// The cost of a selector of this length.
pub(super) fn selector(length: u64) -> u64 {
    let requirements = scaled(length, 0.5);
    LIST + scaled(length, TEXT) + requirements * (LIST + STRUCT)
}

/// Whether what a call costs depends on what it gives.
pub(super) fn is_by_result(function: &str) -> bool {
    matches!(function, "lists.range" | "join" | "format")
}

/// The cost of one call; beyond `most` it is not counted to its end.
pub(super) fn call(
    function: &str,
    overload: Option<&str>,
    arguments: &[Value<'_>],
    result: Option<&Value<'_>>,
    most: u64,
) -> u64 {
    library(function, overload, arguments, result, most).unwrap_or_else(|| standard(overload, arguments))
}

fn library(
    function: &str,
    overload: Option<&str>,
    arguments: &[Value<'_>],
    result: Option<&Value<'_>>,
    most: u64,
) -> Option<u64> {
    let first = arguments.first();
    let first_size = first.map_or(1, size);
    let second_size = arguments.get(1).map_or(1, size);
    Some(match function {
        "check" => CHECK,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name"
        | "allowed" | "reason" | "error" | "errored" => 1,
        "fieldSelector" | "labelSelector" => selector(second_size),
        "isSorted"
        | "sum"
        | "max"
        | "min"
        | "indexOf"
        | "lastIndexOf"
        | "distinct"
        | "flatten"
        | "slice"
        | "reverse"
        | "sort"
        | "@sortByAssociatedKeys"
        | "optional.unwrap"
        | "unwrapOpt" => first.map_or(0, |first| traversal(first, most)),
        "lists.range" => result.map_or(1, size),
        "sets.contains" | "sets.intersects" => first_size.saturating_mul(second_size).max(1),
        "sets.equivalent" => first_size.saturating_mul(second_size).saturating_mul(2).max(1),
        "url" | "isURL" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
            scaled(first_size, TEXT)
        }
        "replace" | "split" => scaled(first_size, 2.0 * TEXT),
        "join" => scaled(result.map_or(1, size), 2.0 * TEXT),
        "format" => scaled(first_size, TEXT).max(1) + result.map_or(0, |text| scaled(size(text), TEXT)),
        "find" | "findAll" => scaled(first_size + 1, TEXT) * scaled(second_size, REGEX),
        "ip" if overload == Some("cidr_ip") => 1,
        "cidr" | "isIP" | "isCIDR" | "ip" => scaled(first_size, TEXT),
        "ip.isCanonical" => scaled(first_size, 2.0 * TEXT),
        "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => 1,
        "containsIP" => {
            let parsing = overload == Some("cidr_contains_ip_string");
            scaled(2 * first_size, TEXT) + if parsing { scaled(second_size, TEXT) } else { 0 }
        }
        "containsCIDR" => {
            let parsing = overload == Some("cidr_contains_cidr_string");
            let walk = scaled(2 * first_size, TEXT) + scaled(first_size, TEXT) + 1;
            walk + if parsing { scaled(second_size, TEXT) } else { 0 }
        }
        "quantity" | "isQuantity" | "semver" | "isSemver" => scaled(first_size, TEXT),
        "validate" => match first {
            Some(Value::Opaque(Opaque::Format(format))) => {
                scaled(second_size + 1, TEXT) * scaled(format.regex_size, REGEX)
            }
            _ => return None,
        },
        "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan"
        | "isLessThan" | "compareTo" | "add" | "sub" | "major" | "minor" | "patch" | "getScheme"
        | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery" => 1,
        "_==_" if matches!(first, Some(Value::Opaque(_))) => 1,
        _ => return None,
    })
}

fn standard(overload: Option<&str>, arguments: &[Value<'_>]) -> u64 {
    let at = |index: usize| arguments.get(index).map_or(1, size);
    match overload.unwrap_or_default() {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" => {
            scaled(at(0), TEXT)
        }
        "in_list" => at(1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes"
        | "equals"
        | "not_equals" => scaled(at(0).min(at(1)), TEXT),
        "add_string" | "add_bytes" => scaled(at(0) + at(1), TEXT),
        "matches_string" | "matches" => scaled(at(0) + 1, TEXT) * scaled(at(1), REGEX),
        "contains_string" => scaled(at(0), TEXT) * scaled(at(1), TEXT),
        _ => 1,
    }
}
