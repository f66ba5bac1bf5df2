//! Finds elements of lists of type set and map by a hash, so that lists out of requests take linear time.
//!
//! What is equal has one hash; what is found by it is compared nevertheless, so the hash decides nothing. It is keyed anew
//! for each index: nobody can send elements that fall together.
//! Not here: what is equal (`compare`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::compare::{elements, same_entry};
use super::{List, Map, Opaque, Value, equal};
use crate::structural::Node;

/// The elements of a list that grows.
pub(in crate::cel) struct Index<'a> {
    /// The keys of the entries, for a list of type map.
    keys: Option<Vec<String>>,
    /// Somewhere in the elements are lists that are equal whatever their order.
    unordered: bool,
    state: RandomState,
    places: HashMap<u64, Vec<usize>>,
    all: Vec<Value<'a>>,
}

impl<'a> Index<'a> {
    /// An index of elements that will be compared with `others`. `keys` is given for entries of a list of type map.
    pub(in crate::cel) fn new(keys: Option<Vec<String>>, all: Vec<Value<'a>>, others: &[Value<'a>]) -> Self {
        let unordered = keys.is_none() && all.iter().chain(others).any(holds_unordered);
        let places = HashMap::with_capacity(all.len());
        let mut index = Self { keys, unordered, state: RandomState::new(), places, all: Vec::new() };
        for (at, element) in all.iter().enumerate() {
            index.place(element, at);
        }
        index.all = all;
        index
    }

    /// The first element that is the same as another: equal, or an entry of the same keys.
    pub(in crate::cel) fn position(&self, other: &Value<'a>) -> Option<usize> {
        let places = self.places.get(&self.hash(other)?)?;
        places.iter().copied().find(|at| match &self.keys {
            Some(keys) => same_entry(keys, &self.all[*at], other),
            None => equal(&self.all[*at], other),
        })
    }

    /// Puts an element where the same one is, or at the end.
    pub(in crate::cel) fn put(&mut self, element: Value<'a>) {
        match self.position(&element) {
            Some(at) => self.all[at] = element,
            None => {
                self.place(&element, self.all.len());
                self.all.push(element);
            }
        }
    }

    /// The elements.
    pub(in crate::cel) fn all(&self) -> &[Value<'a>] {
        &self.all
    }

    /// The elements, as they are at the end.
    pub(in crate::cel) fn into_all(self) -> Vec<Value<'a>> {
        self.all
    }

    fn place(&mut self, element: &Value<'a>, at: usize) {
        // What has no hash is equal to nothing, and never found.
        if let Some(hash) = self.hash(element) {
            self.places.entry(hash).or_default().push(at);
        }
    }

    fn hash(&self, element: &Value<'a>) -> Option<u64> {
        let Some(keys) = &self.keys else { return self.hash_value(element) };
        let mut hash = 0;
        for key in keys {
            let value = element.get(&Value::text(key)).ok()?;
            let value = value.map(|value| self.hash_value(&value).ok_or(())).transpose().ok()?;
            hash = self.state.hash_one((hash, value));
        }
        Some(hash)
    }

    /// The same for values that are equal; `None` for one that is equal to none.
    fn hash_value(&self, value: &Value<'a>) -> Option<u64> {
        let state = &self.state;
        Some(match value {
            Value::Null => state.hash_one(0),
            Value::Bool(value) => state.hash_one((1, value)),
            // Numbers are equal by their size, whatever their types.
            Value::Int(number) => state.hash_one((2, i128::from(*number))),
            Value::Uint(number) => state.hash_one((2, i128::from(*number))),
            Value::Double(number) if number.is_nan() => return None,
            Value::Double(number) if number.fract() == 0.0 && number.abs() < 1e30 => {
                state.hash_one((2, *number as i128))
            }
            Value::Double(number) => state.hash_one((3, number.to_bits())),
            Value::String(text) => state.hash_one((4, &**text)),
            Value::Bytes(bytes) => state.hash_one((5, bytes)),
            Value::Timestamp(at) => state.hash_one((6, at)),
            Value::Duration(nanos) => state.hash_one((7, nanos)),
            Value::Kind(name) => state.hash_one((8, name)),
            Value::Named(name) => state.hash_one((8, &**name)),
            Value::Optional(None) => state.hash_one(9),
            Value::Optional(Some(inner)) => state.hash_one((10, self.hash_value(inner)?)),
            Value::List(list) => self.hash_list(list)?,
            Value::Map(map) => self.hash_map(map)?,
            // No list of a schema has such elements.
            Value::Opaque(Opaque::Url(url)) => state.hash_one((13, url.text())),
            Value::Opaque(_) => state.hash_one(14),
        })
    }

    fn hash_list(&self, list: &List<'a>) -> Option<u64> {
        let mut hash = self.state.hash_one((11, list.len()));
        for element in elements(list) {
            let more = self.hash_value(&element)?;
            hash = if self.unordered { hash.wrapping_add(more) } else { self.state.hash_one((hash, more)) };
        }
        Some(hash)
    }

    fn hash_map(&self, map: &Map<'a>) -> Option<u64> {
        let mut hash = self.state.hash_one((12, map.len()));
        for key in map.keys() {
            let value = map.get(&key).ok()??;
            let more = self.state.hash_one((self.hash_value(&key)?, self.hash_value(&value)?));
            hash = hash.wrapping_add(more);
        }
        Some(hash)
    }
}

fn holds_unordered(value: &Value<'_>) -> bool {
    match value {
        Value::List(list) => {
            list.node().is_some_and(|node| Node::is_set(node) || node.map_keys().is_some())
                || elements(list).iter().any(holds_unordered)
        }
        Value::Map(map) => map
            .keys()
            .iter()
            .any(|key| map.get(key).ok().flatten().is_some_and(|value| holds_unordered(&value))),
        Value::Optional(Some(inner)) => holds_unordered(inner),
        _ => false,
    }
}
