//! Sets of fields, as `metadata.managedFields` records who owns what.
//! An element of a path is kept in its wire form: `f:name`, `k:{"name":"a"}`, `v:"x"`; `.` marks the member itself.
//! A set is made and changed at every write, hence sorted vectors, and operations that reuse what they are given.
//! Upstream: structured-merge-diff `fieldpath`.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

use crate::json;

/// One step of a path, in wire form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element(String);

impl Element {
    fn new(prefix: &str, rest: &str) -> Self {
        let mut text = String::with_capacity(prefix.len() + rest.len());
        text.push_str(prefix);
        text.push_str(rest);
        Self(text)
    }

    /// A field of an object.
    pub(super) fn field(name: &str) -> Self {
        Self::new("f:", name)
    }

    /// An element of a list of type map. The keys are written in their order, as upstream does.
    pub(super) fn key(mut keys: Vec<(&str, &Value)>) -> Self {
        keys.sort_unstable_by_key(|(name, _)| *name);
        let mut text = b"k:{".to_vec();
        for (index, (name, value)) in keys.into_iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            json::write_string(&mut text, name);
            text.push(b':');
            json::write(&mut text, value);
        }
        text.push(b'}');
        Self(String::from_utf8(text).unwrap_or_default())
    }

    /// An element of a list of type set.
    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    /// Its wire form.
    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// The field's name, if it is one.
    pub(super) fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }
}

/// As conflicts print it: `.spec`, `[name="a"]`, `[="x"]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(2) {
            Some(("f:", name)) => write!(f, ".{name}"),
            Some(("v:", value)) => write!(f, "[={value}]"),
            Some(("i:", index)) => write!(f, "[{index}]"),
            Some(("k:", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            _ => f.write_str(&self.0),
        }
    }
}

/// A set of paths: what begins with each element, in the order of the elements, no entry empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<(Element, Entry)>);

/// The paths that begin with one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether the path that ends here is in the set.
    pub(super) member: bool,
    /// The longer ones, without the element.
    pub(super) below: Set,
}

impl Entry {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn absorb(&mut self, other: Self) {
        self.member |= other.member;
        self.below.absorb(other.below);
    }
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many elements its paths begin with.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Of what begins with each element, in any order and in linear time but for the sorting: lists of a request may be
    /// long.
    pub(super) fn of(mut entries: Vec<(Element, Entry)>) -> Self {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut set = Self(Vec::with_capacity(entries.len()));
        for (element, entry) in entries {
            match set.0.last_mut() {
                Some((last, own)) if *last == element => own.absorb(entry),
                _ if entry.is_empty() => {}
                _ => set.0.push((element, entry)),
            }
        }
        set
    }

    fn get(&self, element: &Element) -> Option<&Entry> {
        let at = self.0.binary_search_by(|(own, _)| own.cmp(element)).ok()?;
        Some(&self.0[at].1)
    }

    /// Adds what begins with an element. Meant for the order of the elements: see [`Set::of`] for others.
    pub(super) fn put(&mut self, element: Element, entry: Entry) {
        if entry.is_empty() {
            return;
        }
        if self.0.last().is_none_or(|(last, _)| *last < element) {
            self.0.push((element, entry));
            return;
        }
        match self.0.binary_search_by(|(own, _)| own.cmp(&element)) {
            Ok(at) => self.0[at].1.absorb(entry),
            Err(at) => self.0.insert(at, (element, entry)),
        }
    }

    /// Whether the path of this one element is in the set.
    pub(super) fn has(&self, element: &Element) -> bool {
        self.get(element).is_some_and(|entry| entry.member)
    }

    /// The paths that begin with this element, without it.
    pub(super) fn below(&self, element: &Element) -> Option<&Self> {
        self.get(element).map(|entry| &entry.below).filter(|below| !below.is_empty())
    }

    pub(super) fn union(mut self, other: Self) -> Self {
        self.absorb(other);
        self
    }

    /// Takes up all of another set.
    pub(super) fn absorb(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        let mut entries = std::mem::take(&mut self.0);
        entries.extend(other.0);
        *self = Self::of(entries);
    }

    /// Keeps of each path what `keep` says, given whether it is in this and in the other set.
    fn restrict(&mut self, other: &Self, keep: impl Fn(bool, bool) -> bool + Copy) {
        let none = Entry::default();
        let mut theirs = other.0.iter().peekable();
        self.0.retain_mut(|(element, entry)| {
            let found = loop {
                match theirs.peek().map(|(next, found)| (next.cmp(element), found)) {
                    Some((Ordering::Less, _)) => drop(theirs.next()),
                    Some((Ordering::Equal, found)) => break found,
                    Some((Ordering::Greater, _)) | None => break &none,
                }
            };
            entry.member = keep(entry.member, found.member);
            entry.below.restrict(&found.below, keep);
            !entry.is_empty()
        });
    }

    pub(super) fn intersection(mut self, other: &Self) -> Self {
        self.restrict(other, |own, theirs| own && theirs);
        self
    }

    pub(super) fn difference(mut self, other: &Self) -> Self {
        if !other.is_empty() {
            self.restrict(other, |own, theirs| own && !theirs);
        }
        self
    }

    /// Without these fields and all below them, each named by the fields on the way to it.
    pub(super) fn without(mut self, paths: &[&[&str]]) -> Self {
        for path in paths {
            self.cut(path);
        }
        self
    }

    fn cut(&mut self, path: &[&str]) {
        let Some((name, rest)) = path.split_first() else { return };
        self.0.retain_mut(|(element, entry)| {
            if element.field_name() != Some(name) {
                return true;
            }
            entry.below.cut(rest);
            !rest.is_empty() && !entry.is_empty()
        });
    }

    /// With every path of which `named` says so that it is a member too, if there is anything below it. `context` is
    /// what `named` makes of each element on the way down.
    pub(super) fn with_named<C: Copy>(&self, context: C, named: &impl Fn(C, &Element) -> (bool, C)) -> Self {
        let entries = self.0.iter().map(|(element, entry)| {
            let (is_named, context) = named(context, element);
            let entry = Entry {
                member: entry.member || (is_named && !entry.below.is_empty()),
                below: entry.below.with_named(context, named),
            };
            (element.clone(), entry)
        });
        Self(entries.collect())
    }

    /// All paths, as conflicts print them.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, entry) in &self.0 {
            let path = format!("{prefix}{element}");
            if entry.member {
                paths.push(path.clone());
            }
            entry.below.collect_paths(&path, paths);
        }
    }

    /// The `fieldsV1` of an entry of `managedFields`.
    pub(super) fn into_json(self) -> Value {
        let entries = self.0.into_iter().map(|(element, entry)| {
            let marked = entry.member && !entry.below.is_empty();
            let mut below = entry.below.into_json();
            if marked {
                below["."] = Value::Object(Map::new());
            }
            (element.0, below)
        });
        Value::Object(entries.collect())
    }

    /// Reads a `fieldsV1`; `None` if it is none. Its nesting was bounded by decoding.
    pub(super) fn from_json(fields: &Value) -> Option<Self> {
        let mut entries = Vec::new();
        for (element, below) in fields.as_object()? {
            if element == "." {
                continue;
            }
            let element = match element.split_at_checked(2)? {
                ("k:", keys) => Self::canonical_key(keys)?,
                ("v:", value) => Element::value(&serde_json::from_str(value).ok()?),
                ("f:" | "i:", _) => Element(element.clone()),
                _ => return None,
            };
            let object = below.as_object()?;
            let entry = Entry {
                member: object.is_empty() || object.contains_key("."),
                below: Self::from_json(below)?,
            };
            entries.push((element, entry));
        }
        Some(Self::of(entries))
    }

    fn canonical_key(keys: &str) -> Option<Element> {
        let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
        Some(Element::key(keys.iter().map(|(name, value)| (name.as_str(), value)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> Set {
        Set::from_json(&value).unwrap()
    }

    #[test]
    fn wire_form_and_paths() {
        let wire = json!({
            "f:metadata": {"f:finalizers": {"v:\"a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}, "f:replicas": {}},
        });
        let read = set(wire.clone());
        assert_eq!(
            read.paths(),
            [
                r#".metadata.finalizers[="a"]"#,
                r#".spec.containers[name="c"]"#,
                r#".spec.containers[name="c"].image"#,
                ".spec.replicas",
            ]
        );
        assert_eq!(read.into_json(), wire);
        assert_eq!(Set::from_json(&json!({"x": {}})), None);
        assert_eq!(Set::from_json(&json!({"f:a": 1})), None);
    }

    #[test]
    fn algebra() {
        let left = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let right = set(json!({"f:a": {"f:b": {}}, "f:d": {}}));
        let both = json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}});
        assert_eq!(left.clone().union(right.clone()).into_json(), both);
        assert_eq!(right.clone().union(left.clone()).into_json(), both);
        assert_eq!(left.clone().intersection(&right).into_json(), json!({"f:a": {"f:b": {}}}));
        assert_eq!(left.clone().difference(&right).into_json(), json!({"f:a": {}, "f:c": {}}));
        assert_eq!(left.clone().without(&[&["a"]]).into_json(), json!({"f:c": {}}));
        assert_eq!(left.clone().without(&[&["a", "b"]]).into_json(), json!({"f:a": {}, "f:c": {}}));
        assert!(left.clone().difference(&left).is_empty());
    }

    #[test]
    fn the_order_of_what_is_given_does_not_matter() {
        let entry = |below: Value| Entry { member: true, below: set(below) };
        let field = |index: u32| Element::field(&format!("{index:06}"));
        let ascending = Set::of((0..100_000).map(|index| (field(index), entry(json!({})))).collect());
        // Sorted as a whole: one by one, each would move all that are there already.
        let descending = Set::of((0..100_000).rev().map(|index| (field(index), entry(json!({})))).collect());
        assert_eq!(ascending, descending);
        let twice = vec![
            (field(1), entry(json!({"f:a": {}}))),
            (field(0), Entry::default()),
            (field(1), entry(json!({"f:b": {}}))),
        ];
        assert_eq!(Set::of(twice).into_json(), json!({"f:000001": {".": {}, "f:a": {}, "f:b": {}}}));
    }
}
