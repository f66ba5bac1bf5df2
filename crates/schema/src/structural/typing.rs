//! What expressions need to know of a structural schema: the types of its parts and the bounds of their sizes.
//! Not here: the CEL types themselves (`cel::Declared`).

use super::{Additional, List, Node, Type};

/// What the values of a part are, as expressions see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    IntOrString,
    List,
    Map,
    Object,
    Bytes,
    Duration,
    Date,
    DateTime,
    String,
    Boolean,
    Number,
    Integer,
    Unknown,
}

impl Node {
    pub(crate) fn shape(&self) -> Shape {
        if self.int_or_string {
            return Shape::IntOrString;
        }
        match self.r#type {
            Some(Type::Object) => match &self.additional {
                Some(Additional::Schema(_)) => Shape::Map,
                _ => Shape::Object,
            },
            Some(Type::Array) => Shape::List,
            Some(Type::String) => match self.limits.format.as_deref() {
                Some("byte") => Shape::Bytes,
                Some("duration") => Shape::Duration,
                Some("date") => Shape::Date,
                Some("date-time") => Shape::DateTime,
                _ => Shape::String,
            },
            Some(Type::Boolean) => Shape::Boolean,
            Some(Type::Number) => Shape::Number,
            Some(Type::Integer) => Shape::Integer,
            None if self.embedded_resource => Shape::Object,
            None => Shape::Unknown,
        }
    }

    pub(crate) fn has_properties(&self) -> bool {
        self.shape() == Shape::Object
    }

    pub(crate) fn properties(&self) -> impl Iterator<Item = (&String, &Self)> {
        self.properties.iter()
    }

    /// The schema of the values of a map.
    pub(crate) fn values(&self) -> Option<&Self> {
        match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.list == Some(List::Set)
    }

    pub(crate) fn map_keys(&self) -> Option<Vec<String>> {
        match &self.list {
            Some(List::Map(keys)) => Some(keys.clone()),
            _ => None,
        }
    }

    pub(crate) fn requires(&self, property: &str) -> bool {
        self.limits.required.iter().any(|required| required == property)
    }

    /// Whether there is a default here or below.
    pub(crate) fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.values().any(Self::has_defaults)
            || self.values().is_some_and(Self::has_defaults)
            || self.items.as_deref().is_some_and(Self::has_defaults)
    }

    pub(crate) fn has_default(&self) -> bool {
        self.default.is_some()
    }

    pub(crate) fn max_length(&self) -> Option<u64> {
        self.limits.max_length
    }

    pub(crate) fn max_items(&self) -> Option<u64> {
        self.limits.max_items
    }

    pub(crate) fn max_properties(&self) -> Option<u64> {
        self.limits.max_properties
    }

    /// The length of the longest of the allowed texts, in bytes.
    pub(crate) fn longest_choice(&self) -> Option<u64> {
        let choices = self.limits.r#enum.as_ref().filter(|choices| !choices.is_empty())?;
        Some(choices.iter().filter_map(|one| one.as_str()).map(|text| text.len() as u64).max().unwrap_or(0))
    }
}
