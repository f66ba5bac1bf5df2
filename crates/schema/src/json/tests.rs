//! The reader accepts what JSON is, and says as Go does what is not.

use serde_json::json;

use super::*;

fn read(text: &[u8]) -> Result<Value, String> {
    let mut reader = Reader::new(text);
    let value = reader.value(&mut Unobserved).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    let mut skipper = Reader::new(text);
    skipper.skip().expect("what is read can be skipped");
    skipper.end().expect("skipping ends where reading ends");
    Ok(value)
}

#[test]
fn values() {
    let cases: [(&str, Value); 13] = [
        ("null", json!(null)),
        (" true ", json!(true)),
        ("-12", json!(-12)),
        ("1.50", json!(1.5)),
        ("1e3", json!(1000.0)),
        ("9223372036854775808", json!(9223372036854775808.0)),
        (r#""a\n\u00e9\"""#, json!("a\né\"")),
        (r#""\ud83d\ude00""#, json!("😀")),
        (r#""\ud83dx""#, json!("\u{fffd}x")),
        (r#""\ud83dA""#, json!("\u{fffd}A")),
        ("[ ]", json!([])),
        ("[1 , 2]", json!([1, 2])),
        (r#"{ "a" : {"b":[]} , "a": 1 }"#, json!({"a": 1})),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text.as_bytes()), Ok(expected), "{text}");
    }
    assert_eq!(read(b"\"a\xffb\""), Ok(json!("a\u{fffd}b")));
}

#[test]
fn errors_are_worded_as_in_go() {
    let cases: [(&[u8], &str); 21] = [
        (b"", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b"{\"a\"", "unexpected end of JSON input"),
        (b"\"abc", "unexpected end of JSON input"),
        (b"-", "unexpected end of JSON input"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        (b"{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        (b"{\"a\" 1}", "invalid character '1' after object key"),
        (b"{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"1 2", "invalid character '2' after top-level value"),
        (b"nul!", "invalid character '!' in literal null (expecting 'l')"),
        (b"fals ", "invalid character ' ' in literal false (expecting 'e')"),
        (b"\"a\nb\"", "invalid character '\\n' in string literal"),
        (b"\"\\x\"", "invalid character 'x' in string escape code"),
        (b"\"\\u12g\"", "invalid character 'g' in \\u hexadecimal character escape"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid character 'x' in exponent of numeric literal"),
        (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text), Err(expected.into()), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let skip = |text: &str| Reader::new(text.as_bytes()).skip();
    assert_eq!(skip(&nested(MAX_DEPTH)), Ok(()));
    assert_eq!(skip(&nested(MAX_DEPTH + 1)), Err(Error::Depth));
    assert_eq!(skip(&"[".repeat(1_000_000)), Err(Error::Depth));
    let keep = |text: &str| Reader::new(text.as_bytes()).value(&mut Unobserved).map(drop);
    assert_eq!(keep(&nested(MAX_KEPT_DEPTH)), Ok(()));
    assert_eq!(keep(&nested(MAX_KEPT_DEPTH + 1)), Err(Error::Depth));
}
