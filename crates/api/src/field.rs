//! Paths to fields and the errors validation finds there.
//! Upstream: apimachinery `pkg/util/validation/field`; the messages are wire behaviour.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use crate::status::Cause;

/// All errors found in one object. Validation returns every error, not the first.
pub type ErrorList = Vec<Error>;

/// The way to a field, `spec.containers[0].ports`. Cheap to extend: text is made only when an error is.
#[derive(Clone, Debug)]
pub struct Path(Option<Rc<Node>>);

#[derive(Debug)]
struct Node {
    parent: Path,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Child(Cow<'static, str>),
    Index(usize),
    Key(String),
}

impl Path {
    /// A path of one field.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(None).child(name)
    }

    /// The object itself.
    pub fn root() -> Self {
        Self(None)
    }

    fn step(&self, step: Step) -> Self {
        Self(Some(Rc::new(Node { parent: self.clone(), step })))
    }

    /// A field below this one.
    pub fn child(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.step(Step::Child(name.into()))
    }

    /// An element of this list.
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// An entry of this map (or of a list keyed by a field).
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(node) = &self.0 else { return Ok(()) };
        node.parent.fmt(f)?;
        match &node.step {
            Step::Child(name) if node.parent.0.is_none() => f.write_str(name),
            Step::Child(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The value names something that does not exist.
    NotFound,
    /// A required value is missing or empty.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// The value is malformed or out of bounds.
    Invalid,
    /// The value is not one of the known ones.
    NotSupported,
    /// The value is well formed but not permitted here.
    Forbidden,
    /// The value is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The list has too few items.
    TooFew,
    /// The value is too short.
    TooShort,
    /// The value has the wrong type.
    TypeInvalid,
    /// A fault of the server, not of the request.
    Internal,
}

impl ErrorKind {
    /// The machine-readable `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TooShort => "FieldValueTooShort",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::TooShort => "Too short",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::Internal)
    }
}

/// One thing wrong with one field. `Display` is upstream's `field: Kind: value: detail`.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where, as text.
    pub field: String,
    /// The offending value; `None` where it is not shown.
    pub bad_value: Option<Value>,
    /// More words, may be empty.
    pub detail: String,
}

impl Error {
    fn new(kind: ErrorKind, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: path.to_string(), bad_value: value, detail: detail.into() }
    }

    /// The message without the field's name.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let (true, Some(value)) = (self.kind.shows_value(), &self.bad_value) {
            text.push_str(": ");
            match value {
                Value::String(string) => text.push_str(&quote(string)),
                other => text.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The cause that stands for this error in a [`crate::Status`].
    pub fn cause(&self) -> Cause {
        Cause { reason: self.kind.reason().to_owned(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

/// A missing value.
pub fn required(path: &Path, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Required, path, None, detail)
}

/// What is malformed as a whole: the value is too much to show, or says nothing.
pub fn invalid_whole(path: &Path, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, path, None, detail)
}

/// A malformed value, or one out of bounds.
pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, path, Some(value.into()), detail)
}

/// A value of the wrong type.
pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
}

/// A value that is none of `supported`, which are listed in the order given (upstream sorts most of them).
pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Error {
    let detail = if supported.is_empty() {
        String::new()
    } else {
        let quoted: Vec<_> = supported.iter().map(|value| quote(value)).collect();
        format!("supported values: {}", quoted.join(", "))
    };
    Error::new(ErrorKind::NotSupported, path, Some(value.into()), detail)
}

/// A value that must be unique and is not.
pub fn duplicate(path: &Path, value: impl Into<Value>) -> Error {
    Error::new(ErrorKind::Duplicate, path, Some(value.into()), "")
}

/// A well-formed value that is not permitted here.
pub fn forbidden(path: &Path, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Forbidden, path, None, detail)
}

/// A value longer than `max` bytes.
pub fn too_long(path: &Path, max: usize) -> Error {
    let unit = if max == 1 { "byte" } else { "bytes" };
    Error::new(ErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"))
}

/// A list of `actual` items where `max` are allowed.
pub fn too_many(path: &Path, actual: usize, max: usize) -> Error {
    let unit = if max == 1 { "item" } else { "items" };
    Error::new(ErrorKind::TooMany, path, Some(actual.into()), format!("must have at most {max} {unit}"))
}

/// A value that names something that does not exist.
pub fn not_found(path: &Path, value: impl Into<Value>) -> Error {
    Error::new(ErrorKind::NotFound, path, Some(value.into()), "")
}

/// A fault of the server.
pub fn internal(path: &Path, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, path, None, detail)
}

/// Quotes as Go's `%q` does: printable characters stay, the rest is escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_print() {
        let ports = Path::new("spec").child("containers").index(0).child("ports");
        assert_eq!(ports.to_string(), "spec.containers[0].ports");
        assert_eq!(
            Path::new("metadata").child("annotations").key("a/b").to_string(),
            "metadata.annotations[a/b]"
        );
        assert_eq!(Path::root().child("data").to_string(), "data");
    }

    #[test]
    fn errors_print_like_upstream() {
        let path = Path::new("spec").child("x");
        for (error, text) in [
            (required(&path, ""), "spec.x: Required value"),
            (invalid(&path, "a\"b", "must be c"), r#"spec.x: Invalid value: "a\"b": must be c"#),
            (invalid(&path, -1, "must be positive"), "spec.x: Invalid value: -1: must be positive"),
            (invalid(&path, json!({"a": "b"}), "no"), r#"spec.x: Invalid value: {"a":"b"}: no"#),
            (
                not_supported(&path, "tcp", &["SCTP", "TCP"]),
                r#"spec.x: Unsupported value: "tcp": supported values: "SCTP", "TCP""#,
            ),
            (duplicate(&path, "a"), r#"spec.x: Duplicate value: "a""#),
            (too_long(&path, 63), "spec.x: Too long: may not be more than 63 bytes"),
            (too_many(&path, 3, 1), "spec.x: Too many: 3: must have at most 1 item"),
            (forbidden(&path, "no"), "spec.x: Forbidden: no"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
