//! Lists in strategic merge patches: which elements merge, and in which order the outcome stands.
//! Order: that of `$setElementOrder`, else of the patch; elements only the server has keep their order among
//! themselves and stand as near as possible to where they stood. Elements are found by an index, so that the work grows
//! with the lists and not with their product: both can hold as many elements as a body has room for.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    Error, PATCH, SET_ELEMENT_ORDER, go_format_list, go_format_map, go_type, member, merge_map, patch_type,
    same_type, without_directives, without_nulls,
};
use crate::table::{Merge, Type};

const LIST: &str = "[]interface {}";
const MAP: &str = "map[string]interface {}";

/// Merges the lists that have a `$setElementOrder`, and takes them and it out of the patch.
pub(super) fn merge_ordered(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    r#type: Option<&Type>,
) -> Result<(), Error> {
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        let order = into_list(order)?;
        let name = directive
            .strip_prefix(SET_ELEMENT_ORDER)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or(Error::SetElementOrderFormat)?;
        let current = original.get(name).cloned().map(into_list).transpose()?;
        let given = patch.remove(name).map(into_list).transpose()?;
        let (r#type, rules) = member(r#type, name);
        let key = rules.and_then(|rules| rules.patch_merge_key);
        check_order(given.as_deref().unwrap_or_default(), &order, key)?;
        let merged = match (current.clone(), given) {
            (None, None) => continue,
            (Some(current), None) => current,
            (None, Some(given)) => given.into_iter().filter_map(without_directives).collect(),
            (Some(current), Some(given)) => merge(current, given, r#type, rules, false)?,
        };
        let (ordered, server_only) = partition(merged, &order, key)?;
        let merged = arrange(ordered, server_only, &order, &current.unwrap_or_default(), key);
        original.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(())
}

/// Merges two lists by the rules of their field.
pub(super) fn merge(
    original: Vec<Value>,
    patch: Vec<Value>,
    r#type: Option<&Type>,
    rules: Option<&Merge>,
    delete: bool,
) -> Result<Vec<Value>, Error> {
    if !rules.is_some_and(|rules| rules.patch_merge) {
        return Ok(patch);
    }
    let Some(sample) = original.first().or_else(|| patch.first()) else { return Ok(original) };
    check_elements(sample, &original, &patch)?;
    if !sample.is_object() {
        return Ok(merge_scalars(original, patch, delete));
    }
    let key = rules.and_then(|rules| rules.patch_merge_key).ok_or(Error::UndeclaredMergeKey("map"))?;
    let element = match r#type {
        Some(Type::Array(element)) => Some(&**element),
        _ => None,
    };
    let (mut original, patch) = apply_directives(original, patch, key)?;
    let server_order = original.clone();
    let mut places = index(&server_order, Some(key));
    for value in &patch {
        let Value::Object(given) = value else { continue };
        let wanted = given.get(key).ok_or_else(|| no_merge_key(given, key))?;
        match places.get(&Some(wanted)) {
            Some(&at) => {
                let Value::Object(current) = original[at].take() else { continue };
                original[at] = Value::Object(merge_map(current, given.clone(), element)?);
            }
            None => {
                places.insert(Some(wanted), original.len());
                // Never left out: elements with a directive are not among these.
                original.extend(without_directives(without_nulls(value.clone())));
            }
        }
    }
    let (ordered, server_only) = partition(original, &patch, Some(key))?;
    Ok(arrange(ordered, server_only, &patch, &server_order, Some(key)))
}

fn merge_scalars(original: Vec<Value>, patch: Vec<Value>, delete: bool) -> Vec<Value> {
    let given: HashSet<&Value> = patch.iter().collect();
    if delete {
        return original.into_iter().filter(|value| !given.contains(value)).collect();
    }
    let mut seen = HashSet::with_capacity(original.len() + patch.len());
    let merged = original.iter().chain(&patch).filter(|value| seen.insert(*value)).cloned();
    let (ordered, server_only): (Vec<Value>, Vec<Value>) = merged.partition(|value| given.contains(value));
    arrange(ordered, server_only, &patch, &original, None)
}

/// Elements must be of one type, and no lists.
fn check_elements(sample: &Value, original: &[Value], patch: &[Value]) -> Result<(), Error> {
    if sample.is_array() {
        return Err(Error::ListOfLists);
    }
    if original.iter().chain(patch).any(|value| !same_type(value, sample)) {
        return Err(Error::MixedList(format!("[{} {}]", go_format_list(original), go_format_list(patch))));
    }
    Ok(())
}

/// Carries out the `$patch` of single elements: what is left of both lists has none.
fn apply_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    let mut deleted = HashSet::new();
    for value in patch {
        let Value::Object(map) = &value else { continue };
        match map.get(PATCH).map(|directive| (directive, directive.as_str())) {
            None => plain.push(value),
            Some((_, Some("delete"))) => {
                let wanted = map.get(key).ok_or_else(|| no_merge_key(map, key))?;
                deleted.insert(wanted.clone());
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => return Err(Error::MergeDirective),
            Some((directive, _)) => return Err(patch_type(directive, map)),
        }
    }
    if !deleted.is_empty() {
        original.retain(|candidate| candidate.get(key).is_none_or(|own| !deleted.contains(own)));
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// The elements that another list also has, and the rest.
fn partition(list: Vec<Value>, by: &[Value], key: Option<&str>) -> Result<(Vec<Value>, Vec<Value>), Error> {
    if let Some(key) = key {
        for value in &list {
            let map = as_map(value)?;
            if !map.contains_key(key) {
                return Err(no_merge_key(map, key));
            }
        }
    }
    let by = index(by, key);
    Ok(list.into_iter().partition(|value| by.contains_key(&identity(value, key))))
}

/// What tells an element from others: the value of its merge key, or a scalar itself.
fn identity<'a>(value: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => value.get(key),
        None => Some(value),
    }
}

/// Where each element first stands in a list.
fn index<'a>(list: &'a [Value], key: Option<&str>) -> HashMap<Option<&'a Value>, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        places.entry(identity(value, key)).or_insert(at);
    }
    places
}

/// Sorts ordered elements by `order` and the others by `server_order`, then sets each of the others before the first
/// ordered one that the server has behind it.
fn arrange(
    mut ordered: Vec<Value>,
    mut server_only: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (order, server_order) = (index(order, key), index(server_order, key));
    let place_of = |value: &Value| server_order.get(&identity(value, key)).copied();
    ordered.sort_by_key(|value| order.get(&identity(value, key)).copied());
    server_only.sort_by_key(place_of);
    let mut arranged = Vec::with_capacity(ordered.len() + server_only.len());
    let mut server_only = server_only.into_iter().peekable();
    for value in ordered {
        let place = place_of(&value);
        while let Some(own) = server_only
            .next_if(|own| matches!((place_of(own), place), (Some(own), Some(place)) if own < place))
        {
            arranged.push(own);
        }
        arranged.push(value);
    }
    arranged.extend(server_only);
    arranged
}

/// The patch must not contradict the order it asks for.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for value in patch {
        if let Some(key) = key {
            let map = as_map(value)?;
            if map.contains_key(PATCH) {
                continue;
            }
            let own = map.get(key).ok_or_else(|| no_merge_key(map, key))?;
            let mut found = false;
            for candidate in wanted.by_ref() {
                let candidate = as_map(candidate)?;
                if candidate.get(key).ok_or_else(|| no_merge_key(candidate, key))? == own {
                    found = true;
                    break;
                }
            }
            if found {
                continue;
            }
        } else if wanted.any(|candidate| candidate == value) {
            continue;
        }
        return Err(Error::Order { patch: go_format_list(patch), order: go_format_list(order) });
    }
    Ok(())
}

fn as_map(value: &Value) -> Result<&Map<String, Value>, Error> {
    value.as_object().ok_or_else(|| Error::ArgumentType { expected: MAP, actual: go_type(value) })
}

fn into_list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(list) => Ok(list),
        other => Err(Error::ArgumentType { expected: LIST, actual: go_type(&other) }),
    }
}

fn no_merge_key(map: &Map<String, Value>, key: &str) -> Error {
    Error::NoMergeKey { map: go_format_map(map), key: key.to_owned() }
}
