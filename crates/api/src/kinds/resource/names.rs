//! Names that the kinds of dynamic resource allocation share: pools, attributes, requests, and raw parameters.
//! Upstream: pkg/apis/resource/validation.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, dns_subdomain, driver_name};
use crate::kinds::optional::items;
use crate::names::is_c_identifier;
use crate::types::resource::v1::{DeviceClaim, OpaqueDeviceConfiguration};

/// Bytes of the parameters of a driver, as JSON.
const PARAMETERS_MAX: usize = 10 * 1024;
const NO_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Refuses what is no name of a pool: DNS subdomains joined by slashes.
pub(super) fn pool(errors: &mut ErrorList, path: &Path, name: &str) {
    const MAX: usize = 253;
    if name.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    if name.len() > MAX {
        errors.push(field::too_long(path, MAX));
    }
    for part in name.split('/') {
        dns_subdomain(errors, path, part);
    }
}

/// Refuses what is no name of an attribute or capacity, which may begin with the domain of its driver.
pub(super) fn qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [name] => identifier(errors, path, name),
        [domain, name] => {
            if domain.is_empty() {
                errors.push(field::invalid(path, "", "the domain must not be empty"));
            } else {
                driver_name(errors, path, domain);
            }
            if name.is_empty() {
                errors.push(field::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(errors, path, name);
            }
        }
        // More slashes are let through, as upstream does.
        _ => {}
    }
}

/// Refuses what is no name of an attribute with its domain.
pub(super) fn fully_qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    qualified(errors, path, name);
    if !name.contains('/') {
        let message = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(field::invalid(path, name, message));
    }
}

fn identifier(errors: &mut ErrorList, path: &Path, name: &str) {
    const MAX: usize = 32;
    if name.len() > MAX {
        errors.push(field::too_long(path, MAX));
    }
    errors.extend(is_c_identifier(name).into_iter().map(|message| field::invalid(path, name, message)));
}

/// Refuses what is no unique identifier in its normal form.
pub(super) fn uid(errors: &mut ErrorList, path: &Path, uid: &str) {
    const NORMAL: usize = 36;
    let dashes = [8, 13, 18, 23];
    let is_uid = |uid: &str| {
        uid.len() == NORMAL
            && uid.bytes().enumerate().all(|(index, byte)| {
                if dashes.contains(&index) { byte == b'-' } else { byte.is_ascii_hexdigit() }
            })
    };
    if uid.len() != NORMAL {
        let message = format!("error validating uid: invalid UUID length: {}", uid.len());
        errors.push(field::invalid(path, uid, message));
    } else if !is_uid(uid) {
        errors.push(field::invalid(path, uid, "error validating uid: invalid UUID format"));
    } else if uid != uid.to_lowercase() {
        errors.push(field::invalid(
            path,
            uid,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
             hexadecimal characters",
        ));
    }
}

/// The names of a claim's requests, each with those of its choices.
pub(super) struct RequestNames<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> RequestNames<'a> {
    pub(super) fn of(claim: Option<&'a DeviceClaim>) -> Self {
        let requests = claim.map(|claim| items(&claim.requests)).unwrap_or_default();
        let choices = |request: &'a crate::types::resource::v1::DeviceRequest| {
            items(&request.first_available).iter().map(|choice| choice.name.as_str()).collect()
        };
        Self(requests.iter().map(|request| (request.name.as_str(), choices(request))).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, choice)) => self.0.get(request).is_some_and(|choices| choices.contains(choice)),
        }
    }

    /// Refuses what does not name a request, or a choice of one.
    pub(super) fn reference(&self, errors: &mut ErrorList, path: &Path, name: &str) {
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 {
            errors.push(field::invalid(path, name, NO_REQUEST));
            return;
        }
        for part in parts {
            dns_label(errors, path, part);
        }
        if !self.has(name) {
            errors.push(field::invalid(path, name, NO_REQUEST));
        }
    }
}

/// Refuses a configuration without the parameters of a driver.
pub(super) fn configuration(errors: &mut ErrorList, path: &Path, opaque: Option<&OpaqueDeviceConfiguration>) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else {
        errors.push(field::required(&path, ""));
        return;
    };
    driver_name(errors, &path.child("driver"), &opaque.driver);
    raw(errors, &path.child("parameters"), &opaque.parameters, PARAMETERS_MAX);
}

/// Refuses a value that is no JSON object or too large.
pub(super) fn raw(errors: &mut ErrorList, path: &Path, raw: &RawExtension, max: usize) {
    match &raw.0 {
        Value::Null => errors.push(field::required(path, "")),
        value if value.to_string().len() > max => errors.push(field::too_long(path, max)),
        Value::Object(_) => {}
        _ => errors.push(field::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(check: impl FnOnce(&mut ErrorList, &Path)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("f"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_attributes() {
        for (name, expected) in [
            ("model", vec![]),
            ("gpu.example.com/model", vec![]),
            ("/model", vec![r#"f: Invalid value: "": the domain must not be empty"#]),
            ("gpu.example.com/", vec![r#"f: Invalid value: "": the name must not be empty"#]),
            (
                "a-b",
                vec![
                    r#"f: Invalid value: "a-b": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')"#,
                ],
            ),
        ] {
            assert_eq!(texts(|errors, path| qualified(errors, path, name)), expected, "{name}");
        }
        assert_eq!(
            texts(|errors, path| fully_qualified(errors, path, "model")),
            [
                r#"f: Invalid value: "model": a fully qualified name must be a domain and a name separated by a slash"#
            ]
        );
    }

    #[test]
    fn pools_and_identifiers() {
        assert_eq!(texts(|errors, path| pool(errors, path, "")), ["f: Required value"]);
        assert!(texts(|errors, path| pool(errors, path, "node-a/gpu.example.com")).is_empty());
        assert!(texts(|errors, path| uid(errors, path, "6b0a6a3e-1a4f-4a52-9d84-6f8d4b1c0e11")).is_empty());
        assert_eq!(
            texts(|errors, path| uid(errors, path, "x")),
            [r#"f: Invalid value: "x": error validating uid: invalid UUID length: 1"#]
        );
    }

    #[test]
    fn parameters() {
        let of = |value: Value| texts(|errors, path| raw(errors, path, &RawExtension(value), 20));
        assert!(of(serde_json::json!({"a": 1})).is_empty());
        assert_eq!(of(Value::Null), ["f: Required value"]);
        assert_eq!(of(1.into()), [r#"f: Invalid value: "<value omitted>": must be a valid JSON object"#]);
        assert_eq!(of("x".repeat(30).into()), ["f: Too long: may not be more than 20 bytes"]);
    }
}
