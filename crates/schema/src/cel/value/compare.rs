//! Equality and order of values, across the kinds of numbers.
//! Lists of type set and map are equal whatever their order, those with something twice to none.
//! Upstream: cel-go `common/types/compare.go`, apiserver `pkg/cel/common/values.go`.

use std::cmp::Ordering;

use super::index::Index;
use super::{List, Map, Opaque, Value};
use crate::structural::Node;

/// Whether two values are equal. Values of different types are not; numbers are by their size.
pub fn equal<'a>(left: &Value<'a>, right: &Value<'a>) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Kind(a), Value::Kind(b)) => a == b,
        (Value::Named(a), Value::Named(b)) => a == b,
        (Value::Kind(a), Value::Named(b)) | (Value::Named(b), Value::Kind(a)) => **a == **b,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::List(a), Value::List(b)) => equal_lists(a, b),
        (Value::Map(a), Value::Map(b)) => equal_maps(a, b),
        (Value::Opaque(a), Value::Opaque(b)) => equal_opaque(a, b),
        _ => numbers(left, right) == Some(Ordering::Equal),
    }
}

fn equal_opaque(left: &Opaque<'_>, right: &Opaque<'_>) -> bool {
    match (left, right) {
        (Opaque::Url(a), Opaque::Url(b)) => a.text() == b.text(),
        (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
        (Opaque::Cidr(a, x), Opaque::Cidr(b, y)) => a == b && x == y,
        (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
        (Opaque::Semver(a), Opaque::Semver(b)) => a.compare(b) == Ordering::Equal,
        (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
        (Opaque::Check(a, _), Opaque::Check(b, _)) => a == b,
        (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
        _ => false,
    }
}

pub(super) fn elements<'a>(list: &List<'a>) -> Vec<Value<'a>> {
    // What cannot be read by its schema is equal to nothing: it stays out.
    (0..list.len()).filter_map(|index| list.get(index).ok().flatten()).collect()
}

fn equal_lists<'a>(left: &List<'a>, right: &List<'a>) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let (a, b) = (elements(left), elements(right));
    let node = left.node();
    let keys = node.and_then(Node::map_keys);
    if !node.is_some_and(Node::is_set) && keys.is_none() {
        return a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| equal(a, b));
    }
    // In any order, each once: what is there twice makes no set.
    let mut found = vec![false; a.len()];
    let whole = keys.is_some();
    let a = Index::new(keys, a, &b);
    b.iter().all(|other| {
        a.position(other).is_some_and(|at| {
            !std::mem::replace(&mut found[at], true) && (!whole || equal(&a.all()[at], other))
        })
    })
}

/// Whether two elements of a list of type map are entries of the same keys.
pub(super) fn same_entry<'a>(keys: &[String], left: &Value<'a>, right: &Value<'a>) -> bool {
    keys.iter().all(|key| {
        let key = Value::text(key);
        match (left.get(&key), right.get(&key)) {
            (Ok(Some(a)), Ok(Some(b))) => equal(&a, &b),
            (Ok(None), Ok(None)) => true,
            _ => false,
        }
    })
}

fn equal_maps<'a>(left: &Map<'a>, right: &Map<'a>) -> bool {
    if let (Map::Struct(a), Map::Struct(b)) = (left, right)
        && a.0 != b.0
    {
        return false;
    }
    if left.len() != right.len() {
        return false;
    }
    left.keys().iter().all(|key| match (left.get(key), right.get(key)) {
        (Ok(Some(a)), Ok(Some(b))) => equal(&a, &b),
        _ => false,
    })
}

fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Double(a), Value::Int(b)) => with_double(*a, i128::from(*b)),
        (Value::Double(a), Value::Uint(b)) => with_double(*a, i128::from(*b)),
        (Value::Int(a), Value::Double(b)) => with_double(*b, i128::from(*a)).map(Ordering::reverse),
        (Value::Uint(a), Value::Double(b)) => with_double(*b, i128::from(*a)).map(Ordering::reverse),
        _ => None,
    }
}

fn with_double(left: f64, right: i128) -> Option<Ordering> {
    if left.is_nan() {
        return None;
    }
    // Every 64-bit integer lies within this, and within it a float's whole part fits 128 bits.
    if left.abs() > 1e30 {
        return Some(if left > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let whole = left.trunc();
    let rest = left - whole;
    let by_whole = (whole as i128).cmp(&right);
    Some(by_whole.then_with(|| rest.partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

/// The order of two values; `None` where they have none.
pub fn compare(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some((**a).cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        _ => numbers(left, right),
    }
}
