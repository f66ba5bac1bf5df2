//! The types of CEL expressions, as the checker sees them and as messages spell them.
//! Not here: how types are unified (`check`), sizes of declared values (`declared`).
//! Upstream: cel-go `common/types`, `checker/format.go`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Clone, Debug)]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    /// What an expression has that was found wrong: nothing more is said about it.
    Error,
    /// Null.
    Null,
    /// Boolean.
    Bool,
    /// 64-bit signed integer.
    Int,
    /// 64-bit unsigned integer.
    Uint,
    /// 64-bit float.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A moment.
    Timestamp,
    /// A span of time.
    Duration,
    /// A type as a value.
    Kind,
    /// A list.
    List(Arc<Type>),
    /// A map of keys to values.
    Map(Arc<(Type, Type)>),
    /// A value or none.
    Optional(Arc<Type>),
    /// An object with declared fields; told apart by name.
    Object(Arc<ObjectType>),
    /// A type of the libraries without fields, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A type still to be found out.
    Var(u32),
}

/// An object type.
#[derive(Debug)]
pub struct ObjectType {
    /// Its name.
    pub name: String,
    /// Its fields, by their (escaped) names.
    pub fields: BTreeMap<String, Type>,
    /// Whether any field may be selected (objects under construction in mutating policies).
    pub open: bool,
}

impl Type {
    /// A list of `element`.
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    /// A map.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// An optional.
    pub fn optional(inner: Self) -> Self {
        Self::Optional(Arc::new(inner))
    }

    /// An object type.
    pub fn object(name: impl Into<String>, fields: BTreeMap<String, Self>) -> Self {
        Self::Object(Arc::new(ObjectType { name: name.into(), fields, open: false }))
    }

    /// Whether it says nothing before evaluation.
    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The types inside it.
    pub(super) fn parameters(&self) -> Vec<&Self> {
        match self {
            Self::List(inner) | Self::Optional(inner) => vec![inner],
            Self::Map(inner) => vec![&inner.0, &inner.1],
            _ => Vec::new(),
        }
    }

    /// The type of constant size whose values count 1.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// The same outermost type.
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Object(a), Self::Object(b)) => a.name == b.name,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Var(a), Self::Var(b)) => a == b,
            _ => {
                let (a, b) = (self.parameters(), other.parameters());
                self.same_kind(other) && a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b)
            }
        }
    }
}

impl Eq for Type {}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Kind => f.write_str("type"),
            Self::List(inner) => write!(f, "list({inner})"),
            Self::Map(inner) => write!(f, "map({}, {})", inner.0, inner.1),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Opaque(name) => f.write_str(name),
            Self::Var(number) => write!(f, "_var{number}"),
        }
    }
}
