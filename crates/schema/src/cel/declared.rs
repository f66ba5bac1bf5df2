//! A structural schema as a CEL type, with the sizes its values can have in one request.
//! Not here: values by their schema (`value`).
//! Upstream: apiserver `pkg/cel/common/schemas.go`, `pkg/cel/{types,limits}.go`.

use std::collections::BTreeMap;

use super::escape::escape;
use super::types::Type;
use crate::structural::{Node, Shape, Structural};

/// The largest request, in bytes: what bounds every size that the schema does not.
const REQUEST: u64 = 3 * 1024 * 1024;

/// The longest name of an object, in characters, counted in bytes as other texts with a bound are.
const NAME: u64 = 253 * 4;

/// Sizes in JSON, in bytes, quotation marks included.
const DATE: u64 = 12;
const DATE_TIME: (u64, u64) = (21, 32);
const DURATION: (u64, u64) = (3, 32);
const TEXT: u64 = 2;
const BOOLEAN: u64 = 4;
const NUMBER: u64 = 1;

/// A type and how large its values may be.
#[derive(Clone, Debug)]
pub struct Declared {
    kind: Type,
    max_elements: u64,
    min_size: u64,
    /// The longest key of a map.
    longest_key: u64,
    element: Option<Box<Declared>>,
    /// Any name is that of an entry of the map.
    is_open: bool,
    fields: BTreeMap<String, Declared>,
}

impl Declared {
    /// A value that the schema says nothing about.
    pub fn dynamic() -> Self {
        Self::simple(Type::Dyn, 0, NUMBER)
    }

    /// The type of a whole resource, named `name`.
    pub fn of(structural: &Structural, name: &str) -> Option<Self> {
        Self::of_node(structural.root(), name)
    }

    fn simple(kind: Type, max_elements: u64, min_size: u64) -> Self {
        let (element, fields) = (None, BTreeMap::new());
        Self { kind, max_elements, min_size, longest_key: 0, element, is_open: false, fields }
    }

    /// The type of a part; `None` for what expressions cannot see: parts without a type.
    pub(crate) fn of_node(node: &Node, name: &str) -> Option<Self> {
        let whole = REQUEST - 2;
        let max_length = node.max_length();
        match node.shape() {
            Shape::IntOrString => {
                Some(Self::simple(Type::Dyn, max_length.map_or(whole, |max| max.saturating_mul(4)), NUMBER))
            }
            Shape::List => {
                let element = Self::of_node(node.items()?, &format!("{name}.@idx"))?;
                let most = node.max_items().unwrap_or(whole / (element.min_size + 1));
                let kind = Type::list(element.kind.clone());
                Some(Self { element: Some(Box::new(element)), ..Self::simple(kind, most, 2) })
            }
            Shape::Map => {
                let element = Self::of_node(node.values()?, &format!("{name}.@elem"))?;
                let most = node.max_properties().unwrap_or(whole / (element.min_size + 6));
                let kind = Type::map(Type::String, element.kind.clone());
                Some(Self { element: Some(Box::new(element)), ..Self::simple(kind, most, 2) })
            }
            Shape::Object => Some(Self::of_object(node, name)),
            Shape::Bytes => Some(Self::simple(Type::Bytes, max_length.unwrap_or(whole), TEXT)),
            Shape::Duration => Some(Self::simple(Type::Duration, DURATION.1, DURATION.0)),
            Shape::Date => Some(Self::simple(Type::Timestamp, DATE, DATE)),
            Shape::DateTime => Some(Self::simple(Type::Timestamp, DATE_TIME.1, DATE_TIME.0)),
            Shape::String => {
                let most = max_length.map(|max| max.saturating_mul(4)).or_else(|| node.longest_choice());
                Some(Self::simple(Type::String, most.unwrap_or(whole), TEXT))
            }
            Shape::Boolean => Some(Self::simple(Type::Bool, 0, BOOLEAN)),
            Shape::Number => Some(Self::simple(Type::Double, 0, NUMBER)),
            Shape::Integer => Some(Self::simple(Type::Int, 0, NUMBER)),
            Shape::Unknown => None,
        }
    }

    fn of_object(node: &Node, name: &str) -> Self {
        let text = || Self::simple(Type::String, REQUEST - 2, TEXT);
        let (mut fields, mut min_size) = (BTreeMap::new(), 2);
        for (property, schema) in node.properties() {
            let Some(escaped) = escape(property) else { continue };
            let Some(field) = Self::of_node(schema, &format!("{name}.{escaped}")) else { continue };
            if node.requires(property) && !schema.has_default() {
                min_size += property.len() as u64 + field.min_size + 4;
            }
            fields.insert(escaped, field);
        }
        if node.is_resource() {
            fields.insert("apiVersion".to_owned(), text());
            fields.insert("kind".to_owned(), text());
            let mut metadata = fields.remove("metadata").map(|known| known.fields).unwrap_or_default();
            for name in ["name", "generateName"] {
                // What the schema bounds itself keeps its bound.
                let bounded = metadata.get(name).is_some_and(|known| known.max_elements < REQUEST - 2);
                if !bounded {
                    metadata.insert(name.to_owned(), Self::simple(Type::String, NAME, TEXT));
                }
            }
            fields.insert("metadata".to_owned(), Self::object(&format!("{name}.metadata"), metadata));
        }
        Self { min_size, ..Self::object(name, fields) }
    }

    /// A value whose size is bounded by other means than a schema.
    pub fn bounded(kind: Type, max_elements: u64) -> Self {
        Self::simple(kind, max_elements, NUMBER)
    }

    /// A map of up to so many entries under keys of up to so many characters.
    pub fn map(longest_key: u64, element: Self, max_elements: u64) -> Self {
        let kind = Type::map(Type::String, element.kind.clone());
        Self { longest_key, element: Some(Box::new(element)), ..Self::simple(kind, max_elements, TEXT) }
    }

    /// The same map, where an entry that is taken by its name is as large as all are. (Of other maps nobody knows.)
    #[must_use]
    pub fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// An object type of these fields.
    pub fn object(name: &str, fields: BTreeMap<String, Self>) -> Self {
        let kinds = fields.iter().map(|(name, field)| (name.clone(), field.kind.clone())).collect();
        Self { fields, ..Self::simple(Type::object(name, kinds), 0, 2) }
    }

    /// The type.
    pub fn kind(&self) -> &Type {
        &self.kind
    }

    /// The fewest bytes that a value takes in JSON.
    pub(crate) fn min_size(&self) -> u64 {
        self.min_size
    }

    /// The most elements, entries or characters of the part at `path`, where the schema knows it.
    pub(super) fn max_elements(&self, path: &[String]) -> Option<u64> {
        let mut at = self;
        for (index, step) in path.iter().enumerate() {
            at = match step.as_str() {
                "@items" | "@values" => at.element.as_deref()?,
                "@keys" if matches!(at.kind, Type::Map(_)) => {
                    return (index + 1 == path.len()).then_some(at.longest_key);
                }
                _ if at.is_open => at.element.as_deref()?,
                name => at.fields.get(name)?,
            };
        }
        Some(at.max_elements)
    }
}
