//! Objects as seen by code that has no use for `metadata.managedFields`.
//!
//! A deserializer over an untyped object that leaves that one member out. Ownership of fields often makes up most of an
//! object, and typed code converts it at every step for nothing. Not here: who owns which field (`schema`).

use serde::Deserializer;
use serde::de::value::MapDeserializer;
use serde::de::{IntoDeserializer, Visitor};
use serde_json::{Error, Map, Value};

const MANAGED_FIELDS: &str = "managedFields";

/// A whole object without its `metadata.managedFields`.
pub(crate) struct Plain<'a>(pub &'a Value);

/// Metadata without its `managedFields`.
pub(crate) struct PlainMetadata<'a>(pub &'a Value);

/// Removes and returns an object's `metadata.managedFields`.
pub(crate) fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(MANAGED_FIELDS)
}

/// A member of an object.
struct Member<'a> {
    is_metadata: bool,
    value: &'a Value,
}

impl<'de> IntoDeserializer<'de, Error> for Member<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Plain<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Value::Object(members) = self.0 else { return self.0.deserialize_any(visitor) };
        visitor.visit_map(MapDeserializer::new(members.iter().map(|(name, value)| {
            let is_metadata = name == "metadata";
            (name.as_str(), Member { is_metadata, value })
        })))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> Deserializer<'de> for PlainMetadata<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Value::Object(members) = self.0 else { return self.0.deserialize_any(visitor) };
        visitor.visit_map(MapDeserializer::new(others(members)))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

fn others(metadata: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    metadata.iter().filter(|(name, _)| *name != MANAGED_FIELDS).map(|(name, value)| (name.as_str(), value))
}

impl<'de> Deserializer<'de> for Member<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.is_metadata {
            true => PlainMetadata(self.value).deserialize_any(visitor),
            false => self.value.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    // A plain value knows more than `deserialize_any` says: texts become timestamps, numbers wrap, enums are read.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::types::core::v1::{Pod, Secret};

    #[test]
    fn only_the_managed_fields_are_left_out() {
        let fields = json!([{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}}]);
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"managedFields": "x"},
                "managedFields": fields},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": "http"}}}]},
            "status": {"startTime": "2026-01-01T00:00:01Z"},
        });
        let plain = Pod::deserialize(Plain(&object)).unwrap();
        assert_eq!(take_managed_fields(&mut object), Some(fields));
        assert_eq!(plain, Pod::deserialize(&object).unwrap());
        assert_eq!(serde_json::to_value(plain).unwrap(), object);
        let meta = crate::meta::ObjectMeta::deserialize(PlainMetadata(&object["metadata"])).unwrap();
        assert_eq!(serde_json::to_value(meta).unwrap(), object["metadata"]);
    }

    #[test]
    fn members_at_the_top_are_read_as_ever() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": null, "immutable": true,
            "data": {"a": "YWI="}, "type": null});
        let read = Secret::deserialize(Plain(&secret)).unwrap();
        assert_eq!(read, Secret::deserialize(&secret).unwrap());
        for broken in [json!(1), json!([]), json!({"metadata": 7}), json!({"metadata": {"name": 1}})] {
            let (plain, whole) = (Secret::deserialize(Plain(&broken)), Secret::deserialize(&broken));
            assert_eq!(plain.unwrap_err().to_string(), whole.unwrap_err().to_string());
        }
    }
}
