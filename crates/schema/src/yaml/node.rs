//! The tree of a YAML document, with aliases still unexpanded.
//! Reads the events of the parser. Bounds the nesting, so that all who walk the tree may recurse.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::Error;
use crate::json::MAX_KEPT_DEPTH;

/// A node's place in its document.
pub(super) type Id = usize;

/// One node.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// The line where it begins, from one.
    pub line: usize,
    /// The full tag; `None` when it has none.
    pub tag: Option<String>,
    pub kind: Kind<'a>,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    /// `plain`: its type follows from its text.
    Scalar {
        text: std::borrow::Cow<'a, str>,
        plain: bool,
    },
    Sequence(Vec<Id>),
    /// Keys and values in turn.
    Mapping(Vec<Id>),
    Alias(Id),
}

/// A document; children stand behind their parents.
#[derive(Debug)]
pub(super) struct Document<'a>(Vec<Node<'a>>);

impl<'a> Document<'a> {
    /// The outermost node.
    pub const ROOT: Id = 0;

    pub fn node(&self, id: Id) -> &Node<'a> {
        &self.0[id]
    }

    /// Reads the first document, if there is one.
    pub fn parse(body: &'a [u8]) -> Result<Option<Self>, Error> {
        let text = str::from_utf8(body).map_err(|error| {
            let line = line_of(body, error.valid_up_to());
            Error::Syntax { line, problem: "invalid leading UTF-8 octet".into() }
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.contains(is_control) {
            return Err(Error::syntax("control characters are not allowed"));
        }
        if bracket_depth(body) > MAX_KEPT_DEPTH {
            return Err(too_deep());
        }
        let mut builder = Builder::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| refuse(&error))?;
            if builder.add(event, span)? {
                break;
            }
        }
        Ok((!builder.nodes.is_empty()).then_some(Self(builder.nodes)))
    }
}

#[derive(Default)]
struct Builder<'a> {
    nodes: Vec<Node<'a>>,
    /// The sequences and mappings that are still open.
    open: Vec<Id>,
    anchors: HashMap<usize, Id>,
}

impl<'a> Builder<'a> {
    /// Takes an event; whether it was the document's last.
    fn add(&mut self, event: Event<'a>, span: Span) -> Result<bool, Error> {
        let line = span.start.line();
        match event {
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok(true),
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
            }
            Event::Alias(anchor) => {
                let target =
                    *self.anchors.get(&anchor).ok_or_else(|| Error::syntax("unknown anchor referenced"))?;
                self.push(line, 0, None, Kind::Alias(target));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| full(&tag));
                // The tag `!` says no more than that there could be one.
                let (tag, plain) = match tag {
                    Some(tag) if tag == "!" => (None, true),
                    Some(tag) => (Some(tag), false),
                    None => (None, style == ScalarStyle::Plain),
                };
                self.push(line, anchor, tag, Kind::Scalar { text, plain });
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(line, anchor, tag.as_deref(), Kind::Sequence(Vec::new()))?
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(line, anchor, tag.as_deref(), Kind::Mapping(Vec::new()))?
            }
        }
        Ok(false)
    }

    fn begin(&mut self, line: usize, anchor: usize, tag: Option<&Tag>, kind: Kind<'a>) -> Result<(), Error> {
        if self.open.len() >= MAX_KEPT_DEPTH {
            return Err(too_deep());
        }
        let id = self.push(line, anchor, tag.map(full), kind);
        self.open.push(id);
        Ok(())
    }

    fn push(&mut self, line: usize, anchor: usize, tag: Option<String>, kind: Kind<'a>) -> Id {
        let id = self.nodes.len();
        self.nodes.push(Node { line, tag, kind });
        // Zero stands for no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        if let Some(&parent) = self.open.last()
            && let Kind::Sequence(children) | Kind::Mapping(children) = &mut self.nodes[parent].kind
        {
            children.push(id);
        }
        id
    }
}

fn full(tag: &Tag) -> String {
    format!("{}{}", tag.handle, tag.suffix)
}

/// Nesting beyond what is read.
pub(super) fn too_deep() -> Error {
    Error::syntax("exceeded max depth")
}

fn refuse(error: &ScanError) -> Error {
    // Upstream names no line for the first.
    let line = Some(error.marker().line()).filter(|&line| line > 1);
    Error::Syntax { line, problem: error.info().to_owned() }
}

fn line_of(body: &[u8], offset: usize) -> Option<usize> {
    let breaks = body[..offset].iter().filter(|&&byte| byte == b'\n').count();
    (breaks > 0).then_some(breaks + 1)
}

/// Whether YAML forbids the character.
fn is_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}'
        | '\u{10000}'..)
        || c == '\u{feff}'
}

/// How deeply brackets nest, quoted or not. The parser's time is the product of length and nesting, and nesting is
/// known only afterwards; text that opens this many brackets and leaves them open is no manifest.
fn bracket_depth(body: &[u8]) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for byte in body {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
