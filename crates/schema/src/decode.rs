//! Request bytes to an object, with field validation and in canonical form.
//! Reads JSON by a [`Schema`]: unknown fields and nulls are dropped, quantities and times become canonical, optional
//! lists and maps that are empty are left out. Errors and warnings are worded as upstream's.
//! Not here: defaults and validation (`api`), YAML ([`crate::yaml`]).
//! Upstream: apimachinery `pkg/runtime/serializer/json`, sigs.k8s.io/json, apiserver `transformDecodeError`.

mod custom;
pub(crate) mod scalar;
mod strict;
mod typed;

use api::Status;
use serde_json::Value;

pub(crate) use strict::Findings;

use self::typed::{Abort, Typed};
use crate::Schema;
use crate::json::{self, Kind, Reader};
use crate::yaml::{self, Converted};

/// What happens to fields that the schema does not know, and to fields given twice: `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped in silence.
    Ignore,
    /// They are dropped, and the client is warned.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// The value of the `fieldValidation` parameter; empty is the default, which is to warn.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object: only fields of the schema, quantities and times canonical, no nulls.
    pub value: Value,
    /// Texts for `Warning` headers, of [`FieldValidation::Warn`].
    pub warnings: Vec<String>,
}

/// What a body says of its own kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeMeta {
    /// `apiVersion`, empty when unset.
    pub api_version: String,
    /// `kind`, empty when unset.
    pub kind: String,
}

/// Why a body is no object of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// The kind of the body cannot even be read.
    Unrecognized(String),
    /// It is of a kind, but not of its shape.
    Unhandled(TypeMeta, String),
}

/// Decodes a JSON body. The errors are 400 `BadRequest` with upstream's messages.
pub fn decode(body: &[u8], schema: &Schema, mode: FieldValidation) -> Result<Decoded, Status> {
    decode_as_sent(body, body, &[], schema, mode)
}

/// As [`decode`], for a YAML body: `sent` as it came, and what [`crate::yaml_to_json`] made of it.
pub fn decode_yaml(
    yaml: &Converted,
    sent: &[u8],
    schema: &Schema,
    mode: FieldValidation,
) -> Result<Decoded, Status> {
    decode_as_sent(&yaml.json, sent, &yaml.duplicates, schema, mode)
}

/// The answer to a body that is no YAML.
pub fn refuse_yaml(error: &yaml::Error, sent: &[u8], schema: &Schema) -> Status {
    unrecognized(sent, &schema.kind().kind, &error.to_string())
}

fn decode_as_sent(
    json: &[u8],
    sent: &[u8],
    duplicates: &[String],
    schema: &Schema,
    mode: FieldValidation,
) -> Result<Decoded, Status> {
    let strict = mode != FieldValidation::Ignore;
    let (value, findings) =
        read_by_schema(json, schema, strict).map_err(|failure| refuse(sent, schema, failure))?;
    if mode == FieldValidation::Strict && !(findings.is_empty() && duplicates.is_empty()) {
        let all: Vec<String> = yaml::strict_error(duplicates).into_iter().chain(findings).collect();
        let failure = format!("strict decoding error: {}", all.join(", "));
        return Err(refuse(sent, schema, Failure::Unhandled(type_meta_of(&value), failure)));
    }
    let duplicates = if strict { duplicates } else { &[] };
    Ok(Decoded { value, warnings: duplicates.iter().cloned().chain(findings).collect() })
}

/// As [`decode`], for a value at hand (the outcome of a patch).
pub fn decode_value(value: &Value, schema: &Schema, mode: FieldValidation) -> Result<Decoded, Status> {
    let body = serde_json::to_vec(value).map_err(Status::internal)?;
    decode(&body, schema, mode)
}

fn read_by_schema(body: &[u8], schema: &Schema, strict: bool) -> Result<(Value, Vec<String>), Failure> {
    match schema {
        Schema::BuiltIn(definition) => built_in(body, definition, strict),
        Schema::Structural(structural) => custom::decode(body, structural, strict),
    }
}

/// The object and what a strict decoder finds in it; an error is upstream's bare text.
pub(crate) fn read(body: &[u8], schema: &Schema, strict: bool) -> Result<(Value, Vec<String>), String> {
    read_by_schema(body, schema, strict).map_err(|failure| match failure {
        Failure::Unrecognized(error) | Failure::Unhandled(_, error) => error,
    })
}

/// One JSON value and nothing behind it, whatever it is.
pub(crate) fn read_value(reader: &mut Reader<'_>, findings: &mut Findings) -> Result<Value, json::Error> {
    let value = reader.value(findings)?;
    reader.end()?;
    Ok(value)
}

/// Reads the kind of a JSON body and nothing else, so that the right schema can be chosen for it.
/// `expected` is the kind named in the error when the body is no JSON object.
pub fn type_meta(body: &[u8], expected: &str) -> Result<TypeMeta, Status> {
    let mut reader = Reader::new(body);
    let result = read_type_meta(&mut reader);
    result.map_err(|error| {
        unrecognized(body, expected, &format!("couldn't get version/kind; json parse error: {error}"))
    })
}

fn read_type_meta(reader: &mut Reader<'_>) -> Result<TypeMeta, String> {
    let text = |error: json::Error| error.to_string();
    if reader.peek().map_err(text)? != Kind::Object {
        return Err(no_object(reader));
    }
    let mut meta = TypeMeta::default();
    let mut first = reader.begin_object().map_err(text)?;
    while let Some(key) = reader.key(&mut first).map_err(text)? {
        let kind = reader.peek().map_err(text)?;
        match (&*key, kind) {
            ("apiVersion", Kind::String) => meta.api_version = reader.string().map_err(text)?.into_owned(),
            ("kind", Kind::String) => meta.kind = reader.string().map_err(text)?.into_owned(),
            _ => reader.skip().map_err(text)?,
        }
    }
    reader.end().map_err(text)?;
    Ok(meta)
}

fn built_in(
    body: &[u8],
    definition: &'static crate::Definition,
    strict: bool,
) -> Result<(Value, Vec<String>), Failure> {
    let mut typed = Typed::new(body, strict);
    let outcome = read_object(&mut typed, |typed| typed.definition(definition));
    let (value, mistyped) = match outcome {
        Ok(value) => (value, typed.mistyped.take()),
        Err(Abort::Syntax(error)) => return Err(Failure::Unrecognized(error.to_string())),
        Err(Abort::Value(error)) => (Value::Null, Some(error)),
    };
    if let Some(error) = mistyped {
        // Upstream reads these two fields before it knows the struct, hence the nameless struct.
        for field in ["kind", "apiVersion"] {
            let field = format!(".{field} of type string");
            if error.ends_with(&format!("{}{field}", definition.short_name())) {
                let value = error.split(" into ").next().unwrap_or_default();
                return Err(Failure::Unrecognized(format!("{value} into Go struct field {field}")));
            }
        }
        // The kind may stand behind the value that was refused.
        let meta = read_type_meta(&mut Reader::new(body)).map_err(Failure::Unrecognized)?;
        return Err(Failure::Unhandled(meta, error));
    }
    Ok((value, typed.findings.into_found()))
}

/// Reads the outermost object and makes sure that nothing follows it.
fn read_object<'a>(
    typed: &mut Typed<'a>,
    read: impl FnOnce(&mut Typed<'a>) -> Result<Value, Abort>,
) -> Result<Value, Abort> {
    match typed.reader.peek()? {
        Kind::Object => {}
        Kind::Null => {
            typed.reader.null()?;
            typed.reader.end()?;
            return Ok(Value::Object(serde_json::Map::new()));
        }
        _ => {
            let error = no_object(&mut typed.reader);
            typed.reader.skip()?;
            typed.reader.end()?;
            // Worded as a failure to read the kind, which is what it is.
            return Err(Abort::Syntax(json::Error::NoObject(error)));
        }
    }
    let value = read(typed)?;
    typed.reader.end()?;
    Ok(value)
}

/// Upstream's words for a body that is JSON but no object.
fn no_object(reader: &mut Reader<'_>) -> String {
    let value = match reader.peek() {
        Ok(Kind::Array) => "array",
        Ok(Kind::String) => "string",
        Ok(Kind::Boolean) => "bool",
        _ => "number",
    };
    format!(
        "json: cannot unmarshal {value} into Go value of type struct {{ APIVersion string \
         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

fn type_meta_of(value: &Value) -> TypeMeta {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    TypeMeta { api_version: text("apiVersion"), kind: text("kind") }
}

fn refuse(body: &[u8], schema: &Schema, failure: Failure) -> Status {
    let expected = schema.kind();
    match failure {
        Failure::Unrecognized(error) => {
            let error = format!("couldn't get version/kind; json parse error: {error}");
            unrecognized(body, &expected.kind, &error)
        }
        Failure::Unhandled(meta, error) => {
            let kind = if meta.kind.is_empty() { &expected.kind } else { &meta.kind };
            let version = match meta.api_version.rsplit('/').next() {
                None | Some("") => &expected.version,
                Some(version) => version,
            };
            Status::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {}: {error}",
                expected.kind
            ))
        }
    }
}

/// 400: what a body is cannot be told. `expected`: the kind that was expected.
pub fn unrecognized(body: &[u8], expected: &str, error: &str) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {expected}): {error} ({})",
        summarize(body)
    ))
}

/// The beginning of a body: as text if it may be JSON, else in hexadecimal.
fn summarize(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".into();
    }
    let shown = &body[..body.len().min(SHOWN)];
    let text = if body[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    if body.len() > SHOWN { format!("{text} ...") } else { text }
}

#[cfg(test)]
mod tests;
