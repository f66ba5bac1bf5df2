//! Property names that are no CEL identifiers, and their escaped forms.
//! Upstream: apiserver `pkg/cel/escaping.go`.

use std::borrow::Cow;

/// Words that are escaped as a whole (`in` becomes `__in__`).
const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

const SEQUENCES: [(&str, &str); 4] =
    [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// The name under which a property is selected; `None` if it cannot be.
pub fn escape(property: &str) -> Option<String> {
    let first = property.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if RESERVED.contains(&property) || property == "while" {
        return Some(format!("__{property}__"));
    }
    let mut escaped = String::with_capacity(property.len());
    let mut rest = property;
    while let Some(character) = rest.chars().next() {
        if let Some((from, to)) = SEQUENCES.iter().find(|(from, _)| rest.starts_with(from)) {
            escaped.push_str(to);
            rest = &rest[from.len()..];
        } else if character.is_ascii_alphanumeric() || character == '_' {
            escaped.push(character);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(escaped)
}

/// The property that an escaped name stands for.
pub fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    let inner = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"));
    if let Some(word) = inner.filter(|word| RESERVED.contains(word) || *word == "while") {
        return Cow::Owned(word.to_owned());
    }
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        if let Some((from, to)) = SEQUENCES.iter().find(|(_, to)| rest.starts_with(to)) {
            plain.push_str(from);
            rest = &rest[to.len()..];
        } else {
            let end = rest.char_indices().nth(1).map_or(rest.len(), |(at, _)| at);
            plain.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_back() {
        for (property, escaped) in [
            ("plain", "plain"),
            ("a.b", "a__dot__b"),
            ("a-b/c", "a__dash__b__slash__c"),
            ("__x", "__underscores__x"),
            ("namespace", "__namespace__"),
            ("_a_", "_a_"),
        ] {
            assert_eq!(escape(property).as_deref(), Some(escaped));
            assert_eq!(unescape(escaped), property);
        }
        assert_eq!(escape("a b"), None);
        assert_eq!(escape("1a"), None);
    }
}
