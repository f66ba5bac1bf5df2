//! Reads labels and selected fields out of an object's JSON in one pass, allocating only what is kept.
//!
//! Not here: what the fields mean, or how selectors match (`api::selector`).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What selectors can see of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The selectable fields, in the order given to [`Extractor::new`]; empty string where absent.
    pub fields: Box<[Box<str>]>,
}

impl Facts {
    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }
}

/// Knows which fields to read.
#[derive(Debug, Default)]
pub struct Extractor {
    root: Node,
    absent: Vec<Box<str>>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(String, Node)>,
    /// Two selectable fields may read the same place.
    fields: Vec<usize>,
    labels: bool,
}

impl Extractor {
    /// An extractor of the labels and of `fields`: where each is (`/spec/nodeName`; through objects only), and
    /// what it reads as where it is absent.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut root = Node::default();
        root.reach("/metadata/labels").labels = true;
        let mut absent = Vec::new();
        for (pointer, without) in fields {
            root.reach(pointer).fields.push(absent.len());
            absent.push(without.into());
        }
        Self { root, absent }
    }

    /// The facts of the object in `json`; `None` if that is malformed, or no object.
    pub fn extract(&self, json: &[u8]) -> Option<Facts> {
        // The seed passes over whatever else it meets.
        if !super::is_object(json) {
            return None;
        }
        let mut found = Found { labels: Vec::new(), fields: self.absent.clone() };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        (Seed { node: &self.root, found: &mut found }).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        found.labels.sort_unstable();
        Some(Facts { labels: found.labels.into(), fields: found.fields.into() })
    }
}

impl Node {
    fn reach(&mut self, pointer: &str) -> &mut Self {
        let mut node = self;
        for segment in pointer.split('/').skip(1) {
            let at = match node.children.iter().position(|(name, _)| name == segment) {
                Some(at) => at,
                None => {
                    node.children.push((segment.to_owned(), Self::default()));
                    node.children.len() - 1
                }
            };
            node = &mut node.children[at].1;
        }
        node
    }
}

struct Found {
    labels: Vec<(Box<str>, Box<str>)>,
    fields: Vec<Box<str>>,
}

struct Seed<'a> {
    node: &'a Node,
    found: &'a mut Found,
}

impl Seed<'_> {
    fn keep(&mut self, text: &str) {
        for field in &self.node.fields {
            self.found.fields[*field] = text.into();
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.keep(text);
        Ok(())
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.keep(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.keep(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.keep(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.keep(&value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.labels {
            while let Some((key, value)) = map.next_entry::<Box<str>, Box<str>>()? {
                self.found.labels.push((key, value));
            }
            return Ok(());
        }
        while let Some(child) = map.next_key_seed(Key(self.node))? {
            match child {
                Some(node) => map.next_value_seed(Seed { node, found: self.found })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a key as the child of that name, without keeping the key.
struct Key<'a>(&'a Node);

impl<'de, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = Option<&'a Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Key<'a> {
    type Value = Option<&'a Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|(name, _)| name == key).map(|(_, node)| node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_fields_are_found_and_the_rest_is_skipped() {
        let extractor = Extractor::new([
            ("/spec/nodeName", ""),
            ("/spec/hostNetwork", "false"),
            ("/status/n", "0"),
            ("/status/absent", "none"),
        ]);
        let facts = extractor.extract(
            br#"{"kind":"Pod","metadata":{"labels":{"b":"2","a":"1\u0041"},"name":"x"},
                "spec":{"containers":[{"nodeName":"no"}],"hostNetwork":true,"nodeName":"n1"},"status":{"n":3}}"#,
        );
        let facts = facts.unwrap();
        assert_eq!(facts.label("a"), Some("1A"));
        assert_eq!(facts.label("b"), Some("2"));
        assert_eq!(facts.label("c"), None);
        assert_eq!(facts.fields.iter().map(|f| &**f).collect::<Vec<_>>(), ["n1", "true", "3", "none"]);
    }

    #[test]
    fn malformed_json_has_no_facts() {
        let extractor = Extractor::new([("/spec/nodeName", "")]);
        for malformed in
            [&b"{\"spec\":"[..], b"", b"{} {}", b"k8s\0\n\x0a", b"{\"spec\":{\"x\":[1,]}}", b"[{}]", b"\"x\""]
        {
            assert_eq!(extractor.extract(malformed), None, "{malformed:?}");
        }
        assert_eq!(
            extractor.extract(b"{} "),
            Some(Facts { labels: Box::default(), fields: [Box::default()].into() })
        );
    }
}
