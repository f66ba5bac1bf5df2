//! The walk over values by their schema: which parts are owned, how they merge, how they differ.
//! Structs and maps merge by member, lists of type map by key and of type set by value; everything else is one value.
//! Upstream: structured-merge-diff `typed`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::presence;
use super::set::{Element, Entry, Set};
use crate::Schema;
use crate::structural::Node;
use crate::table::{Definition, Field, ListType, Merge, Type, table};

pub(super) const MANAGED_FIELDS: &str = "managedFields";
pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What the schema says of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    /// A value that is owned whole, and its type where it has one.
    Leaf(Option<&'a Type>),
    /// An object of a definition.
    Struct(&'a Definition),
    /// A map of texts.
    Map(&'a Type),
    /// A list of type set.
    Set,
    /// A list of type map.
    Keyed(&'a Type, &'a [&'static str]),
    /// A part of a custom resource.
    Custom(&'a Node),
    /// The part of a custom resource of which the schema says nothing: its objects merge.
    Untyped,
}

/// Two elements of one list that cannot be told apart, or one that names none of its keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("{path}: duplicate entries for key {key}")]
    Duplicate { path: String, key: String },
    #[error(
        "{path}: element {index}: associative list with keys has an element that omits all of its key fields"
    )]
    NoKey { path: String, index: usize },
}

impl<'a> Shape<'a> {
    pub(super) fn of(schema: &'a Schema) -> Self {
        match schema {
            Schema::BuiltIn(definition) => Self::Struct(definition),
            Schema::Structural(structural) => Self::Custom(structural.root()),
        }
    }

    fn of_type(r#type: &'a Type, merge: Option<&'a Merge>) -> Self {
        let atomic = merge.is_some_and(|merge| merge.atomic_map);
        match (r#type, merge.and_then(|merge| merge.list.as_ref())) {
            (Type::Definition(reference), _) => {
                let definition = table().get(*reference);
                if atomic || definition.atomic || definition.fields.is_empty() {
                    Self::Leaf(Some(r#type))
                } else {
                    Self::Struct(definition)
                }
            }
            (Type::Map(element), _) if !atomic => Self::Map(element),
            (Type::Array(_), Some(ListType::Set)) => Self::Set,
            (Type::Array(element), Some(ListType::Map(keys))) => Self::Keyed(element, keys),
            _ => Self::Leaf(Some(r#type)),
        }
    }

    /// The shape of a member, and whether it is a named field rather than an entry of a map.
    pub(super) fn member(self, name: &str) -> (bool, Self) {
        match self {
            Self::Struct(definition) => match definition.field(name) {
                Some(field) => (true, Self::of_type(&field.r#type, Some(&field.merge))),
                None => (false, Self::Leaf(None)),
            },
            Self::Map(element) => (false, Self::of_type(element, None)),
            Self::Custom(node) if node.is_resource() && name == "metadata" => {
                let meta = table().definition(OBJECT_META);
                (true, meta.map_or(Self::Untyped, Self::Struct))
            }
            Self::Custom(node) => match node.member(name) {
                Some(member) => (node.names(name), Self::Custom(member)),
                None => (false, Self::Untyped),
            },
            Self::Untyped => (false, Self::Untyped),
            Self::Leaf(_) | Self::Set | Self::Keyed(..) => (false, Self::Leaf(None)),
        }
    }

    /// The shape of the elements of a list.
    pub(super) fn element(self) -> Self {
        match self {
            Self::Keyed(element, _) => Self::of_type(element, None),
            Self::Custom(node) => node.items().map_or(Self::Untyped, Self::Custom),
            _ => Self::Leaf(None),
        }
    }

    /// The shape below an element of a path, and whether the element is a named field.
    pub(super) fn step(self, element: &Element) -> (bool, Self) {
        match element.field_name() {
            Some(name) => self.member(name),
            None => (false, self.element()),
        }
    }

    /// The members of an object that merges.
    pub(super) fn object(self, value: Option<&Value>) -> Option<&Map<String, Value>> {
        let merges = match self {
            Self::Struct(_) | Self::Map(_) | Self::Untyped => true,
            Self::Custom(node) => node.is_granular_map(),
            Self::Leaf(_) | Self::Set | Self::Keyed(..) => false,
        };
        value.filter(|_| merges)?.as_object()
    }

    /// The elements of a list that merges.
    pub(super) fn list(self, value: Option<&Value>) -> Option<&[Value]> {
        let merges = match self {
            Self::Set | Self::Keyed(..) => true,
            Self::Custom(node) => node.is_associative_list(),
            _ => false,
        };
        value.filter(|_| merges)?.as_array().map(Vec::as_slice)
    }

    /// What tells an element of this list apart; `None` if it names no key.
    pub(super) fn identity(self, element: &Value) -> Option<Element> {
        self.identity_with(element, |_| None)
    }

    /// As [`Shape::identity`], with what Go holds for keys that the element leaves out.
    fn identity_in_go(self, element: &Value) -> Option<Element> {
        let definition = match self {
            Self::Keyed(Type::Definition(reference), _) => Some(table().get(*reference)),
            _ => None,
        };
        self.identity_with(element, |key| definition?.field(key)?.when_absent())
    }

    fn identity_with<'v>(
        self,
        element: &'v Value,
        absent: impl Fn(&str) -> Option<&'v Value>,
    ) -> Option<Element>
    where
        'a: 'v,
    {
        let keys: Vec<(&str, Option<&Value>)> = match self {
            // The one default among the keys of built-in lists.
            Self::Keyed(_, keys) => keys.iter().map(|key| (*key, None)).collect(),
            Self::Custom(node) => match node.list_keys() {
                Some(keys) => keys,
                None => return Some(Element::value(element)),
            },
            _ => return Some(Element::value(element)),
        };
        let protocol = Value::from("TCP");
        let object = element.as_object()?;
        let found = keys.into_iter().filter_map(|(key, default)| {
            let default =
                default.or((matches!(self, Self::Keyed(..)) && key == "protocol").then_some(&protocol));
            Some((key, object.get(key).or_else(|| absent(key)).or(default)?))
        });
        let found: Vec<(&str, &Value)> = found.collect();
        (!found.is_empty()).then(|| Element::key(found))
    }

    /// The elements of a list with what tells them apart; elements that nothing does are left out.
    fn identified(self, list: &[Value]) -> Vec<(Element, &Value)> {
        list.iter().filter_map(|element| Some((self.identity(element)?, element))).collect()
    }

    pub(super) fn identified_in_go(self, list: &[Value]) -> Vec<(Element, &Value)> {
        list.iter().filter_map(|element| Some((self.identity_in_go(element)?, element))).collect()
    }
}

/// Where each element stands first: lists of a request may be long, and are not searched again and again.
fn places<'a>(list: &'a [(Element, &Value)]) -> BTreeMap<&'a Element, usize> {
    let mut places = BTreeMap::new();
    for (index, (identity, _)) in list.iter().enumerate() {
        places.entry(identity).or_insert(index);
    }
    places
}

/// Every field a value sets.
pub(super) fn fields(value: &Value, shape: Shape<'_>) -> Result<Set, Error> {
    collect(value, shape, &mut Vec::new()).map(|whole| whole.below)
}

/// What a value sets, seen from where it stands; `path` is only for errors.
fn collect(value: &Value, shape: Shape<'_>, path: &mut Vec<Element>) -> Result<Entry, Error> {
    let mut below = Set::default();
    if let Some(object) = shape.object(Some(value)) {
        for (name, member) in object {
            let (named, shape) = shape.member(name);
            let element = Element::field(name);
            path.push(element.clone());
            let mut entry = collect(member, shape, path)?;
            path.pop();
            entry.member |= !named || member.is_null() || member.as_object().is_some_and(Map::is_empty);
            below.put(element, entry);
        }
        return Ok(Entry { member: false, below });
    }
    let Some(list) = shape.list(Some(value)) else { return Ok(Entry { member: true, below }) };
    let (mut seen, mut entries) = (BTreeSet::new(), Vec::with_capacity(list.len()));
    for (index, element) in list.iter().enumerate() {
        let at = || path.iter().map(ToString::to_string).collect::<String>();
        let identity = shape.identity(element).ok_or_else(|| Error::NoKey { path: at(), index })?;
        if !seen.insert(identity.clone()) {
            return Err(Error::Duplicate { path: at(), key: identity.to_string() });
        }
        let mut entry = Entry { member: true, below: Set::default() };
        // The identity of a scalar is all there is to it.
        if element.is_object() {
            path.push(identity.clone());
            entry.below = collect(element, shape.element(), path)?.below;
            path.pop();
        }
        entries.push((identity, entry));
    }
    Ok(Entry { member: false, below: Set::of(entries) })
}

/// How two values differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) added: Set,
    pub(super) removed: Set,
    pub(super) modified: Set,
}

/// How two values differ, seen from where they stand.
#[derive(Default)]
struct Change {
    added: Entry,
    removed: Entry,
    modified: Entry,
}

impl Change {
    /// The same, seen from one step further up.
    fn put(&mut self, element: Element, below: Self) {
        let Self { added, removed, modified } = below;
        let parts = [(&mut self.removed, removed), (&mut self.modified, modified)];
        for (own, entry) in parts {
            if entry != Entry::default() {
                own.below.put(element.clone(), entry);
            }
        }
        self.added.below.put(element, added);
    }

    /// Puts what became of one member or element, if anything did.
    fn put_walked(
        &mut self,
        element: impl FnOnce() -> Element,
        old: Option<&Value>,
        new: Option<&Value>,
        shape: Shape<'_>,
    ) {
        if old != new {
            let below = walk(old, new, shape);
            if !below.is_nothing() {
                self.put(element(), below);
            }
        }
    }

    fn is_nothing(&self) -> bool {
        [&self.added, &self.removed, &self.modified].into_iter().all(Entry::is_empty)
    }
}

impl Difference {
    /// Of two objects as Go's types hold them (`presence`), their `managedFields` aside.
    pub(super) fn between(old: &Value, new: &Value, shape: Shape<'_>) -> Self {
        if old == new {
            return Self::default();
        }
        let Change { added, removed, modified } = walk(Some(old), Some(new), shape);
        Self { added: added.below, removed: removed.below, modified: modified.below }
    }

    /// What the change gives a value to.
    pub(super) fn added_or_modified(&self) -> Set {
        self.added.clone().union(self.modified.clone())
    }

    /// What the change gives a value to, and what it takes away.
    pub(super) fn into_parts(self) -> (Set, Set) {
        (self.added.union(self.modified), self.removed)
    }

    /// Leaves out these fields and all below them.
    pub(super) fn forget(&mut self, fields: &[&[&str]]) {
        if !fields.is_empty() {
            for set in [&mut self.added, &mut self.removed, &mut self.modified] {
                *set = std::mem::take(set).without(fields);
            }
        }
    }
}

/// What became of a value that is not what it was.
fn walk(old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> Change {
    let mut change = Change::default();
    if let (None, Some(new)) = (old, new) {
        change.added = added(new, shape);
        return change;
    }
    let of_kind =
        |is: fn(&Value) -> bool| [old, new].into_iter().flatten().all(|value| value.is_null() || is(value));
    let never_empty = matches!(shape, Shape::Struct(definition) if definition.is_never_empty());
    // Two that are both empty, or of different kinds, are compared as wholes.
    let maps = || {
        let mut maps = [old, new].into_iter().filter_map(|side| shape.object(side));
        maps.any(|map| never_empty || !map.is_empty())
    };
    let lists = || [old, new].into_iter().filter_map(|side| shape.list(side)).any(|list| !list.is_empty());
    if of_kind(Value::is_object) && maps() {
        match shape {
            Shape::Struct(definition) => {
                members(&mut change, shape.object(old), shape.object(new), definition)
            }
            _ => entries(&mut change, shape.object(old), shape.object(new), shape),
        }
    } else if of_kind(Value::is_array) && lists() {
        let left = shape.identified_in_go(shape.list(old).unwrap_or_default());
        let right = shape.identified_in_go(shape.list(new).unwrap_or_default());
        let (in_left, in_right) = (places(&left), places(&right));
        if in_left.len() < left.len() || in_right.len() < right.len() {
            repeated(&mut change, &left, &right, shape.element());
            return Change {
                added: Entry { member: old.is_none(), ..change.added },
                removed: Entry { member: new.is_none(), ..change.removed },
                ..change
            };
        }
        let of_left = left.iter().map(|(identity, element)| {
            (identity, Some(*element), in_right.get(identity).map(|at| right[*at].1))
        });
        let only_right = right.iter().filter(|(identity, _)| !in_left.contains_key(identity));
        let mut pairs: Vec<_> =
            of_left.chain(only_right.map(|(identity, element)| (identity, None, Some(*element)))).collect();
        pairs.sort_by_key(|(identity, ..)| *identity);
        for (identity, old, new) in pairs {
            change.put_walked(|| identity.clone(), old, new, shape.element());
        }
    } else if let (Some(old), Some(new)) = (old, new) {
        // Without a schema a value is what it holds: where that is no object any more, what was in it has gone, too.
        if matches!(shape, Shape::Untyped) && !old.is_null() && !new.is_null() {
            entries(&mut change, shape.object(Some(old)), shape.object(Some(new)), shape);
        }
        change.modified.member =
            !matches!(shape, Shape::Leaf(Some(r#type)) if presence::same(old, new, r#type));
    }
    change.added.member = old.is_none();
    change.removed.member = new.is_none();
    change
}

/// What became of the elements of a list in which some cannot be told apart: those with one identity are one item, which
/// is changed, comes and goes as a whole, and of which nothing below is owned.
fn repeated(change: &mut Change, old: &[(Element, &Value)], new: &[(Element, &Value)], shape: Shape<'_>) {
    let mut items: BTreeMap<&Element, [Vec<&Value>; 2]> = BTreeMap::new();
    for (side, elements) in [old, new].into_iter().enumerate() {
        for (identity, value) in elements {
            items.entry(identity).or_default()[side].push(value);
        }
    }
    for (identity, [old, new]) in items {
        let whole = || Entry { member: true, below: Set::default() };
        let identity = identity.clone();
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => {
                change.put_walked(|| identity, old.first().copied(), new.first().copied(), shape);
            }
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    change.modified.below.put(identity, whole());
                }
            }
            ([_, _, ..], single) => {
                change.put_walked(|| identity.clone(), None, single.first().copied(), shape);
                change.removed.below.put(identity, whole());
            }
            (single, _) => {
                change.put_walked(|| identity.clone(), single.first().copied(), None, shape);
                change.added.below.put(identity, whole());
            }
        }
    }
}

/// All that a value brings where there was none: what [`walk`] finds, without a second value to look at.
fn added(new: &Value, shape: Shape<'_>) -> Entry {
    let mut below = Set::default();
    match (shape, shape.object(Some(new)), shape.list(Some(new))) {
        (Shape::Struct(definition), Some(object), _) => {
            let is_metadata = definition.name == OBJECT_META;
            let (mut present, mut fields) = (object.iter().peekable(), definition.fields.iter().peekable());
            loop {
                let names = [present.peek().map(|(name, _)| name.as_str()), fields.peek().map(|f| f.name)];
                let Some(name) = names.into_iter().flatten().min() else { break };
                let value = present.next_if(|(own, _)| *own == name).map(|(_, value)| value);
                let field = fields.next_if(|field| field.name == name);
                let value = value.or_else(|| field.and_then(Field::when_absent));
                let Some(value) = value.filter(|_| !is_metadata || name != MANAGED_FIELDS) else { continue };
                below.put(Element::field(name), added(value, shape_of(field)));
            }
        }
        (_, Some(object), _) => {
            for (name, value) in object {
                below.put(Element::field(name), added(value, shape.member(name).1));
            }
        }
        (_, None, Some(list)) => {
            let elements = shape.identified_in_go(list);
            let element = shape.element();
            let entries = elements.iter().map(|(identity, value)| (identity.clone(), added(value, element)));
            below = Set::of(entries.collect());
            if below.len() < elements.len() {
                let mut change = Change::default();
                repeated(&mut change, &[], &elements, element);
                below = change.added.below;
            }
        }
        (_, None, None) => {}
    }
    Entry { member: true, below }
}

pub(super) fn shape_of(field: Option<&Field>) -> Shape<'_> {
    field.map_or(Shape::Leaf(None), |field| Shape::of_type(&field.r#type, Some(&field.merge)))
}

/// What became of the members of a struct: of those in JSON, and of those that Go holds besides.
fn members(
    change: &mut Change,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    definition: &Definition,
) {
    let is_metadata = definition.name == OBJECT_META;
    // All three in the order of the names.
    let (mut left, mut right) = (old.into_iter().flatten().peekable(), new.into_iter().flatten().peekable());
    let mut fields = definition.fields.iter().peekable();
    loop {
        let names = [
            left.peek().map(|(name, _)| name.as_str()),
            right.peek().map(|(name, _)| name.as_str()),
            fields.peek().map(|field| field.name),
        ];
        let Some(name) = names.into_iter().flatten().min() else { return };
        let before = left.next_if(|(own, _)| *own == name).map(|(_, value)| value);
        let after = right.next_if(|(own, _)| *own == name).map(|(_, value)| value);
        let field = fields.next_if(|field| field.name == name);
        let absent = field.and_then(Field::when_absent);
        if before.is_none() && after.is_none() && (absent.is_none() || old.is_some() == new.is_some()) {
            continue;
        }
        if is_metadata && name == MANAGED_FIELDS {
            continue;
        }
        let before = before.or(absent.filter(|_| old.is_some()));
        let after = after.or(absent.filter(|_| new.is_some()));
        change.put_walked(|| Element::field(name), before, after, shape_of(field));
    }
}

/// What became of the entries of a map.
fn entries(
    change: &mut Change,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    shape: Shape<'_>,
) {
    for (name, after) in new.into_iter().flatten() {
        let before = old.and_then(|old| old.get(name));
        change.put_walked(|| Element::field(name), before, Some(after), shape.member(name).1);
    }
    for (name, before) in old.into_iter().flatten() {
        if new.is_none_or(|new| !new.contains_key(name)) {
            change.put_walked(|| Element::field(name), Some(before), None, shape.member(name).1);
        }
    }
}

/// The live value with the applied one merged into it.
pub(super) fn merge(live: &Value, applied: &Value, shape: Shape<'_>) -> Value {
    if let (Some(left), Some(right)) = (shape.object(Some(live)), shape.object(Some(applied))) {
        let mut merged = left.clone();
        for (name, value) in right {
            let value = match left.get(name) {
                Some(live) => merge(live, value, shape.member(name).1),
                None => value.clone(),
            };
            merged.insert(name.clone(), value);
        }
        return Value::Object(merged);
    }
    let (Some(left), Some(right)) = (shape.list(Some(live)), shape.list(Some(applied))) else {
        return applied.clone();
    };
    // The applied order leads; elements that only the live list has stay before the next one that both have.
    let (left, right) = (shape.identified(left), shape.identified(right));
    let (in_left, in_right) = (places(&left), places(&right));
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut next_live, mut next_applied) = (0, 0);
    loop {
        if let Some((_, element)) = left.get(next_live).filter(|(own, _)| !in_right.contains_key(own)) {
            merged.push((*element).clone());
            next_live += 1;
            continue;
        }
        let Some((identity, element)) = right.get(next_applied) else { break };
        merged.push(match in_left.get(identity).map(|at| left[*at].1) {
            Some(live) => merge(live, element, shape.element()),
            None => (*element).clone(),
        });
        next_applied += 1;
        while left
            .get(next_live)
            .is_some_and(|(own, _)| in_right.get(own).is_some_and(|at| *at < next_applied))
        {
            next_live += 1;
        }
    }
    Value::Array(merged)
}

/// Takes out what the set names. What is left with nothing goes too.
pub(super) fn remove(value: &mut Value, set: &Set, shape: Shape<'_>) {
    take(value, set, shape, false);
}

/// Takes out what the set names. A field that is left with nothing stays, null: it is a field still.
pub(super) fn hollow(value: &mut Value, set: &Set, shape: Shape<'_>) {
    take(value, set, shape, true);
}

fn take(value: &mut Value, set: &Set, shape: Shape<'_>, hollow: bool) {
    let keep = |element: &Element, value: &mut Value, shape: Shape<'_>| {
        if set.has(element) {
            return false;
        }
        let Some(below) = set.below(element) else { return true };
        let was_empty = is_empty(value);
        take(value, below, shape, hollow);
        was_empty || !is_empty(value)
    };
    if shape.object(Some(value)).is_some() {
        let Value::Object(object) = value else { return };
        object.retain(|name, member| {
            let element = Element::field(name);
            if keep(&element, member, shape.member(name).1) {
                return true;
            }
            *member = Value::Null;
            hollow && !set.has(&element)
        });
    } else if shape.list(Some(value)).is_some() {
        let Value::Array(list) = value else { return };
        list.retain_mut(|element| match shape.identity(element) {
            Some(identity) => keep(&identity, element, shape.element()),
            None => true,
        });
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
