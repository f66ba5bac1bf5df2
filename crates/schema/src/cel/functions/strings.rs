//! Texts; positions are counted in characters.
//! Upstream: cel-go `ext/strings.go`, apiserver `pkg/cel/library/{lists,jsonpatch}.go`.

use super::Call;
use crate::cel::value::{Error, Result, Value, equal};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("contains", [Value::String(text), Value::String(part)]) => Ok(Value::Bool(text.contains(&**part))),
        ("startsWith", [Value::String(text), Value::String(part)]) => {
            Ok(Value::Bool(text.starts_with(&**part)))
        }
        ("endsWith", [Value::String(text), Value::String(part)]) => Ok(Value::Bool(text.ends_with(&**part))),
        ("lowerAscii", [Value::String(text)]) => Ok(Value::text(text.to_ascii_lowercase())),
        ("upperAscii", [Value::String(text)]) => Ok(Value::text(text.to_ascii_uppercase())),
        ("trim", [Value::String(text)]) => Ok(Value::text(text.trim())),
        ("strings.quote", [Value::String(text)]) => Ok(Value::text(quote(text))),
        ("jsonpatch.escapeKey", [Value::String(text)]) => {
            Ok(Value::text(text.replace('~', "~0").replace('/', "~1")))
        }
        ("charAt", [Value::String(text), Value::Int(index)]) => {
            let count = text.chars().count() as i64;
            if *index < 0 || *index > count {
                return Err(out_of_range(*index));
            }
            Ok(Value::text(text.chars().nth(*index as usize).map(String::from).unwrap_or_default()))
        }
        ("indexOf" | "lastIndexOf", [Value::String(text), Value::String(part), rest @ ..]) => {
            index_of(call, text, part, rest)
        }
        ("indexOf", [Value::List(list), wanted]) => {
            let found = list.elements()?.iter().position(|element| equal(element, wanted));
            Ok(Value::Int(found.map_or(-1, |index| index as i64)))
        }
        ("lastIndexOf", [Value::List(list), wanted]) => {
            let found = list.elements()?.iter().rposition(|element| equal(element, wanted));
            Ok(Value::Int(found.map_or(-1, |index| index as i64)))
        }
        ("replace", [Value::String(text), Value::String(from), Value::String(to)]) => {
            Ok(Value::text(text.replace(&**from, to)))
        }
        ("replace", [Value::String(text), Value::String(from), Value::String(to), Value::Int(limit)]) => {
            Ok(Value::text(match usize::try_from(*limit) {
                Ok(limit) => text.replacen(&**from, to, limit),
                Err(_) => text.replace(&**from, to),
            }))
        }
        ("split", [Value::String(text), Value::String(by)]) => Ok(split(text, by, -1)),
        ("split", [Value::String(text), Value::String(by), Value::Int(limit)]) => Ok(split(text, by, *limit)),
        ("substring", [Value::String(text), Value::Int(from)]) => {
            let count = text.chars().count() as i64;
            if *from < 0 || *from > count {
                return Err(out_of_range(*from));
            }
            Ok(Value::text(text.chars().skip(*from as usize).collect::<String>()))
        }
        ("substring", [Value::String(text), Value::Int(from), Value::Int(to)]) => {
            let count = text.chars().count() as i64;
            if from > to {
                return Err(Error::failed(format!("invalid substring range. start: {from}, end: {to}")));
            }
            for index in [*from, *to] {
                if index < 0 || index > count {
                    return Err(out_of_range(index));
                }
            }
            let part: String = text.chars().skip(*from as usize).take((to - from) as usize).collect();
            Ok(Value::text(part))
        }
        ("join", [Value::List(list), rest @ ..]) => {
            let by = match rest {
                [] => "",
                [Value::String(by)] => by,
                _ => return Err(call.no_overload()),
            };
            let mut texts = Vec::new();
            for element in list.elements()? {
                let Value::String(text) = element else { return Err(call.no_overload()) };
                texts.push(text);
            }
            let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
            Ok(Value::text(texts.join(by)))
        }
        _ => Err(call.no_overload()),
    }
}

fn out_of_range(index: i64) -> Error {
    Error::failed(format!("index out of range: {index}"))
}

fn index_of<'a>(call: &Call<'_, 'a>, text: &str, part: &str, rest: &[Value<'a>]) -> Result<Value<'a>> {
    let characters: Vec<char> = text.chars().collect();
    let wanted: Vec<char> = part.chars().collect();
    let last = call.function == "lastIndexOf";
    let offset = match rest {
        [] if last => characters.len() as i64,
        [] => 0,
        [Value::Int(offset)] => *offset,
        _ => return Err(call.no_overload()),
    };
    if wanted.is_empty() {
        return Ok(Value::Int(offset));
    }
    if offset < 0 || (offset >= characters.len() as i64 && !rest.is_empty()) {
        if offset < 0 || offset > characters.len() as i64 {
            return Err(out_of_range(offset));
        }
        return Ok(Value::Int(-1));
    }
    let Some(highest) = characters.len().checked_sub(wanted.len()) else { return Ok(Value::Int(-1)) };
    let matches = |index: &usize| characters[*index..*index + wanted.len()] == wanted[..];
    let offset = offset as usize;
    let found =
        if last { (0..=highest.min(offset)).rev().find(matches) } else { (offset..=highest).find(matches) };
    Ok(Value::Int(found.map_or(-1, |index| index as i64)))
}

fn split<'a>(text: &str, by: &str, limit: i64) -> Value<'a> {
    if limit == 0 {
        return Value::list(Vec::new());
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if by.is_empty() {
        let characters: Vec<char> = text.chars().collect();
        let single = characters.len().min(limit.saturating_sub(1));
        let mut parts: Vec<String> = characters[..single].iter().map(ToString::to_string).collect();
        if single < characters.len() {
            parts.push(characters[single..].iter().collect());
        }
        return Value::list(parts.iter().map(Value::text).collect());
    }
    Value::list(text.splitn(limit, by).map(Value::text).collect())
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
