//! JSON patches (RFC 6902).
//! As upstream: negative indices count from the end, `test` of an absent member against null holds, the number of
//! operations and the bytes that `copy` makes are bounded. Beyond upstream: so is the nesting of the outcome.
//! Upstream: evanphx/json-patch v4; the apiserver says 422 and nothing of the cause, and so does this.

use api::{Reason, Status};
use serde_json::Value;

use crate::json::MAX_KEPT_DEPTH;

/// Operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// Bytes that all `copy` operations of one patch may make.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Why an operation failed. Only its class reaches the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Error {
    #[error("the patch is no list of operations")]
    NoPatch,
    #[error("unexpected operation")]
    Operation,
    #[error("no such member: {0}")]
    Missing(String),
    #[error("the test failed")]
    Test,
    #[error("the copies exceed {MAX_COPIED_BYTES} bytes")]
    Copies,
    #[error("nested too deeply")]
    Depth,
}

/// Applies a JSON patch.
pub fn json_patch(document: Value, patch: &Value) -> Result<Value, Status> {
    let operations = patch.as_array().ok_or(Error::NoPatch).map_err(|_| {
        Status::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    })?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::request_entity_too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut state = State { document, copied: 0 };
    for operation in operations {
        state.apply(operation).map_err(|_| unprocessable())?;
    }
    Ok(state.document)
}

/// What upstream answers when a patch cannot be applied.
pub(super) fn unprocessable() -> Status {
    Status::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
}

struct State {
    document: Value,
    copied: usize,
}

impl State {
    fn apply(&mut self, operation: &Value) -> Result<(), Error> {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let path = tokens(text("path").ok_or(Error::Operation)?)?;
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        match text("op") {
            Some("add") => self.add(&path, value()),
            Some("remove") => self.remove(&path).map(drop),
            Some("replace") => {
                *self.find(&path)? = bounded(&path, value())?;
                Ok(())
            }
            Some("move") => {
                let from = tokens(text("from").ok_or(Error::Operation)?)?;
                let moved = self.remove(&from)?;
                self.add(&path, moved)
            }
            Some("copy") => {
                let from = tokens(text("from").ok_or(Error::Operation)?)?;
                let copied = self.find(&from)?.clone();
                self.copied += copied.to_string().len();
                if self.copied > MAX_COPIED_BYTES {
                    return Err(Error::Copies);
                }
                self.add(&path, copied)
            }
            Some("test") => {
                let expected = value();
                match self.find(&path) {
                    Ok(found) if *found == expected => Ok(()),
                    Err(Error::Missing(_)) if expected.is_null() => Ok(()),
                    Ok(_) => Err(Error::Test),
                    Err(error) => Err(error),
                }
            }
            _ => Err(Error::Operation),
        }
    }

    fn find(&mut self, path: &[String]) -> Result<&mut Value, Error> {
        path.iter().try_fold(&mut self.document, |value, token| {
            match value {
                Value::Object(object) => object.get_mut(token),
                Value::Array(list) => index(token, list.len()).and_then(|index| list.get_mut(index)),
                _ => None,
            }
            .ok_or_else(|| Error::Missing(token.clone()))
        })
    }

    fn add(&mut self, path: &[String], value: Value) -> Result<(), Error> {
        let value = bounded(path, value)?;
        let Some((last, parents)) = path.split_last() else {
            self.document = value;
            return Ok(());
        };
        match self.find(parents)? {
            Value::Object(object) => {
                object.insert(last.clone(), value);
                Ok(())
            }
            Value::Array(list) => {
                let length = list.len();
                let at = if last == "-" { Some(length) } else { index(last, length + 1) };
                list.insert(at.ok_or_else(|| Error::Missing(last.clone()))?, value);
                Ok(())
            }
            _ => Err(Error::Missing(last.clone())),
        }
    }

    fn remove(&mut self, path: &[String]) -> Result<Value, Error> {
        let (last, parents) = path.split_last().ok_or(Error::Operation)?;
        let missing = || Error::Missing(last.clone());
        match self.find(parents)? {
            Value::Object(object) => object.remove(last).ok_or_else(missing),
            Value::Array(list) => index(last, list.len()).map(|at| list.remove(at)).ok_or_else(missing),
            _ => Err(missing()),
        }
    }
}

/// The value, unless it would stand so deep that what reads the outcome could not follow.
fn bounded(path: &[String], value: Value) -> Result<Value, Error> {
    if path.len() + depth(&value) > MAX_KEPT_DEPTH { Err(Error::Depth) } else { Ok(value) }
}

/// Nesting of a value; recursion is bounded because no value here is nested deeper than [`MAX_KEPT_DEPTH`].
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The parts of a JSON pointer.
fn tokens(pointer: &str) -> Result<Vec<String>, Error> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let parts = pointer.strip_prefix('/').ok_or_else(|| Error::Missing(pointer.to_owned()))?;
    Ok(parts.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

/// A place in a list of this length.
fn index(token: &str, length: usize) -> Option<usize> {
    let number: i64 = token.parse().ok()?;
    let at = if number < 0 { i64::try_from(length).ok()?.checked_add(number)? } else { number };
    usize::try_from(at).ok().filter(|at| *at < length)
}
