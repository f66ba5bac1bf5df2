//! What YAML becomes, what is found in it, and what is refused.

use serde_json::{Value, json};

use super::*;

fn value(yaml: &str) -> Result<Value, String> {
    let converted = yaml_to_json(yaml.as_bytes()).map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(&converted.json).unwrap())
}

#[test]
fn documents() {
    let cases = [
        ("a: 1\nb: [x, \"2\", 3.5, true, null]\n", json!({"a": 1, "b": ["x", "2", 3.5, true, null]})),
        ("1: a\ntrue: b\n1.5: c\n", json!({"1": "a", "true": "b", "1.5": "c"})),
        ("on: a\n\"on\": b\n", json!({"true": "a", "on": "b"})),
        ("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}})),
        ("a: &x b\n*x : c\n", json!({"a": "b", "b": "c"})),
        ("a: |\n  two\n  lines\n", json!({"a": "two\nlines\n"})),
        ("---\na: 1\n---\nb: 2\n", json!({"a": 1})),
        ("---\na: 1\n...\n", json!({"a": 1})),
        ("a: 1\n--- \n[", json!({"a": 1})),
        ("{\"json\": [1, -2.5e-3, \"\\u00e9\"]}", json!({"json": [1, -0.0025, "é"]})),
        ("\u{feff}a: b", json!({"a": "b"})),
        ("", json!(null)),
        ("# nothing\n", json!(null)),
        ("a:\nb: ~\n", json!({"a": null, "b": null})),
        ("a: 1\na: 2\n", json!({"a": 2})),
    ];
    for (yaml, expected) in cases {
        assert_eq!(value(yaml), Ok(expected), "{yaml}");
    }
}

#[test]
fn plain_scalars_are_of_yaml_1_1() {
    let cases = [
        ("yes", json!(true)),
        ("On", json!(true)),
        ("y", json!(true)),
        ("NO", json!(false)),
        ("off", json!(false)),
        ("yEs", json!("yEs")),
        ("'yes'", json!("yes")),
        ("\"12\"", json!("12")),
        ("~", json!(null)),
        ("Null", json!(null)),
        ("0", json!(0)),
        ("+12", json!(12)),
        ("-12", json!(-12)),
        ("1_000", json!(1000)),
        ("0644", json!(420)),
        ("0o17", json!(15)),
        ("0x1F", json!(31)),
        ("-0x1f", json!(-31)),
        ("0b101", json!(5)),
        ("08", json!(8)),
        ("09.5", json!(9.5)),
        ("1e3", json!(1000)),
        ("1.50", json!(1.5)),
        (".5", json!(0.5)),
        ("5.", json!(5)),
        ("1.", json!(1)),
        ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("+18446744073709551615", json!(18_446_744_073_709_551_615_f64)),
        ("100000000000000000000000", json!(1e23)),
        ("1e999", json!("1e999")),
        ("+-1", json!("+-1")),
        ("0x", json!("0x")),
        ("1e", json!("1e")),
        ("12h", json!("12h")),
        ("10:30", json!("10:30")),
        ("1.2.3", json!("1.2.3")),
        ("2001-01-01", json!("2001-01-01")),
        ("<<", json!("<<")),
        ("!!str 12", json!("12")),
        ("!!int \"12\"", json!(12)),
        ("!!float 1", json!(1)),
        ("!!binary aGk=", json!("hi")),
        ("! 12", json!(12)),
        ("!other x", json!("x")),
    ];
    for (text, expected) in cases {
        assert_eq!(value(&format!("a: {text}\n")), Ok(json!({"a": expected})), "{text}");
    }
}

#[test]
fn merge_keys() {
    let cases = [
        ("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", json!({"b": 1, "c": 3})),
        ("a: &x {b: 1}\ne: &y {b: 2, c: 2}\nd:\n  <<: [*x, *y]\n", json!({"b": 1, "c": 2})),
        ("d:\n  <<: {b: 1}\n", json!({"b": 1})),
        ("d:\n  \"<<\": {b: 1}\n", json!({"<<": {"b": 1}})),
    ];
    for (yaml, expected) in cases {
        assert_eq!(value(yaml).map(|value| value["d"].clone()), Ok(expected), "{yaml}");
    }
}

#[test]
fn keys_given_twice_are_named_with_their_lines() {
    let cases: [(&str, &[&str]); 8] = [
        ("a: 1\na: 2\n", &["line 2: key \"a\" already set in map"]),
        ("\nspec:\n  foo: 1\n  bar: 2\n  foo: 3\n", &["line 5: key \"foo\" already set in map"]),
        ("a: 1\na:\n  b: 2\n", &["line 3: key \"a\" already set in map"]),
        ("a: 1\na:\n- b\n", &["line 3: key \"a\" already set in map"]),
        ("{a: 1,\n\"a\": 2}", &["line 2: key \"a\" already set in map"]),
        (
            "yes: 1\ntrue: 2\n1: a\n0x1: b\n1: c\n",
            &[
                "line 2: key true already set in map",
                "line 4: key 1 already set in map",
                "line 5: key 1 already set in map",
            ],
        ),
        (
            "a: {b: 1, b: 2}\na: 3\n",
            &["line 1: key \"b\" already set in map", "line 2: key \"a\" already set in map"],
        ),
        ("1: a\n\"1\": b\n", &[]),
    ];
    for (yaml, expected) in cases {
        let converted = yaml_to_json(yaml.as_bytes()).unwrap();
        assert_eq!(converted.duplicates, expected, "{yaml}");
    }
    let strict = |yaml: &str| strict_error(&yaml_to_json(yaml.as_bytes()).unwrap().duplicates);
    assert_eq!(strict("a: 1"), None);
    let twice = "yaml: unmarshal errors:\n  line 2: key \"a\" already set in map\n  line 3: key \"a\" already set in map";
    assert_eq!(strict("a: 1\na: 2\na: 3"), Some(twice.to_owned()));
}

#[test]
fn what_is_no_json_is_refused() {
    let cases = [
        ("a: [", "yaml: "),
        ("a: b: c", "yaml: mapping values are not allowed in this context"),
        ("x: y\na: b: c", "yaml: line 2: mapping values are not allowed in this context"),
        ("a: *x", "yaml: "),
        ("a: \u{1}", "yaml: control characters are not allowed"),
        ("a: .inf", "json: unsupported value: +Inf"),
        ("{[1]: 2}", "yaml: line 1: invalid map key"),
        ("~: 2", "unsupported map key of type: %!s(<nil>), key: <nil>"),
        ("a: !!int x", "yaml: cannot decode !!str `x` as a !!int"),
        ("a: !!binary '*'", "yaml: !!binary value contains invalid base64 data"),
        ("<<: 1", "yaml: map merge requires map or sequence of maps as the value"),
        ("a: &x [*x]", "yaml: anchor of line 1: value contains itself"),
        ("a: &x\n  <<: *x", "yaml: anchor of line 1: value contains itself"),
    ];
    for (yaml, message) in cases {
        let error = value(yaml).unwrap_err();
        assert!(error.starts_with(message), "{yaml}: {error}");
    }
    assert!(yaml_to_json(b"a: \xff").is_err());
}

#[test]
fn nesting_and_aliases_are_bounded() {
    let brackets = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let dashes = "- ".repeat(100_000);
    let chain: String = (1..2000).map(|n| format!("a{n}: &a{n} [*a{}]\n", n - 1)).collect();
    for deep in [brackets, dashes, format!("a0: &a0 x\n{chain}")] {
        assert!(value(&deep).is_err());
    }
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(200));
    for bomb in [bomb, text] {
        assert_eq!(value(&bomb).unwrap_err(), "yaml: document contains excessive aliasing");
    }
}
