//! A typed object written into the untyped one that it was read from.
//!
//! Defaults touch few of an object's fields. Where the two agree nothing is allocated or freed; the outcome is what
//! `serde_json::to_value` gives.
//! Not here: what is changed (`kind::typed`).

use serde::ser::{self, Serialize, Serializer};
use serde_json::{Error, Map, Value};

/// Makes `value` what `typed` is as JSON. After an error, which untyped forms of ours never give, it is neither.
pub(crate) fn update<T: Serialize>(value: &mut Value, typed: &T) -> Result<(), Error> {
    typed.serialize(Into(value))
}

/// Where a value goes, in place of what is there.
struct Into<'a>(&'a mut Value);

impl Into<'_> {
    fn set(self, value: Value) -> Result<(), Error> {
        // Compared first: a text that is dropped and made again costs two calls of the allocator.
        if *self.0 != value {
            *self.0 = value;
        }
        Ok(())
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object if it was none")
}

impl<'a> Serializer for Into<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Elements<'a>;
    type SerializeTupleStruct = Elements<'a>;
    type SerializeTupleVariant = ser::Impossible<(), Error>;
    type SerializeMap = Members<'a, String>;
    type SerializeStruct = Members<'a, &'static str>;
    type SerializeStructVariant = ser::Impossible<(), Error>;

    fn serialize_bool(self, v: bool) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_i8(self, v: i8) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_i16(self, v: i16) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_i32(self, v: i32) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_i64(self, v: i64) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_u8(self, v: u8) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_u16(self, v: u16) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_u32(self, v: u32) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_u64(self, v: u64) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_f32(self, v: f32) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_f64(self, v: f64) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_char(self, v: char) -> Result<(), Error> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, v: &str) -> Result<(), Error> {
        if self.0.as_str() != Some(v) {
            *self.0 = v.into();
        }
        Ok(())
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Error> {
        self.set(v.into())
    }
    fn serialize_none(self) -> Result<(), Error> {
        self.set(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Result<(), Error> {
        v.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Error> {
        self.set(Value::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.set(Value::Null)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, v: &T) -> Result<(), Error> {
        v.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        v: &T,
    ) -> Result<(), Error> {
        let value = serde_json::to_value(v)?;
        self.set(Value::Object(Map::from_iter([(variant.to_owned(), value)])))
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'a>, Error> {
        if !self.0.is_array() {
            *self.0 = Value::Array(Vec::new());
        }
        let list = self.0.as_array_mut().expect("it was just made a list if it was none");
        Ok(Elements { list, at: 0 })
    }
    fn serialize_tuple(self, length: usize) -> Result<Elements<'a>, Error> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Elements<'a>, Error> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        Err(unknown())
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Members<'a, String>, Error> {
        Ok(Members { object: object(self.0), seen: Vec::new(), next: None })
    }
    fn serialize_struct(self, _: &'static str, fields: usize) -> Result<Members<'a, &'static str>, Error> {
        Ok(Members { object: object(self.0), seen: Vec::with_capacity(fields), next: None })
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(unknown())
    }
}

/// No type of the API is an enum whose variants hold several fields.
fn unknown() -> Error {
    ser::Error::custom("a variant with several fields has no place in an object of the API")
}

/// A list on its way.
struct Elements<'a> {
    list: &'a mut Vec<Value>,
    at: usize,
}

impl ser::SerializeSeq for Elements<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        if self.at == self.list.len() {
            self.list.push(Value::Null);
        }
        v.serialize(Into(&mut self.list[self.at]))?;
        self.at += 1;
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        self.list.truncate(self.at);
        Ok(())
    }
}

impl ser::SerializeTuple for Elements<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        ser::SerializeSeq::serialize_element(self, v)
    }

    fn end(self) -> Result<(), Error> {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeTupleStruct for Elements<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        ser::SerializeSeq::serialize_element(self, v)
    }

    fn end(self) -> Result<(), Error> {
        ser::SerializeSeq::end(self)
    }
}

/// An object on its way.
struct Members<'a, K> {
    object: &'a mut Map<String, Value>,
    /// The members written so far: the others go at the end.
    seen: Vec<K>,
    /// The key of the value to come.
    next: Option<String>,
}

impl<K: AsRef<str>> Members<'_, K> {
    fn put<T: Serialize + ?Sized>(&mut self, key: K, v: &T) -> Result<(), Error> {
        match self.object.get_mut(key.as_ref()) {
            Some(value) => v.serialize(Into(value))?,
            None => {
                let mut value = Value::Null;
                v.serialize(Into(&mut value))?;
                self.object.insert(key.as_ref().to_owned(), value);
            }
        }
        self.seen.push(key);
        Ok(())
    }

    fn finish(self) {
        // A key is written once: as many are there as were written, or some were there before.
        if self.object.len() != self.seen.len() {
            self.object.retain(|key, _| self.seen.iter().any(|seen| seen.as_ref() == key));
        }
    }
}

impl ser::SerializeStruct for Members<'_, &'static str> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, v: &T) -> Result<(), Error> {
        self.put(key, v)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

impl ser::SerializeMap for Members<'_, String> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        match serde_json::to_value(key)? {
            Value::String(key) => self.next = Some(key),
            _ => return Err(ser::Error::custom("a key that is no text")),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), Error> {
        let key = self.next.take().ok_or_else(|| ser::Error::custom("a value without a key"))?;
        self.put(key, v)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::core::v1::{Pod, Secret};

    #[test]
    fn the_outcome_is_that_of_a_conversion() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "1", "b": "2"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": "http"}},
                "resources": {"requests": {"cpu": "1"}}}], "nodeName": "n"},
        });
        let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
        let befores = [
            pod.clone(),
            json!({}),
            json!(7),
            json!({"metadata": [], "spec": {"containers": {"name": 1}, "unknown": {"a": 1}, "nodeName": null}}),
            json!({"metadata": {"labels": {"a": "2", "c": "3"}, "namespace": "x"},
                "spec": {"containers": [{"name": "d", "env": []}, {"name": "e"}, 3]}, "status": {}}),
        ];
        for mut before in befores {
            update(&mut before, &typed).unwrap();
            assert_eq!(before, pod);
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "immutable": false,
            "data": {"a": "YWI="}});
        let typed: Secret = serde_json::from_value(secret.clone()).unwrap();
        let mut before = json!({"data": {"a": "", "b": "YWI="}, "immutable": true});
        update(&mut before, &typed).unwrap();
        assert_eq!(before, secret);
    }
}
