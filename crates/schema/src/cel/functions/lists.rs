//! Lists and sets.
//! Upstream: apiserver `pkg/cel/library/lists.go`, cel-go `ext/{sets,lists}.go`.

use std::cmp::Ordering;

use super::{Call, operators};
use crate::cel::value::{Error, Result, Value, compare, equal};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("lists.range", [Value::Int(count)]) => {
            // Nothing may be made that costs more than it says.
            if *count > 100_000 {
                return Err(Error::failed("lists.range: too many elements"));
            }
            Ok(Value::list((0..*count).map(Value::Int).collect()))
        }
        (function, [Value::List(list), rest @ ..]) => of_list(call, function, list.elements()?, rest),
        _ => Err(call.no_overload()),
    }
}

/// The most elements that flattening makes.
const FLAT: usize = 1 << 20;

/// Puts the elements of the lists in a list into `flat`, down to a depth. Recursion ends where no list is left: lists nest no
/// deeper than what was decoded and the expression together, but those that expressions make share their parts, so there
/// may be any number of elements.
fn flatten<'a>(all: Vec<Value<'a>>, depth: u64, flat: &mut Vec<Value<'a>>) -> Result<()> {
    for element in all {
        match element {
            Value::List(inner) if depth > 0 => flatten(inner.elements()?, depth - 1, flat)?,
            _ if flat.len() == FLAT => return Err(Error::CostLimit),
            other => flat.push(other),
        }
    }
    Ok(())
}

fn flattened(all: Vec<Value<'_>>, depth: u64) -> Result<Value<'_>> {
    let mut flat = Vec::new();
    flatten(all, depth, &mut flat)?;
    Ok(Value::list(flat))
}

fn of_list<'a>(
    call: &Call<'_, 'a>,
    function: &str,
    mut all: Vec<Value<'a>>,
    rest: &[Value<'a>],
) -> Result<Value<'a>> {
    let contains = |all: &[Value<'a>], wanted: &Value<'a>| all.iter().any(|found| equal(found, wanted));
    match (function, rest) {
        ("sets.contains", [Value::List(part)]) => {
            Ok(Value::Bool(part.elements()?.iter().all(|wanted| contains(&all, wanted))))
        }
        ("sets.equivalent", [Value::List(other)]) => {
            let other = other.elements()?;
            Ok(Value::Bool(
                other.iter().all(|wanted| contains(&all, wanted))
                    && all.iter().all(|wanted| contains(&other, wanted)),
            ))
        }
        ("sets.intersects", [Value::List(other)]) => {
            Ok(Value::Bool(other.elements()?.iter().any(|wanted| contains(&all, wanted))))
        }
        ("isSorted", []) => {
            for pair in all.windows(2) {
                match compare(&pair[0], &pair[1]) {
                    Some(Ordering::Greater) => return Ok(Value::Bool(false)),
                    Some(_) => {}
                    None => return Err(call.no_overload()),
                }
            }
            Ok(Value::Bool(true))
        }
        ("sum", []) => {
            let zero = match call.overload {
                Some("list_uint_sum_uint") => Value::Uint(0),
                Some("list_double_sum_double") => Value::Double(0.0),
                Some("list_duration_sum_duration") => Value::Duration(0),
                _ => Value::Int(0),
            };
            let mut sum = match all.first() {
                None => return Ok(zero),
                Some(_) => all.remove(0),
            };
            for element in all {
                let arguments = [sum, element];
                sum = operators::call(&Call { function: "_+_", overload: None, arguments: &arguments })?;
            }
            Ok(sum)
        }
        ("min" | "max", []) => {
            let wanted = if function == "min" { Ordering::Less } else { Ordering::Greater };
            let mut elements = all.into_iter();
            let Some(mut best) = elements.next() else {
                return Err(Error::failed(format!("{function} called on empty list")));
            };
            for element in elements {
                match compare(&element, &best) {
                    Some(found) if found == wanted => best = element,
                    Some(_) => {}
                    None => return Err(call.no_overload()),
                }
            }
            Ok(best)
        }
        ("distinct", []) => {
            let mut found: Vec<Value<'a>> = Vec::new();
            for element in all {
                if !contains(&found, &element) {
                    found.push(element);
                }
            }
            Ok(Value::list(found))
        }
        ("flatten", []) => flattened(all, 1),
        ("flatten", [Value::Int(depth)]) => match u64::try_from(*depth) {
            Ok(depth) => flattened(all, depth),
            Err(_) => Err(Error::failed("level must be non-negative")),
        },
        ("first", []) => Ok(all.into_iter().next().map_or(Value::Optional(None), Value::some)),
        ("last", []) => Ok(all.pop().map_or(Value::Optional(None), Value::some)),
        ("@sortByAssociatedKeys", [Value::List(keys)]) => {
            let keys = keys.elements()?;
            if keys.len() != all.len() {
                return Err(call.no_overload());
            }
            let comparable = keys.windows(2).all(|pair| compare(&pair[0], &pair[1]).is_some());
            if !comparable {
                return Err(Error::failed("list elements must have the same type"));
            }
            let mut pairs: Vec<_> = keys.into_iter().zip(all).collect();
            pairs.sort_by(|(a, _), (b, _)| compare(a, b).unwrap_or(Ordering::Equal));
            Ok(Value::list(pairs.into_iter().map(|(_, element)| element).collect()))
        }
        ("slice", [Value::Int(from), Value::Int(to)]) => {
            if *from < 0 || *to < 0 {
                let message = format!("cannot slice({from}, {to}), negative indexes not supported");
                return Err(Error::failed(message));
            }
            if from > to {
                return Err(Error::failed(format!(
                    "cannot slice({from}, {to}), start index must be less than or equal to end index"
                )));
            }
            if *to > all.len() as i64 {
                let message = format!("cannot slice({from}, {to}), list is length {}", all.len());
                return Err(Error::failed(message));
            }
            Ok(Value::list(all[*from as usize..*to as usize].to_vec()))
        }
        ("reverse", []) => {
            all.reverse();
            Ok(Value::list(all))
        }
        ("sort", []) => {
            let comparable = all.windows(2).all(|pair| compare(&pair[0], &pair[1]).is_some());
            if !comparable {
                return Err(Error::failed("list elements must have the same type"));
            }
            all.sort_by(|a, b| compare(a, b).unwrap_or(Ordering::Equal));
            Ok(Value::list(all))
        }
        _ => Err(call.no_overload()),
    }
}
