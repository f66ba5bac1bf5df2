//! YAML request bodies to JSON.
//! Reads the first document of a body. Keys become texts, as JSON demands.
//! Known difference from upstream: its YAML 1.1 reader takes unquoted `yes`, `no`, `on` and `off` for booleans; here
//! they are texts, as YAML 1.2 and almost every author means them. kubectl converts to JSON on its own side.
//! Upstream: sigs.k8s.io/yaml.

use api::Status;
use serde::Deserialize as _;
use serde_json::{Map, Number, Value};
use serde_yaml_ng::Value as Yaml;

use crate::json::MAX_KEPT_DEPTH;

/// Converts one YAML document to JSON. Nesting and aliases are bounded by the reader.
pub fn yaml_to_json(body: &[u8]) -> Result<Vec<u8>, Status> {
    let refuse = |error: &dyn std::fmt::Display| {
        Status::bad_request(format!("error converting YAML to JSON: yaml: {error}"))
    };
    if bracket_depth(body) > MAX_KEPT_DEPTH {
        return Err(refuse(&"exceeded max depth"));
    }
    let document = serde_yaml_ng::Deserializer::from_slice(body).next();
    let yaml = document.map_or(Ok(Yaml::Null), Yaml::deserialize).map_err(|error| refuse(&error))?;
    let value = convert(yaml).map_err(|error| refuse(&error))?;
    serde_json::to_vec(&value).map_err(Status::internal)
}

/// How deeply brackets nest, quoted or not. The reader's time is the product of length and nesting, and it looks at
/// nesting only afterwards; text that opens this many brackets and leaves them open is no manifest.
fn bracket_depth(body: &[u8]) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for byte in body {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Recursion is bounded: the reader refuses nesting deeper than 128.
fn convert(yaml: Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(flag),
        Yaml::Number(number) => Value::Number(convert_number(&number)?),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(list) => Value::Array(list.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, value) in mapping {
                object.insert(convert_key(key)?, convert(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => convert(tagged.value)?,
    })
}

fn convert_number(number: &serde_yaml_ng::Number) -> Result<Number, String> {
    if let Some(whole) = number.as_i64() {
        return Ok(whole.into());
    }
    if let Some(whole) = number.as_u64() {
        return Ok(whole.into());
    }
    number.as_f64().and_then(Number::from_f64).ok_or_else(|| format!("json: unsupported value: {number}"))
}

fn convert_key(key: Yaml) -> Result<String, String> {
    match key {
        Yaml::String(text) => Ok(text),
        Yaml::Number(number) => Ok(number.to_string()),
        Yaml::Bool(flag) => Ok(flag.to_string()),
        Yaml::Null => Ok("null".into()),
        _ => Err("a key that is neither text, number nor boolean".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(yaml: &str) -> Result<Value, String> {
        let json = yaml_to_json(yaml.as_bytes()).map_err(|status| {
            assert_eq!(status.code, 400);
            status.message
        })?;
        Ok(serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn documents() {
        let cases = [
            ("a: 1\nb: [x, \"2\", 3.5, true, null]\n", json!({"a": 1, "b": ["x", "2", 3.5, true, null]})),
            ("1: a\ntrue: b\n", json!({"1": "a", "true": "b"})),
            ("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}})),
            ("a: |\n  two\n  lines\n", json!({"a": "two\nlines\n"})),
            ("---\na: 1\n---\nb: 2\n", json!({"a": 1})),
            ("{\"json\": [1]}", json!({"json": [1]})),
            ("", json!(null)),
        ];
        for (yaml, expected) in cases {
            assert_eq!(read(yaml), Ok(expected), "{yaml}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for yaml in ["a: [", "a: b: c", "a: .inf", "{[1]: 2}", "a: 1\na: 2\n"] {
            let message = read(yaml).unwrap_err();
            assert!(message.starts_with("error converting YAML to JSON: yaml: "), "{yaml}: {message}");
        }
        let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).is_err());
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(read(&bomb).is_err());
    }
}
