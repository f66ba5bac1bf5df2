//! CEL of any text: it compiles or not, evaluates or not, and never costs much more than it may.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schema::cel::{Bindings, Declared, Scope, Type, compile, value::from_json};
use serde_json::json;

/// What one evaluation may cost here.
const LIMIT: u64 = 20_000;

/// Words of the language, so that random sentences are now and then expressions.
const WORDS: [&str; 58] = [
    "self",
    "oldSelf",
    "x",
    "a",
    "b",
    ".",
    ".",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    "!",
    "in",
    "1",
    "0",
    "-9223372036854775808",
    "2u",
    "1.5",
    "'a'",
    "b'\\xff'",
    "r\"[a-z]+\"",
    "true",
    "null",
    "size",
    "map",
    "filter",
    "all",
    "exists",
    "exists_one",
    "has",
    "matches",
    "contains",
    "string",
    "int",
    "duration",
    "timestamp",
    "dyn",
    "lowerAscii",
    "quantity",
    "cel.bind",
];

fn scope() -> Scope {
    let variables = [("self", Type::Dyn), ("oldSelf", Type::list(Type::Int))];
    let variables = variables.into_iter().map(|(name, kind)| (name.to_owned(), kind));
    Scope { variables: variables.collect(), ..Scope::default() }
}

fn sentence() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..24).prop_map(|words| words.concat())
}

/// Folds in folds: these cost much soon.
fn folds() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![Just("oldSelf".to_owned()), Just("self.l".to_owned()), Just("[1, 2, 3]".to_owned())];
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(list, of)| format!("{list}.map(x, {of}.size())")),
            (inner.clone(), inner.clone())
                .prop_map(|(list, of)| format!("{list}.filter(x, {of}.exists(y, y == x))")),
            (inner.clone(), inner).prop_map(|(one, other)| format!("({one} + {other})")),
        ]
    })
}

fn evaluate(source: &str) -> Result<(), TestCaseError> {
    let Ok(program) = compile(source, &scope()) else { return Ok(()) };
    let _ = program.estimate(&BTreeMap::from([("self".to_owned(), &Declared::dynamic())]));
    let own = json!({"a": 1, "b": "x", "l": [1, 2, 3], "m": {"k": [null, true]}});
    let list = json!([1, 2, 3, 4, 5, 6, 7, 8]);
    let bindings = Bindings(vec![("self", from_json(&own)), ("oldSelf", from_json(&list))]);
    let outcome = program.evaluate(&bindings, LIMIT);
    // The call that exceeds the limit is the last.
    prop_assert!(outcome.cost <= LIMIT || outcome.value.is_err(), "{} of {source}", outcome.cost);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(source in "\\PC{0,40}") {
        evaluate(&source)?;
    }

    #[test]
    fn any_sentence_is_evaluated_or_refused(source in sentence()) {
        evaluate(&source)?;
    }

    #[test]
    fn folds_end_at_their_limit(source in folds()) {
        evaluate(&source)?;
    }
}
