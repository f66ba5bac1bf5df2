//! Sets of fields, as `metadata.managedFields` records who owns what.
//! An element of a path is kept in its wire form: `f:name`, `k:{"name":"a"}`, `v:"x"`; `.` marks the member itself.
//! Upstream: structured-merge-diff `fieldpath`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path, in wire form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element(String);

impl Element {
    /// A field of an object.
    pub(super) fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// An element of a list of type map. serde_json keeps the keys sorted, as upstream writes them.
    pub(super) fn key(keys: &Map<String, Value>) -> Self {
        Self(format!("k:{}", Value::Object(keys.clone())))
    }

    /// An element of a list of type set.
    pub(super) fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
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

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(BTreeMap<Element, Entry>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Whether the path that ends here is in the set.
    member: bool,
    below: Set,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a path; the empty path is the object itself, which nobody owns.
    pub(super) fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let entry = self.0.entry(first.clone()).or_default();
        if rest.is_empty() {
            entry.member = true;
        } else {
            entry.below.insert(rest);
        }
    }

    /// Whether the path of this one element is in the set.
    pub(super) fn has(&self, element: &Element) -> bool {
        self.0.get(element).is_some_and(|entry| entry.member)
    }

    /// The paths that begin with this element, without it.
    pub(super) fn below(&self, element: &Element) -> Option<&Self> {
        self.0.get(element).map(|entry| &entry.below).filter(|below| !below.is_empty())
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.extend(other);
        union
    }

    /// Takes up all of another set.
    pub(super) fn extend(&mut self, other: &Self) {
        for (element, entry) in &other.0 {
            let own = self.0.entry(element.clone()).or_default();
            own.member |= entry.member;
            own.below.extend(&entry.below);
        }
    }

    fn combine(&self, other: &Self, keep: impl Fn(bool, bool) -> bool + Copy) -> Self {
        let none = Entry::default();
        let combined = self.0.iter().filter_map(|(element, entry)| {
            let theirs = other.0.get(element).unwrap_or(&none);
            let entry = Entry {
                member: keep(entry.member, theirs.member),
                below: entry.below.combine(&theirs.below, keep),
            };
            (!entry.is_empty()).then(|| (element.clone(), entry))
        });
        Self(combined.collect())
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |own, theirs| own && theirs)
    }

    pub(super) fn difference(&self, other: &Self) -> Self {
        self.combine(other, |own, theirs| own && !theirs)
    }

    /// Without these top-level fields and all below them.
    pub(super) fn without(&self, fields: &[&str]) -> Self {
        let kept = self
            .0
            .iter()
            .filter(|(element, _)| !element.field_name().is_some_and(|name| fields.contains(&name)));
        Self(kept.map(|(element, entry)| (element.clone(), entry.clone())).collect())
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
    pub(super) fn to_json(&self) -> Value {
        let entries = self.0.iter().map(|(element, entry)| {
            let mut below = entry.below.to_json();
            if entry.member && !entry.below.is_empty() {
                below["."] = Value::Object(Map::new());
            }
            (element.0.clone(), below)
        });
        Value::Object(entries.collect())
    }

    /// Reads a `fieldsV1`; `None` if it is none. Its nesting was bounded by decoding.
    pub(super) fn from_json(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
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
            set.0.insert(element, entry);
        }
        Some(set)
    }

    fn canonical_key(keys: &str) -> Option<Element> {
        let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
        Some(Element::key(&keys))
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
        assert_eq!(read.to_json(), wire);
        assert_eq!(
            read.paths(),
            [
                r#".metadata.finalizers[="a"]"#,
                r#".spec.containers[name="c"]"#,
                r#".spec.containers[name="c"].image"#,
                ".spec.replicas",
            ]
        );
        assert_eq!(Set::from_json(&json!({"x": {}})), None);
        assert_eq!(Set::from_json(&json!({"f:a": 1})), None);
    }

    #[test]
    fn algebra() {
        let left = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let right = set(json!({"f:a": {"f:b": {}}, "f:d": {}}));
        assert_eq!(left.union(&right).to_json(), json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}}));
        assert_eq!(left.intersection(&right).to_json(), json!({"f:a": {"f:b": {}}}));
        assert_eq!(left.difference(&right).to_json(), json!({"f:a": {}, "f:c": {}}));
        assert_eq!(left.without(&["a"]).to_json(), json!({"f:c": {}}));
        assert!(left.difference(&left).is_empty());
    }
}
