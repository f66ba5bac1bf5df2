//! Values while an expression is evaluated.
//! Data is not copied: JSON is read where it stands, by its schema where it has one (`json`).
//! Not here: equality and order (`compare`), what functions do with values (`functions`).
//! Upstream: cel-go `common/types`, apiserver `pkg/cel/common/values.go`.

mod compare;
mod index;
mod json;

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value as Json;

use super::authorizer::Check;
use super::functions::{format::Format, semver::Semver, url::Url};
use crate::structural::Node;

pub use compare::{compare, equal};
pub(super) use index::Index;
pub use json::from_json;
pub(crate) use json::from_node;

/// Why an evaluation gives no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The expression cannot be evaluated for this data; the message is upstream's.
    #[error("{0}")]
    Failed(String),
    /// It costs more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// It asks for an authorization that is not decided yet: decide it and evaluate again.
    #[error("an authorization is not decided yet")]
    Undecided(Box<Check>),
}

impl Error {
    /// An error with this message.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// Arguments that no overload takes.
    pub fn no_overload() -> Self {
        Self::failed("no such overload")
    }

    /// Whether evaluation ends at once, whatever `&&` and `||` around it.
    pub(super) fn ends(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

/// What an evaluation gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A float.
    Double(f64),
    /// A text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A moment.
    Timestamp(Timestamp),
    /// A span of time in nanoseconds.
    Duration(i64),
    /// A type, by its name at evaluation.
    Kind(&'static str),
    /// A type with a name of its own.
    Named(Arc<str>),
    /// A list.
    List(List<'a>),
    /// A map or object.
    Map(Map<'a>),
    /// A value or none.
    Optional(Option<Rc<Value<'a>>>),
    /// A value of the libraries.
    Opaque(Opaque<'a>),
}

/// A text that is borrowed or shared.
#[derive(Clone)]
pub enum Text<'a> {
    /// Out of the data.
    Borrowed(&'a str),
    /// Made, or out of the expression.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Out of the data, with the schema of the list.
    Json(&'a [Json], Option<&'a Node>),
    /// Made by the expression.
    Made(Rc<Vec<Value<'a>>>),
    /// Made by adding to a list of type set or map, and still one: with the schema of that.
    Merged(Rc<Vec<Value<'a>>>, &'a Node),
}

/// A map or object.
#[derive(Clone)]
pub enum Map<'a> {
    /// Out of the data, with its schema.
    Json(&'a serde_json::Map<String, Json>, Option<&'a Node>),
    /// Made by the expression, in order.
    Made(Rc<Vec<(Value<'a>, Value<'a>)>>),
    /// An object made by the expression: the name of its type and its fields.
    Struct(Rc<(String, Vec<(String, Value<'a>)>)>),
    /// Fields that are found out when they are asked for.
    Fields(&'a dyn Fields<'a>),
}

/// Fields that are found out when they are asked for: the variables of a policy, the parts of a request.
pub trait Fields<'a> {
    /// The value of a field; `None` if there is no such field.
    fn field(&'a self, name: &str) -> Option<Result<Value<'a>>>;
}

impl fmt::Debug for Map<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(object, _) => fmt::Debug::fmt(object, f),
            Self::Made(entries) => f.debug_map().entries(entries.iter().map(|(k, v)| (k, v))).finish(),
            Self::Struct(object) => f.debug_tuple(&object.0).field(&object.1).finish(),
            Self::Fields(_) => f.write_str("Fields"),
        }
    }
}

/// A value of the libraries.
#[derive(Clone, Debug)]
pub enum Opaque<'a> {
    /// `url('…')`
    Url(Rc<Url>),
    /// `ip('…')`
    Ip(IpAddr),
    /// `cidr('…')`: the address as written and the bits of the prefix.
    Cidr(IpAddr, u8),
    /// `quantity('…')`
    Quantity(Quantity),
    /// `semver('…')`
    Semver(Rc<Semver>),
    /// `format.named('…')`
    Format(&'static Format),
    /// Something to be asked of the authorizer, as far as it has been said.
    Check(Rc<Check>, &'a dyn super::authorizer::Authorizer),
    /// What the authorizer said.
    Decision(Rc<super::authorizer::Decision>),
}

impl<'a> Value<'a> {
    /// A text made by the evaluation.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::String(Text::Shared(Arc::from(text.as_ref())))
    }

    /// A text out of the data.
    pub fn borrowed(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }

    /// A list made by the evaluation.
    pub fn list(elements: Vec<Self>) -> Self {
        Self::List(List::Made(Rc::new(elements)))
    }

    /// An optional with a value.
    pub fn some(value: Self) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// The name of its type at evaluation.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Kind(_) | Self::Named(_) => "type",
            Self::List(_) => "list",
            Self::Map(Map::Struct(_)) => "object",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// What `size()` of it gives, where it has one.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::String(text) => Some(text.chars().count() as u64),
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::List(list) => Some(list.len() as u64),
            Self::Map(map) => Some(map.len() as u64),
            // The bytes of an address count as its size.
            Self::Opaque(Opaque::Ip(IpAddr::V4(_)) | Opaque::Cidr(IpAddr::V4(_), _)) => Some(4),
            Self::Opaque(Opaque::Ip(_) | Opaque::Cidr(..)) => Some(16),
            _ => None,
        }
    }

    /// Whether it is the zero value of its type (`optional.ofNonZeroValue`).
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Double(value) => *value == 0.0,
            Self::Duration(value) => *value == 0,
            Self::Optional(inner) => inner.as_ref().is_none_or(|inner| inner.is_zero()),
            other => other.size() == Some(0),
        }
    }

    /// The member `key`, or the element at `key`; `None` where there is none.
    pub fn get(&self, key: &Value<'a>) -> Result<Option<Value<'a>>> {
        match self {
            Self::Map(map) => map.get(key),
            Self::List(list) => {
                let index = match key {
                    Value::Int(index) => Some(*index),
                    Value::Uint(index) => i64::try_from(*index).ok(),
                    Value::Double(index) if index.fract() == 0.0 => Some(*index as i64),
                    Value::Double(_) | Value::String(_) | Value::Bool(_) | Value::Null => {
                        let name = key.type_name();
                        return Err(Error::failed(format!("unsupported index type '{name}' in list")));
                    }
                    _ => return Err(Error::no_overload()),
                };
                let Some(index) = index.and_then(|index| usize::try_from(index).ok()) else {
                    return Ok(None);
                };
                list.get(index)
            }
            Self::Optional(Some(inner)) => inner.get(key),
            Self::Optional(None) => Ok(None),
            _ => Err(Error::no_overload()),
        }
    }
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(list, _) => list.len(),
            Self::Made(list) | Self::Merged(list, _) => list.len(),
        }
    }

    /// The schema that says of what type it is.
    pub(super) fn node(&self) -> Option<&'a Node> {
        match self {
            Self::Json(_, node) => *node,
            Self::Merged(_, node) => Some(node),
            Self::Made(_) => None,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    pub fn get(&self, index: usize) -> Result<Option<Value<'a>>> {
        match self {
            Self::Json(list, node) => {
                let items = node.and_then(Node::items);
                list.get(index).map(|element| from_node(element, items)).transpose()
            }
            Self::Made(list) | Self::Merged(list, _) => Ok(list.get(index).cloned()),
        }
    }

    /// All elements.
    pub fn elements(&self) -> Result<Vec<Value<'a>>> {
        match self {
            Self::Json(list, node) => {
                let items = node.and_then(Node::items);
                list.iter().map(|element| from_node(element, items)).collect()
            }
            Self::Made(list) | Self::Merged(list, _) => Ok(list.to_vec()),
        }
    }
}

impl<'a> Map<'a> {
    /// How many members.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(object, node) => match node {
                Some(node) if node.has_properties() => {
                    object.keys().filter(|name| node.member(name).is_some()).count()
                }
                _ => object.len(),
            },
            Self::Made(entries) => entries.len(),
            Self::Struct(object) => object.1.len(),
            Self::Fields(_) => 0,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A member.
    pub fn get(&self, key: &Value<'a>) -> Result<Option<Value<'a>>> {
        match (self, key) {
            (Self::Made(entries), _) => {
                Ok(entries.iter().find(|(found, _)| equal(found, key)).map(|(_, value)| value.clone()))
            }
            (_, Value::String(name)) => self.field(name),
            _ => Ok(None),
        }
    }

    /// A member by name.
    pub fn field(&self, name: &str) -> Result<Option<Value<'a>>> {
        match self {
            Self::Json(object, node) => json::member(object, *node, name),
            Self::Made(entries) => {
                let found =
                    entries.iter().find(|(key, _)| matches!(key, Value::String(text) if **text == *name));
                Ok(found.map(|(_, value)| value.clone()))
            }
            Self::Struct(object) => {
                Ok(object.1.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone()))
            }
            Self::Fields(fields) => fields.field(name).transpose(),
        }
    }

    /// All keys.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(object, node) => json::keys(object, *node),
            Self::Made(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Struct(object) => object.1.iter().map(|(name, _)| Value::text(name)).collect(),
            Self::Fields(_) => Vec::new(),
        }
    }
}

impl Opaque<'_> {
    fn type_name(&self) -> &'static str {
        use super::declarations as names;
        match self {
            Self::Url(_) => names::URL,
            Self::Ip(_) => names::IP,
            Self::Cidr(..) => names::CIDR,
            Self::Quantity(_) => names::QUANTITY,
            Self::Semver(_) => names::SEMVER,
            Self::Format(_) => names::FORMAT,
            Self::Check(check, _) => check.type_name(),
            Self::Decision(_) => names::DECISION,
        }
    }
}

/// The variables of an evaluation.
pub trait Variables<'a> {
    /// The value of a variable; `None` if it has none.
    fn variable(&self, name: &str) -> Option<Result<Value<'a>>>;
}

/// A list of variables.
#[derive(Debug, Default)]
pub struct Bindings<'a>(pub Vec<(&'a str, Value<'a>)>);

impl<'a> Variables<'a> for Bindings<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// A value found out once, when it is first asked for.
#[derive(Debug, Default)]
pub struct Once<'a>(RefCell<Option<Result<Value<'a>>>>);

impl<'a> Once<'a> {
    /// The value, from `make` if nobody asked before.
    pub fn get_or(&self, make: impl FnOnce() -> Result<Value<'a>>) -> Result<Value<'a>> {
        if let Some(known) = &*self.0.borrow() {
            return known.clone();
        }
        let made = make();
        *self.0.borrow_mut() = Some(made.clone());
        made
    }
}

/// The type of `Kind` values that a type name stands for.
pub(super) fn kind_of<'a>(name: &str) -> Option<Value<'a>> {
    super::declarations::TYPES.iter().find(|known| **known == name).map(|known| Value::Kind(known))
}
