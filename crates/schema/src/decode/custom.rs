//! Decodes custom resources: any JSON object, then pruned by its structural schema; `metadata` is typed.
//! Not here: defaults and validation of custom resources ([`crate::structural`]).
//! Upstream: apiextensions-apiserver `schemaCoercingDecoder`.

use serde_json::{Map, Value};

use super::typed::{Abort, Typed};
use super::{Failure, read_object, type_meta_of};
use crate::json::Observer as _;
use crate::structural::{OBJECT_META, Structural};
use crate::table::table;

pub(super) fn decode(
    body: &[u8],
    structural: &Structural,
    strict: bool,
) -> Result<(Value, Vec<String>), Failure> {
    let mut typed = Typed::new(body, strict);
    let outcome = read_object(&mut typed, read_fields);
    let mut value = match outcome {
        Ok(value) => value,
        Err(Abort::Syntax(error)) => return Err(Failure::Unrecognized(error.to_string())),
        Err(Abort::Value(error)) => return Err(Failure::Unhandled(Default::default(), error)),
    };
    if let Some(error) = typed.mistyped.take() {
        return Err(Failure::Unhandled(type_meta_of(&value), error));
    }
    structural.prune(&mut value, &mut typed.findings);
    Ok((value, typed.findings.into_found()))
}

fn read_fields(typed: &mut Typed<'_>) -> Result<Value, Abort> {
    let mut first = typed.reader.begin_object()?;
    let mut object = Map::new();
    while let Some(key) = typed.reader.key(&mut first)? {
        if object.contains_key(&*key) {
            typed.findings.duplicate(&key);
        }
        typed.findings.enter_key(&key);
        let value = match (&*key, table().definition(OBJECT_META)) {
            ("metadata", Some(definition)) if typed.reader.peek()? == crate::json::Kind::Object => {
                typed.definition(definition)?
            }
            _ => typed.reader.value(&mut typed.findings)?,
        };
        typed.findings.leave();
        object.insert(key.into_owned(), value);
    }
    Ok(Value::Object(object))
}
