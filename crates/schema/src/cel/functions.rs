//! What the functions do, one file for each library.
//! A function is found by name while compiling ([`implementation`]) and looks at its arguments while evaluating.
//! Not here: `&&`, `||`, `?:`, selection and folds, which decide what is evaluated at all (`eval`).

pub(super) mod authz;
pub(super) mod conversion;
pub(super) mod format;
pub(super) mod lists;
pub(super) mod net;
pub(super) mod operators;
pub(super) mod optional;
pub(super) mod printf;
pub(super) mod quantity;
pub(super) mod regex;
pub(super) mod semver;
pub(super) mod strings;
pub(super) mod time;
pub(super) mod url;

use super::value::{Error, Result, Value};

/// One call.
pub(super) struct Call<'c, 'a> {
    /// The function's name.
    pub function: &'c str,
    /// The only overload it can be, if there is only one.
    pub overload: Option<&'static str>,
    /// The target of a method first.
    pub arguments: &'c [Value<'a>],
}

/// The implementation of a function.
pub(super) type Function = for<'c, 'a> fn(&Call<'c, 'a>) -> Result<Value<'a>>;

impl Call<'_, '_> {
    /// The error of arguments that no overload takes.
    pub fn no_overload(&self) -> Error {
        let types: Vec<&str> = self.arguments.iter().map(Value::type_name).collect();
        Error::failed(format!("no such overload: {}({})", self.function, types.join(", ")))
    }
}

/// The implementation of a function by its name.
pub(super) fn implementation(name: &str) -> Option<Function> {
    Some(match name {
        "!_"
        | "@not_strictly_false"
        | "_==_"
        | "_!=_"
        | "@in"
        | "_[_]"
        | "_[?_]"
        | "_+_"
        | "_-_"
        | "_*_"
        | "_/_"
        | "_%_"
        | "-_"
        | "_<_"
        | "_<=_"
        | "_>_"
        | "_>=_"
        | "size"
        | "cel.@mapInsert" => operators::call,
        "type" | "dyn" | "bool" | "bytes" | "double" | "int" | "string" | "uint" => conversion::call,
        "duration" | "timestamp" | "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth"
        | "getDate" | "getDayOfWeek" | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => {
            time::call
        }
        "optional.of"
        | "optional.ofNonZeroValue"
        | "optional.none"
        | "optional.unwrap"
        | "unwrapOpt"
        | "hasValue"
        | "value"
        | "or"
        | "orValue" => optional::call,
        "contains"
        | "endsWith"
        | "startsWith"
        | "charAt"
        | "indexOf"
        | "lastIndexOf"
        | "lowerAscii"
        | "upperAscii"
        | "replace"
        | "split"
        | "substring"
        | "trim"
        | "join"
        | "strings.quote"
        | "jsonpatch.escapeKey" => strings::call,
        "format" => printf::call,
        "matches" | "find" | "findAll" => regex::call,
        "sets.contains"
        | "sets.equivalent"
        | "sets.intersects"
        | "isSorted"
        | "sum"
        | "max"
        | "min"
        | "distinct"
        | "flatten"
        | "slice"
        | "reverse"
        | "sort"
        | "first"
        | "last"
        | "lists.range"
        | "@sortByAssociatedKeys" => lists::call,
        "url" | "isURL" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath"
        | "getQuery" => url::call,
        "ip"
        | "isIP"
        | "ip.isCanonical"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "cidr"
        | "isCIDR"
        | "containsIP"
        | "containsCIDR"
        | "prefixLength"
        | "masked" => net::call,
        "quantity" | "isQuantity" | "sign" | "asApproximateFloat" | "asInteger" | "isInteger" | "add"
        | "sub" | "isGreaterThan" | "isLessThan" | "compareTo" => quantity::call,
        "semver" | "isSemver" | "major" | "minor" | "patch" => semver::call,
        "path" | "group" | "serviceAccount" | "resource" | "subresource" | "namespace" | "name"
        | "fieldSelector" | "labelSelector" | "check" | "errored" | "error" | "allowed" | "reason" => {
            authz::call
        }
        "validate" => format::call,
        name if name.starts_with("format.") => format::call,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_function_has_an_implementation() {
        for name in ["_+_", "format.dns1123Label", "isSorted", "authorizer"] {
            assert_eq!(super::implementation(name).is_some(), name != "authorizer", "{name}");
        }
    }
}
