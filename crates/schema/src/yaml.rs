//! YAML request bodies to JSON, as upstream's reader understands them: YAML 1.1 scalars, the last of several equal
//! keys, merge keys.
//! Reads the first document of a body; gives JSON and the keys that were given twice, which a strict decoder refuses.
//! Nesting, the number of nodes and the text that aliases stand for are bounded.
//! Not here: what the JSON means ([`crate::decode`]), and the files of the configuration of our own components.
//! Upstream: sigs.k8s.io/yaml, go.yaml.in/yaml/v2 (`decode.go`, `resolve.go`).

mod convert;
mod node;
mod scalar;

use serde_json::Value;

/// Why a body is no YAML that JSON can hold. Worded as upstream; the texts of syntax errors are the parser's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no YAML; the line counts from one.
    #[error("yaml: {}{problem}", .line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Syntax {
        /// Where, if it is not in the first line.
        line: Option<usize>,
        /// What.
        problem: String,
    },
    /// YAML, but of no value that JSON has.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    fn syntax(problem: impl Into<String>) -> Self {
        Self::Syntax { line: None, problem: problem.into() }
    }
}

/// A document as JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// The document, with the keys of objects in order.
    pub json: Vec<u8>,
    /// One finding, `line 9: key "foo" already set in map`, for each key that was given before in the same map.
    /// The line, from one, is that of the value.
    pub duplicates: Vec<String>,
}

/// The one error that upstream's strict reader makes of keys given twice.
pub fn strict_error(duplicates: &[String]) -> Option<String> {
    (!duplicates.is_empty()).then(|| format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  ")))
}

/// Converts the first document of a body to JSON; a body without one is `null`.
pub fn yaml_to_json(body: &[u8]) -> Result<Converted, Error> {
    let (value, duplicates) = read(body)?;
    let json = serde_json::to_vec(&value).map_err(|error| Error::Unsupported(error.to_string()))?;
    Ok(Converted { json, duplicates })
}

fn read(body: &[u8]) -> Result<(Value, Vec<String>), Error> {
    match node::Document::parse(body)? {
        Some(document) => convert::convert(&document),
        None => Ok((Value::Null, Vec::new())),
    }
}

#[cfg(test)]
mod tests;
