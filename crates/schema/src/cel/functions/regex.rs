//! Regular expressions.
//! Upstream: cel-go `matches`, apiserver `pkg/cel/library/regex.go`.

use std::num::NonZeroUsize;

use regex::{Regex, RegexBuilder};

use super::Call;
use crate::cel::value::{Error, Result, Value};

/// How much memory one compiled expression may take, in bytes.
const SIZE_LIMIT: usize = 2 * 1024 * 1024;

/// How many compiled expressions a thread keeps: expressions are mostly constants that are used again and again.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

thread_local! {
    static COMPILED: std::cell::RefCell<Vec<(String, Regex)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A compiled expression.
pub(in crate::cel) fn compile(pattern: &str) -> std::result::Result<Regex, regex::Error> {
    let known = COMPILED.with_borrow(|kept| {
        kept.iter().find(|(known, _)| known == pattern).map(|(_, compiled)| compiled.clone())
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let compiled = RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).build()?;
    COMPILED.with_borrow_mut(|kept| {
        if kept.len() >= KEPT.get() {
            kept.remove(0);
        }
        kept.push((pattern.to_owned(), compiled.clone()));
    });
    Ok(compiled)
}

fn compiled(pattern: &str) -> Result<Regex> {
    compile(pattern).map_err(|_| Error::failed(format!("error parsing regexp: `{pattern}`")))
}

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("matches", [Value::String(text), Value::String(pattern)]) => {
            Ok(Value::Bool(compiled(pattern)?.is_match(text)))
        }
        ("find", [Value::String(text), Value::String(pattern)]) => {
            let pattern = compiled(pattern)?;
            Ok(Value::text(pattern.find(text).map_or("", |found| found.as_str())))
        }
        ("findAll", [Value::String(text), Value::String(pattern), rest @ ..]) => {
            let limit = match rest {
                [] => usize::MAX,
                [Value::Int(limit)] => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => return Err(call.no_overload()),
            };
            let pattern = compiled(pattern)?;
            let found =
                pattern.find_iter(text).take(limit).map(|found| Value::text(found.as_str())).collect();
            Ok(Value::list(found))
        }
        _ => Err(call.no_overload()),
    }
}
