//! A document's tree to a JSON value: aliases and merge keys expanded, keys made texts, duplicates noted.
//! Upstream: go.yaml.in/yaml/v2 `decode.go`, sigs.k8s.io/yaml `convertToJSONableObject`.

use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::Error;
use super::node::{Document, Id, Kind, Node, too_deep};
use super::scalar::{Scalar, float_text, resolve};
use crate::json::MAX_KEPT_DEPTH;

/// Below this many nodes, 99 of 100 may come from aliases; from here to [`MANY_NODES`] ever fewer, down to a tenth.
const FEW_NODES: f64 = 400_000.0;
const MANY_NODES: f64 = 4_000_000.0;
/// Text that aliases may repeat, in bytes. Upstream counts only nodes, and shares texts until it writes them.
const MAX_ALIASED_TEXT: usize = 16 << 20;

/// The document as JSON, and the keys that were given twice.
pub(super) fn convert(document: &Document<'_>) -> Result<(Value, Vec<String>), Error> {
    let mut converter = Converter {
        document,
        expanding: Vec::new(),
        nodes: 0,
        aliased: 0,
        aliased_text: 0,
        duplicates: Vec::new(),
    };
    let value = converter.value(Document::ROOT, 0)?;
    Ok((value, converter.duplicates))
}

struct Converter<'d, 'a> {
    document: &'d Document<'a>,
    /// The aliases within whose targets we are.
    expanding: Vec<Id>,
    /// Nodes met, and how many of them within aliases.
    nodes: u32,
    aliased: u32,
    aliased_text: usize,
    duplicates: Vec<String>,
}

/// A mapping as it grows. Keys are told apart by type, as upstream does: `1` and `"1"` are no duplicates of one
/// another, though one of them is lost.
#[derive(Default)]
struct Growing {
    object: Map<String, Value>,
    seen: HashSet<(&'static str, String)>,
}

impl<'d, 'a> Converter<'d, 'a> {
    /// Counts a node, and refuses documents that are little more than aliases of aliases.
    fn count(&mut self) -> Result<(), Error> {
        self.nodes += 1;
        self.aliased += u32::from(!self.expanding.is_empty());
        let nodes = f64::from(self.nodes);
        let allowed = 0.99 - 0.89 * ((nodes - FEW_NODES) / (MANY_NODES - FEW_NODES)).clamp(0.0, 1.0);
        let excessive = self.aliased > 100 && self.nodes > 1000 && f64::from(self.aliased) / nodes > allowed;
        if excessive || self.aliased_text > MAX_ALIASED_TEXT {
            return Err(Error::syntax("document contains excessive aliasing"));
        }
        Ok(())
    }

    /// The value of a node. `depth` bounds the recursion, through aliases too.
    fn value(&mut self, id: Id, depth: usize) -> Result<Value, Error> {
        self.count()?;
        let document = self.document;
        let node = document.node(id);
        match &node.kind {
            Kind::Alias(target) => self.expand(id, *target, |converter| converter.value(*target, depth)),
            Kind::Scalar { .. } => json(self.scalar(node)?),
            _ if depth >= MAX_KEPT_DEPTH => Err(too_deep()),
            Kind::Sequence(items) => items
                .iter()
                .map(|&item| self.value(item, depth + 1))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            Kind::Mapping(entries) => {
                let mut growing = Growing::default();
                self.entries(entries, &mut growing, depth + 1)?;
                Ok(Value::Object(growing.object))
            }
        }
    }

    fn expand<T>(
        &mut self,
        alias: Id,
        target: Id,
        expanded: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Upstream looks for the alias; an anchor that holds an alias of itself comes to the same.
        if self.expanding.contains(&alias) || self.expanding.len() >= MAX_KEPT_DEPTH {
            let line = self.document.node(target).line;
            return Err(Error::syntax(format!("anchor of line {line}: value contains itself")));
        }
        self.expanding.push(alias);
        let outcome = expanded(self);
        self.expanding.pop();
        outcome
    }

    fn scalar(&mut self, node: &Node<'_>) -> Result<Scalar, Error> {
        let Kind::Scalar { text, plain } = &node.kind else { return Ok(Scalar::Null) };
        if !self.expanding.is_empty() {
            self.aliased_text += text.len();
        }
        resolve(text, *plain, node.tag.as_deref())
    }

    fn entries(&mut self, entries: &'d [Id], growing: &mut Growing, depth: usize) -> Result<(), Error> {
        for entry in entries.chunks_exact(2) {
            let (key, value) = (entry[0], entry[1]);
            if is_merge(self.document.node(key)) {
                self.merge(value, growing, depth)?;
                continue;
            }
            let (typed, shown) = self.key(key)?;
            let set = self.value(value, depth)?;
            let name = typed.1.clone();
            if !growing.seen.insert(typed) {
                let line = self.document.node(value).line;
                self.duplicates.push(format!("line {line}: key {shown} already set in map"));
            }
            growing.object.insert(name, set);
        }
        Ok(())
    }

    /// A key with its type and as text, and as upstream's findings show it.
    fn key(&mut self, id: Id) -> Result<((&'static str, String), String), Error> {
        self.count()?;
        let document = self.document;
        let node = document.node(id);
        let scalar = match &node.kind {
            Kind::Scalar { .. } => self.scalar(node)?,
            Kind::Alias(target) => return self.expand(id, *target, |converter| converter.key(*target)),
            Kind::Sequence(_) | Kind::Mapping(_) => {
                return Err(Error::Syntax { line: Some(node.line), problem: "invalid map key".into() });
            }
        };
        Ok(match scalar {
            Scalar::Text(text) => {
                let shown = api::field::quote(&text);
                (("string", text), shown)
            }
            Scalar::Bool(flag) => (("bool", flag.to_string()), flag.to_string()),
            Scalar::Int(whole) => (("int", whole.to_string()), whole.to_string()),
            Scalar::Float(number) => (("float64", float_text(number)), float_text(number)),
            Scalar::Uint(whole) => {
                let key = format!("unsupported map key of type: uint64, key: {whole:#x}");
                return Err(Error::Unsupported(key));
            }
            Scalar::Null => {
                return Err(Error::Unsupported("unsupported map key of type: %!s(<nil>), key: <nil>".into()));
            }
        })
    }

    /// Takes the entries of a mapping, or of a list of mappings of which the first wins.
    fn merge(&mut self, id: Id, growing: &mut Growing, depth: usize) -> Result<(), Error> {
        let document = self.document;
        match &document.node(id).kind {
            Kind::Sequence(items) => {
                items.iter().rev().try_for_each(|&item| self.merge_one(item, growing, depth))
            }
            _ => self.merge_one(id, growing, depth),
        }
    }

    fn merge_one(&mut self, id: Id, growing: &mut Growing, depth: usize) -> Result<(), Error> {
        self.count()?;
        if depth >= MAX_KEPT_DEPTH {
            return Err(too_deep());
        }
        let document = self.document;
        match &document.node(id).kind {
            Kind::Mapping(entries) => self.entries(entries, growing, depth + 1),
            Kind::Alias(target) if matches!(document.node(*target).kind, Kind::Mapping(_)) => {
                self.expand(id, *target, |converter| converter.merge_one(*target, growing, depth))
            }
            _ => Err(Error::syntax("map merge requires map or sequence of maps as the value")),
        }
    }
}

fn is_merge(node: &Node<'_>) -> bool {
    let Kind::Scalar { text, plain } = &node.kind else { return false };
    text == "<<" && (*plain || node.tag.as_deref() == Some("tag:yaml.org,2002:merge"))
}

fn json(scalar: Scalar) -> Result<Value, Error> {
    Ok(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Bool(flag) => flag.into(),
        Scalar::Int(whole) => whole.into(),
        Scalar::Uint(whole) => whole.into(),
        // Upstream writes floats without a point where there is nothing behind it, and reads integers then.
        Scalar::Float(number) if number.fract() == 0.0 && number.abs() < i64::MAX as f64 => {
            (number as i64).into()
        }
        Scalar::Float(number) => Number::from_f64(number).map(Value::Number).ok_or_else(|| {
            let name = if number.is_nan() {
                "NaN"
            } else if number > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            };
            Error::Unsupported(format!("json: unsupported value: {name}"))
        })?,
        Scalar::Text(text) => text.into(),
    })
}
