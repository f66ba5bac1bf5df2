//! CEL: the input is a JSON value, a zero byte, an expression over it as `self`.

use std::collections::BTreeMap;

use schema::cel::{Bindings, Declared, Scope, Type, compile, value::from_json};

/// Enough for any sensible expression, and over within milliseconds.
const LIMIT: u64 = 50_000;

/// Parses, checks, estimates and evaluates.
pub fn cel(data: &[u8]) {
    let Some([own, source]) = crate::parts(data) else { return };
    let (Ok(own), Ok(source)) =
        (serde_json::from_slice::<serde_json::Value>(own), std::str::from_utf8(source))
    else {
        return;
    };
    let variables = [("self", Type::Dyn), ("l", Type::list(Type::Int)), ("s", Type::String)];
    let variables = variables.into_iter().map(|(name, kind)| (name.to_owned(), kind));
    let scope = Scope { variables: variables.collect(), binds: true, ..Scope::default() };
    let Ok(program) = compile(source, &scope) else { return };
    let _ = program.estimate(&BTreeMap::from([("self".to_owned(), &Declared::dynamic())]));
    let (list, text) = (serde_json::json!([1, 2, 3, 4, 5, 6, 7, 8]), serde_json::json!("héllo, a b c"));
    let bindings =
        Bindings(vec![("self", from_json(&own)), ("l", from_json(&list)), ("s", from_json(&text))]);
    let outcome = program.evaluate(&bindings, LIMIT);
    assert!(outcome.cost <= LIMIT || outcome.value.is_err(), "{} of {source}", outcome.cost);
}
