//! Secret: bytes that are not for everyone.
//! Upstream: pkg/registry/core/secret, pkg/apis/core.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde_json::Value;

use super::config_map::{SEALED, SIZE_MAX};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Typed};
use crate::kinds::optional::{default_text, text};
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::is_config_map_key;
use crate::types::core::v1::Secret;

const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        selectable_fields: vec![SelectableField::new("type", "/type")],
        columns: vec![
            Column::object_name(),
            Column::new("Type", "string", "What the secret is for."),
            Column::new("Data", "string", "Number of entries."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<Secret>::new()
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "Secret", "secrets", Scope::Namespaced)
    }
}

fn default(secret: &mut Secret) {
    // `stringData` is a way to write, never to read.
    if let Some(texts) = secret.string_data.take()
        && !texts.is_empty()
    {
        let data = secret.data.get_or_insert_default();
        data.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
    default_text(&mut secret.type_, "Opaque");
}

fn validate(secret: &Secret) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in secret.data.iter().flatten() {
        push_invalid(&mut errors, &path.key(key), key, is_config_map_key(key));
        size += value.0.len();
    }
    if size > SIZE_MAX {
        errors.push(field::too_long(&path, SIZE_MAX));
    }
    by_type(&mut errors, secret, &path);
    errors
}

fn by_type(errors: &mut ErrorList, secret: &Secret, path: &Path) {
    let value =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            let account = secret.metadata.annotations.as_ref().and_then(|all| all.get(SERVICE_ACCOUNT));
            if account.is_none_or(String::is_empty) {
                let path = Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT);
                errors.push(field::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => json_value(errors, value(".dockercfg"), &path.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => {
            json_value(errors, value(".dockerconfigjson"), &path.key(".dockerconfigjson"));
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            errors.push(field::required(&path.key("username"), ""));
            errors.push(field::required(&path.key("password"), ""));
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(<[u8]>::is_empty) => {
            errors.push(field::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    errors.push(field::required(&path.key(key), ""));
                }
            }
        }
        _ => {}
    }
}

fn json_value(errors: &mut ErrorList, value: Option<&[u8]>, path: &Path) {
    match value.map(serde_json::from_slice::<serde_json::Map<String, Value>>) {
        None => errors.push(field::required(path, "")),
        Some(Err(error)) => {
            errors.push(field::invalid(path, "<secret contents redacted>", error.to_string()))
        }
        Some(Ok(_)) => {}
    }
}

fn validate_update(new: &Secret, old: &Secret) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &Path::new("type"), &new.type_, &old.type_);
    if old.immutable == Some(true) {
        if new.immutable != Some(true) {
            errors.push(field::forbidden(&Path::new("immutable"), SEALED));
        }
        if new.data.clone().unwrap_or_default() != old.data.clone().unwrap_or_default() {
            errors.push(field::forbidden(&Path::new("data"), SEALED));
        }
    }
    errors.extend(validate(new));
    errors
}

fn cells(secret: &Secret, now: Timestamp) -> Vec<Value> {
    vec![
        row::name(&secret.metadata),
        text(&secret.type_).into(),
        secret.data.as_ref().map_or(0, |data| data.len()).into(),
        row::age(&secret.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(value: Value) -> Secret {
        let mut secret = serde_json::from_value(value).unwrap();
        default(&mut secret);
        secret
    }

    #[test]
    fn texts_become_data() {
        let secret = secret(json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}}));
        assert_eq!(serde_json::to_value(&secret.data).unwrap(), json!({"a": "eA==", "b": "eQ=="}));
        assert_eq!((secret.string_data, secret.type_.as_deref()), (None, Some("Opaque")));
    }

    #[test]
    fn each_type_needs_its_keys() {
        for (value, errors) in [
            (json!({"type": "kubernetes.io/tls"}), 2),
            (json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "", "tls.key": ""}}), 0),
            (json!({"type": "kubernetes.io/basic-auth", "stringData": {"username": "a"}}), 0),
            (json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}}), 1),
            (json!({"type": "kubernetes.io/service-account-token"}), 1),
            (json!({"type": "own"}), 0),
        ] {
            assert_eq!(validate(&secret(value.clone())).len(), errors, "{value}");
        }
    }
}
