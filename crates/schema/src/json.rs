//! A pull reader of JSON that words its errors as Go's `encoding/json` does, because clients see them.
//! Reads bytes, one value after the other, in the order of the text; allocates only for texts with escapes.
//! Not here: what the values mean (`decode`).
//! Upstream: sigs.k8s.io/json (its scanner's states give the wording).

mod write;

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

pub use write::{write, write_string};

/// Nesting that upstream's reader refuses.
const MAX_DEPTH: usize = 10_000;

/// Nesting of what is kept. Every later reader and writer of the object recurses, and serde_json's reader gives up at
/// 128; the difference is room for the lists, watch events and reviews that wrap objects.
pub const MAX_KEPT_DEPTH: usize = 120;

/// Why a text is no JSON; the wording is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A byte where it cannot be.
    #[error("invalid character {} {context}", quote(*.byte))]
    Character {
        /// The byte.
        byte: u8,
        /// Where it was met.
        context: &'static str,
    },
    /// The text ends inside a value.
    #[error("unexpected end of JSON input")]
    End,
    /// Nested too deeply.
    #[error("exceeded max depth")]
    Depth,
    /// JSON, but no object where only an object can be; the text is the whole message.
    #[error("{0}")]
    NoObject(String),
}

/// A byte as Go quotes it in errors.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        7 => r"'\a'".into(),
        8 => r"'\b'".into(),
        11 => r"'\v'".into(),
        12 => r"'\f'".into(),
        0..=31 | 127 => format!("'\\x{byte:02x}'"),
        128..=160 | 173 => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

const BEGIN_VALUE: &str = "looking for beginning of value";
const BEGIN_KEY: &str = "looking for beginning of object key string";
const AFTER_KEY: &str = "after object key";
const AFTER_PAIR: &str = "after object key:value pair";
const AFTER_ELEMENT: &str = "after array element";
const TOP_LEVEL: &str = "after top-level value";
const IN_STRING: &str = "in string literal";
const IN_ESCAPE: &str = "in string escape code";
const IN_HEXADECIMAL: &str = "in \\u hexadecimal character escape";
const IN_NUMBER: &str = "in numeric literal";
const IN_FRACTION: &str = "after decimal point in numeric literal";
const IN_EXPONENT: &str = "in exponent of numeric literal";

/// What sort of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean,
    /// A number.
    Number,
    /// A text.
    String,
    /// A list.
    Array,
    /// An object.
    Object,
}

/// The reader. After [`Reader::peek`] exactly one method that consumes a value of that kind is called.
#[derive(Debug)]
pub struct Reader<'a> {
    data: &'a [u8],
    position: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of a text.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0, depth: 0 }
    }

    /// How deep the reader is inside arrays and objects.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Where the reader is, in bytes from the beginning.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The text between two positions.
    pub fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        &self.data[start..end]
    }

    fn byte(&self) -> Option<u8> {
        self.data.get(self.position).copied()
    }

    fn unexpected(&self, context: &'static str) -> Error {
        self.byte().map_or(Error::End, |byte| Error::Character { byte, context })
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    /// The kind of the next value; leaves the reader at its first byte.
    pub fn peek(&mut self) -> Result<Kind, Error> {
        self.skip_space();
        match self.byte() {
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'"') => Ok(Kind::String),
            Some(b'[') => Ok(Kind::Array),
            Some(b'{') => Ok(Kind::Object),
            _ => Err(self.unexpected(BEGIN_VALUE)),
        }
    }

    fn literal(&mut self, text: &'static str, contexts: [&'static str; 4]) -> Result<(), Error> {
        self.position += 1;
        for (expected, context) in text.bytes().skip(1).zip(contexts) {
            if self.byte() != Some(expected) {
                return Err(self.unexpected(context));
            }
            self.position += 1;
        }
        Ok(())
    }

    /// Consumes `null`.
    pub fn null(&mut self) -> Result<(), Error> {
        self.literal(
            "null",
            [
                "in literal null (expecting 'u')",
                "in literal null (expecting 'l')",
                "in literal null (expecting 'l')",
                "",
            ],
        )
    }

    /// Consumes a boolean.
    pub fn boolean(&mut self) -> Result<bool, Error> {
        if self.byte() == Some(b't') {
            let contexts = [
                "in literal true (expecting 'r')",
                "in literal true (expecting 'u')",
                "in literal true (expecting 'e')",
                "",
            ];
            self.literal("true", contexts).map(|()| true)
        } else {
            let contexts = [
                "in literal false (expecting 'a')",
                "in literal false (expecting 'l')",
                "in literal false (expecting 's')",
                "in literal false (expecting 'e')",
            ];
            self.literal("false", contexts).map(|()| false)
        }
    }

    fn digits(&mut self, context: &'static str) -> Result<(), Error> {
        if !matches!(self.byte(), Some(b'0'..=b'9')) {
            return Err(self.unexpected(context));
        }
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        Ok(())
    }

    /// Consumes a number and returns its text.
    pub fn number(&mut self) -> Result<&'a str, Error> {
        let start = self.position;
        if self.byte() == Some(b'-') {
            self.position += 1;
        }
        if self.byte() == Some(b'0') {
            self.position += 1;
        } else {
            self.digits(IN_NUMBER)?;
        }
        if self.byte() == Some(b'.') {
            self.position += 1;
            self.digits(IN_FRACTION)?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits(IN_EXPONENT)?;
        }
        Ok(std::str::from_utf8(&self.data[start..self.position]).unwrap_or_default())
    }

    /// Consumes a text. What is no UTF-8 becomes U+FFFD, as do halves of surrogate pairs.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        self.position += 1;
        let start = self.position;
        loop {
            match self.byte() {
                Some(b'"') => {
                    let raw = &self.data[start..self.position];
                    self.position += 1;
                    return Ok(String::from_utf8_lossy(raw));
                }
                Some(b'\\') => return self.escaped(start),
                Some(0..=31) | None => return Err(self.unexpected(IN_STRING)),
                Some(_) => self.position += 1,
            }
        }
    }

    /// The rest of a text whose first escape is at the reader's position.
    fn escaped(&mut self, start: usize) -> Result<Cow<'a, str>, Error> {
        let mut bytes = self.data[start..self.position].to_vec();
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.position += 1;
                    // The only allocation beyond the text itself is for text that is no UTF-8.
                    return Ok(Cow::Owned(
                        String::from_utf8(bytes)
                            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
                    ));
                }
                Some(b'\\') => {
                    self.position += 1;
                    let unescaped = self.escape()?;
                    bytes.extend_from_slice(unescaped.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(0..=31) | None => return Err(self.unexpected(IN_STRING)),
                Some(byte) => {
                    bytes.push(byte);
                    self.position += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let plain = match self.byte() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.position += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.unexpected(IN_ESCAPE)),
        };
        self.position += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, Error> {
        let first = self.hexadecimal()?;
        if !(0xd800..0xe000).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        // A second half must follow; if it does not, what follows is read again on its own.
        let after_first = self.position;
        if first < 0xdc00 && self.data[self.position..].starts_with(b"\\u") {
            self.position += 2;
            let second = self.hexadecimal()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        self.position = after_first;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hexadecimal(&mut self) -> Result<u32, Error> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.unexpected(IN_HEXADECIMAL))?;
            self.position += 1;
        }
        Ok(code)
    }

    fn descend(&mut self) -> Result<(), Error> {
        self.position += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Error::Depth) } else { Ok(()) }
    }

    fn ascend(&mut self) {
        self.position += 1;
        self.depth -= 1;
    }

    /// Enters an array. Follow with [`Reader::element`] until it says no.
    pub fn begin_array(&mut self) -> Result<First, Error> {
        self.descend().map(|()| First(true))
    }

    /// Whether another element follows; leaves the array when none does.
    pub fn element(&mut self, first: &mut First) -> Result<bool, Error> {
        self.skip_space();
        if std::mem::take(&mut first.0) {
            if self.byte() == Some(b']') {
                self.ascend();
                return Ok(false);
            }
            return Ok(true);
        }
        match self.byte() {
            Some(b',') => {
                self.position += 1;
                Ok(true)
            }
            Some(b']') => {
                self.ascend();
                Ok(false)
            }
            _ => Err(self.unexpected(AFTER_ELEMENT)),
        }
    }

    /// Enters an object. Follow with [`Reader::key`] until it gives none.
    pub fn begin_object(&mut self) -> Result<First, Error> {
        self.descend().map(|()| First(true))
    }

    /// The next key, with the reader before its value; leaves the object when there is none.
    pub fn key(&mut self, first: &mut First) -> Result<Option<Cow<'a, str>>, Error> {
        self.skip_space();
        let begin = std::mem::take(&mut first.0);
        match self.byte() {
            Some(b'}') => {
                self.ascend();
                return Ok(None);
            }
            Some(b',') if !begin => {
                self.position += 1;
                self.skip_space();
            }
            _ if !begin => return Err(self.unexpected(AFTER_PAIR)),
            _ => {}
        }
        if self.byte() != Some(b'"') {
            return Err(self.unexpected(BEGIN_KEY));
        }
        let key = self.string()?;
        self.skip_space();
        if self.byte() != Some(b':') {
            return Err(self.unexpected(AFTER_KEY));
        }
        self.position += 1;
        Ok(Some(key))
    }

    /// Consumes one value of any kind without keeping it. Does not recurse.
    pub fn skip(&mut self) -> Result<(), Error> {
        let mut open: Vec<(Kind, First)> = Vec::new();
        loop {
            match self.peek()? {
                Kind::Null => self.null()?,
                Kind::Boolean => drop(self.boolean()?),
                Kind::Number => drop(self.number()?),
                Kind::String => drop(self.string()?),
                kind @ (Kind::Array | Kind::Object) => open.push((kind, self.begin_array()?)),
            }
            loop {
                let Some((kind, first)) = open.last_mut() else { return Ok(()) };
                let more = match kind {
                    Kind::Array => self.element(first)?,
                    _ => self.key(first)?.is_some(),
                };
                if more {
                    break;
                }
                open.pop();
            }
        }
    }

    /// Consumes one value of any kind and keeps it; `observer` sees every object's repeated keys.
    /// Recursion is bounded by [`MAX_KEPT_DEPTH`].
    pub fn value(&mut self, observer: &mut dyn Observer) -> Result<Value, Error> {
        Ok(match self.peek()? {
            Kind::Null => {
                self.null()?;
                Value::Null
            }
            Kind::Boolean => Value::Bool(self.boolean()?),
            Kind::Number => number(self.number()?),
            Kind::String => Value::String(self.string()?.into_owned()),
            Kind::Array => {
                self.check_kept()?;
                let mut first = self.begin_array()?;
                let mut elements = Vec::new();
                while self.element(&mut first)? {
                    observer.enter_index(elements.len());
                    elements.push(self.value(observer)?);
                    observer.leave();
                }
                Value::Array(elements)
            }
            Kind::Object => {
                self.check_kept()?;
                let mut first = self.begin_object()?;
                let mut object = Map::new();
                while let Some(key) = self.key(&mut first)? {
                    if object.contains_key(&*key) {
                        observer.duplicate(&key);
                    }
                    observer.enter_key(&key);
                    let value = self.value(observer)?;
                    observer.leave();
                    object.insert(key.into_owned(), value);
                }
                Value::Object(object)
            }
        })
    }

    /// Refuses to nest kept values any deeper.
    pub fn check_kept(&self) -> Result<(), Error> {
        if self.depth >= MAX_KEPT_DEPTH { Err(Error::Depth) } else { Ok(()) }
    }

    /// Refuses anything after the top-level value.
    pub fn end(&mut self) -> Result<(), Error> {
        self.skip_space();
        match self.byte() {
            None => Ok(()),
            Some(_) => Err(self.unexpected(TOP_LEVEL)),
        }
    }
}

/// Whether an array's or object's first member is still to come.
#[derive(Debug)]
pub struct First(bool);

/// Follows [`Reader::value`] through a value.
pub trait Observer {
    /// The next value belongs to this key.
    fn enter_key(&mut self, key: &str);
    /// The next value is this element.
    fn enter_index(&mut self, index: usize);
    /// The value is done.
    fn leave(&mut self);
    /// The key stands in its object a second time.
    fn duplicate(&mut self, key: &str);
}

/// Sees nothing.
#[derive(Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn enter_key(&mut self, _: &str) {}
    fn enter_index(&mut self, _: usize) {}
    fn leave(&mut self) {}
    fn duplicate(&mut self, _: &str) {}
}

/// A number as upstream keeps it: whole if it is written so and fits 64 bits, else floating-point.
pub fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Number(whole.into());
    }
    // Go refuses numbers beyond float64; the nearest finite one stands in for them here.
    let float = text.parse::<f64>().unwrap_or_default().clamp(f64::MIN, f64::MAX);
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests;
