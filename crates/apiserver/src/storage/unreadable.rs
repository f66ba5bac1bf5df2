//! What clients are told of objects that are in the store and cannot be read: their key is lost, or what lies there is no
//! object. Whoever may do so can delete them all the same (`engine::delete`).
//!
//! Not here: how that is found out (`encryption::store`, `cache`).
//! Upstream: apiserver/pkg/storage/etcd3/corrupt_obj_deleter.go, apiserver/pkg/storage/errors.go.

use api::status::{Cause, Details};
use api::{GroupResource, Reason, Status};
use bytes::Bytes;
use serde::de::IgnoredAny;
use store::{KeyValue, UNREADABLE, Unreadable};

use crate::encoding;

/// Upstream's text of the error of its store.
fn text(key: &str, what: &str, revision: u64, detail: &str) -> String {
    format!(
        "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {what} \
         revision={revision}: {detail}"
    )
}

fn undecoded(key: &str, revision: u64, detail: &str) -> String {
    text(key, "object not decodable", revision, detail)
}

fn unopened(value: &Unreadable) -> String {
    // Before it is opened nobody knows a revision.
    text(&value.key, "data from the storage is not transformable", 0, &value.detail)
}

/// The error of reading a value that does not decode, and why.
pub(crate) fn one(kv: &KeyValue, detail: &str) -> Status {
    Status::internal(undecoded(&String::from_utf8_lossy(&kv.key), kv.mod_revision, detail))
}

/// The error of reading values that cannot be opened.
pub(crate) fn sealed(values: &[Unreadable]) -> Status {
    Status::internal(values.first().map(unopened).unwrap_or_default())
}

/// Looks whether a value is what is stored of an object.
///
/// # Errors
/// 500 if it is not.
pub(crate) fn check(kv: &KeyValue) -> Result<(), Status> {
    match serde_json::from_slice::<IgnoredAny>(&kv.value) {
        Ok(IgnoredAny) if encoding::is_object(&kv.value) => Ok(()),
        Ok(IgnoredAny) => Err(one(kv, "it is no object")),
        Err(error) => Err(one(kv, &error.to_string())),
    }
}

/// What a list below `prefix` is told of the store's error.
pub(crate) fn of_list(prefix: &[u8], error: store::Error) -> Status {
    match error {
        store::Error::Unreadable { values, more } => {
            list(prefix, values.iter().map(|value| (value.key.clone(), unopened(value))), more)
        }
        other => super::status(other),
    }
}

/// What a list below `prefix` is told when these are no objects, named by what follows the prefix.
pub(crate) fn undecodable(prefix: &[u8], keys: &[(Bytes, u64)]) -> Status {
    let named = keys.iter().take(UNREADABLE).map(|(key, revision)| {
        let key = [prefix, key].concat();
        let key = String::from_utf8_lossy(&key).into_owned();
        let message = undecoded(&key, *revision, "it is no JSON");
        (key, message)
    });
    list(prefix, named, keys.len() > UNREADABLE)
}

/// What is told of these to whoever may see only what `may_see` accepts of keys below `prefix`.
pub(crate) fn withheld(mut status: Status, prefix: &[u8], may_see: impl Fn(&[u8]) -> bool) -> Status {
    if status.reason == Reason::StoreReadError
        && let Some(details) = &mut status.details
    {
        details.causes.retain(|cause| {
            let key = cause.field.as_bytes().strip_prefix(prefix);
            cause.field.is_empty() || key.is_some_and(&may_see)
        });
    }
    status
}

fn list(prefix: &[u8], named: impl Iterator<Item = (String, String)>, more: bool) -> Status {
    let prefix = String::from_utf8_lossy(prefix);
    let mut parts = prefix.strip_prefix("/registry/").unwrap_or(&prefix).split('/');
    let group = parts.next().filter(|group| *group != "core").unwrap_or_default();
    let resource = GroupResource::new(group, parts.next().unwrap_or_default());
    let mut causes: Vec<Cause> = named
        .map(|(field, message)| Cause { reason: "UnexpectedServerResponse".into(), message, field })
        .collect();
    if more {
        // Ended before so many were found, it was because what decrypts them is silent.
        let (reason, message) = match causes.len() {
            UNREADABLE.. => ("FieldValueTooMany", "too many errors, the list is truncated"),
            _ => (
                "UnexpectedServerResponse",
                "what decrypts the values gave no answer: none was read after that",
            ),
        };
        causes.push(Cause { reason: reason.into(), message: message.into(), field: String::new() });
    }
    let text = format!("failed to read one or more {resource} from the storage");
    let details = Details {
        name: "list".into(),
        group: resource.group,
        kind: resource.resource,
        causes,
        ..Details::default()
    };
    Status { details: Some(Box::new(details)), ..Status::new(500, Reason::StoreReadError, text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_why_it_ends() {
        for (count, more, said) in [
            (2, false, None),
            (1, true, Some("what decrypts the values gave no answer: none was read after that")),
            (UNREADABLE, true, Some("too many errors, the list is truncated")),
        ] {
            let named =
                (0..count).map(|number| (format!("/registry/core/secrets/a/{number}"), String::new()));
            let status = list(b"/registry/core/secrets/", named, more);
            // Whoever may see none of these objects reads it too.
            let status = withheld(status, b"/registry/core/secrets/", |_| false);
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            assert_eq!(causes.first().map(|cause| cause.message.as_str()), said, "{count} {more}");
        }
    }
}
