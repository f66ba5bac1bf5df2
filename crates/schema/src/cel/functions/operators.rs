//! Operators, `size` and the insertion of transforms into maps.
//! Upstream: cel-go `common/types/{int,uint,double,string,bytes,list,map,timestamp,duration}.go`.

use std::cmp::Ordering;
use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};

use super::Call;
use crate::cel::value::{Error, Index, List, Map, Result, Value, compare, equal};

/// The moments that CEL knows: the years 1 to 9999.
const MIN_SECOND: i64 = -62_135_596_800;
const MAX_SECOND: i64 = 253_402_300_799;

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    let order = |wanted: fn(Ordering) -> bool| match call.arguments {
        [a, b] => match compare(a, b) {
            Some(found) => Ok(Value::Bool(wanted(found))),
            None if matches!((a, b), (Value::Double(x), _) | (_, Value::Double(x)) if x.is_nan()) => {
                Ok(Value::Bool(false))
            }
            None => Err(operands(call)),
        },
        _ => Err(call.no_overload()),
    };
    match (call.function, call.arguments) {
        ("!_", [Value::Bool(value)]) => Ok(Value::Bool(!value)),
        ("@not_strictly_false", [value]) => Ok(Value::Bool(!matches!(value, Value::Bool(false)))),
        ("_==_", [a, b]) => Ok(Value::Bool(equal(a, b))),
        ("_!=_", [a, b]) => Ok(Value::Bool(!equal(a, b))),
        ("_<_", _) => order(Ordering::is_lt),
        ("_<=_", _) => order(Ordering::is_le),
        ("_>_", _) => order(Ordering::is_gt),
        ("_>=_", _) => order(Ordering::is_ge),
        ("@in", [element, Value::List(list)]) => {
            for index in 0..list.len() {
                if list.get(index)?.is_some_and(|found| equal(&found, element)) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("@in", [key, map @ Value::Map(_)]) => Ok(Value::Bool(map.get(key)?.is_some())),
        ("_[_]", [of, key]) => index(of, key),
        ("_[?_]", [of, key]) => match of {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => Ok(Value::Optional(inner.get(key)?.map(Rc::new))),
            of => Ok(Value::Optional(of.get(key)?.map(Rc::new))),
        },
        ("_+_", [a, b]) => add(a, b).unwrap_or_else(|| Err(operands(call))),
        ("_-_", [a, b]) => subtract(a, b).unwrap_or_else(|| Err(operands(call))),
        ("_*_" | "_/_" | "_%_", [a, b]) => {
            multiply(call.function, a, b).unwrap_or_else(|| Err(operands(call)))
        }
        ("-_", [Value::Int(number)]) => number.checked_neg().map(Value::Int).ok_or_else(overflow),
        ("-_", [Value::Double(number)]) => Ok(Value::Double(-number)),
        ("-_", [Value::Duration(nanos)]) => nanos.checked_neg().map(Value::Duration).ok_or_else(overflow),
        ("size", [value]) => match value {
            Value::Opaque(_) => Err(call.no_overload()),
            value => value.size().map(|size| Value::Int(size as i64)).ok_or_else(|| call.no_overload()),
        },
        ("cel.@mapInsert", [Value::Map(map), added @ ..]) => {
            let entries = entries(added)?;
            insert(map.clone(), entries)
        }
        _ => Err(operands(call)),
    }
}

/// Where the left operand has the operator, upstream does not say more.
fn operands(call: &Call<'_, '_>) -> Error {
    match call.arguments.first() {
        Some(Value::Bool(_) | Value::Null | Value::Map(_) | Value::Opaque(_) | Value::Optional(_)) => {
            call.no_overload()
        }
        _ => Error::no_overload(),
    }
}

fn overflow() -> Error {
    Error::failed("integer overflow")
}

fn index<'a>(of: &Value<'a>, key: &Value<'a>) -> Result<Value<'a>> {
    match (of, of.get(key)?) {
        (Value::Optional(_), found) => Ok(Value::Optional(found.map(Rc::new))),
        (_, Some(found)) => Ok(found),
        (Value::List(_), None) => Err(Error::failed(format!("index out of bounds: {}", shown(key)))),
        (_, None) => Err(Error::failed(format!("no such key: {}", shown(key)))),
    }
}

/// A key as Go prints it.
pub(in crate::cel) fn shown(key: &Value<'_>) -> String {
    match key {
        Value::String(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => super::conversion::double_text(*number),
        Value::Bool(value) => value.to_string(),
        other => other.type_name().to_owned(),
    }
}

/// The entries that a fold adds to its map: a key and its value, or those of a map.
pub(in crate::cel) fn entries<'a>(added: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>> {
    match added {
        [key, value] => Ok(vec![(key.clone(), value.clone())]),
        [Value::Map(more)] => {
            let mut entries = Vec::new();
            for key in more.keys() {
                if let Some(value) = more.get(&key)? {
                    entries.push((key, value));
                }
            }
            Ok(entries)
        }
        _ => Err(Error::no_overload()),
    }
}

/// The map with more entries. It is copied only where somebody else holds it too.
pub(in crate::cel) fn insert<'a>(map: Map<'a>, more: Vec<(Value<'a>, Value<'a>)>) -> Result<Value<'a>> {
    let Map::Made(mut entries) = map else { return Err(Error::no_overload()) };
    let all = Rc::make_mut(&mut entries);
    for (key, value) in more {
        if all.iter().any(|(known, _)| equal(known, &key)) {
            return Err(Error::failed(format!("insert failed: key {} already exists", shown(&key))));
        }
        all.push((key, value));
    }
    Ok(Value::Map(Map::Made(entries)))
}

fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Option<Result<Value<'a>>> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => {
            a.checked_add(*b).map(Value::Uint).ok_or_else(|| Error::failed("unsigned integer overflow"))
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&**a, &**b].concat().into())),
        (Value::List(a), Value::List(b)) => concat(a, b),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(|| Error::failed("duration overflow"))
        }
        (Value::Timestamp(at), Value::Duration(span)) | (Value::Duration(span), Value::Timestamp(at)) => {
            moved(*at, *span)
        }
        _ => return None,
    })
}

/// A set keeps its order and takes in what is new; the entries of a list of type map are replaced by their keys.
fn concat<'a>(a: &List<'a>, b: &List<'a>) -> Result<Value<'a>> {
    let mut all = a.elements()?;
    let more = b.elements()?;
    let node = a.node();
    let keys = node.and_then(|node| node.map_keys());
    match node {
        Some(node) if node.is_set() || keys.is_some() => {
            let mut index = Index::new(keys, all, &more);
            more.into_iter().for_each(|element| index.put(element));
            // What is added to this again, or compared with it, finds the same type.
            Ok(Value::List(List::Merged(Rc::new(index.into_all()), node)))
        }
        _ => {
            all.extend(more);
            Ok(Value::list(all))
        }
    }
}

fn moved<'a>(at: Timestamp, nanos: i64) -> Result<Value<'a>> {
    let moved = at.checked_add(SignedDuration::from_nanos(nanos)).ok();
    moved
        .filter(|at| (MIN_SECOND..=MAX_SECOND).contains(&at.as_second()))
        .map(Value::Timestamp)
        .ok_or_else(|| Error::failed("timestamp overflow"))
}

fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Option<Result<Value<'a>>> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => {
            a.checked_sub(*b).map(Value::Uint).ok_or_else(|| Error::failed("unsigned integer overflow"))
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(|| Error::failed("duration overflow"))
        }
        (Value::Timestamp(at), Value::Duration(span)) => match span.checked_neg() {
            Some(span) => moved(*at, span),
            None => Err(Error::failed("timestamp overflow")),
        },
        (Value::Timestamp(a), Value::Timestamp(b)) => i64::try_from(a.duration_since(*b).as_nanos())
            .map(Value::Duration)
            .map_err(|_| Error::failed("timestamp overflow")),
        _ => return None,
    })
}

fn multiply<'a>(function: &str, a: &Value<'a>, b: &Value<'a>) -> Option<Result<Value<'a>>> {
    let zero = || Error::failed(if function == "_%_" { "modulus by zero" } else { "division by zero" });
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => match function {
            "_*_" => a.checked_mul(*b).map(Value::Int).ok_or_else(overflow),
            _ if *b == 0 => Err(zero()),
            "_/_" => a.checked_div(*b).map(Value::Int).ok_or_else(overflow),
            _ => a.checked_rem(*b).map(Value::Int).ok_or_else(overflow),
        },
        (Value::Uint(a), Value::Uint(b)) => match function {
            "_*_" => {
                a.checked_mul(*b).map(Value::Uint).ok_or_else(|| Error::failed("unsigned integer overflow"))
            }
            _ if *b == 0 => Err(zero()),
            "_/_" => Ok(Value::Uint(a / b)),
            _ => Ok(Value::Uint(a % b)),
        },
        (Value::Double(a), Value::Double(b)) if function != "_%_" => {
            Ok(Value::Double(if function == "_*_" { a * b } else { a / b }))
        }
        _ => return None,
    })
}
