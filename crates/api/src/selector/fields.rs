//! Field selectors: `metadata.name=web,status.phase!=Running`.
//! Which fields a kind offers stands in its [`crate::kind::Descriptor`]. Upstream: apimachinery `pkg/fields`.

use std::fmt;

/// Why a text is no field selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole selector.
        selector: String,
        /// The term at fault.
        term: String,
    },
    /// A backslash before a character that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
}

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The field, such as `spec.nodeName`.
    pub field: String,
    /// Whether the field must equal the value (or must not).
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// All of its requirements must hold. The empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// Reads the text form, as in the `fieldSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, equal, value) = split_operator(term)
                .ok_or_else(|| Error::Term { selector: text.to_owned(), term: term.to_owned() })?;
            requirements.push(Requirement { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self(requirements))
    }

    /// Selects the objects whose `field` equals `value`.
    pub fn equals(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self(vec![Requirement { field: field.into(), equal: true, value: value.into() }])
    }

    /// The conditions in the order written.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether an object is selected whose fields `field` looks up; an unset field is the empty text.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| {
            (field(&requirement.field).unwrap_or("") == requirement.value) == requirement.equal
        })
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The value a field must have, when the selector fixes it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.equal && r.field == field).map(|requirement| requirement.value.as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.0.iter().enumerate() {
            let separator = if position > 0 { "," } else { "" };
            let operator = if requirement.equal { "=" } else { "!=" };
            let value = requirement.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{separator}{}{operator}{value}", requirement.field)?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (position, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    for (position, _) in term.char_indices() {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[position..].strip_prefix(operator) {
                return Some((&term[..position], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, Error> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => return Err(Error::Escape(format!("\\{next}"))),
                None => return Err(Error::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(Error::Escape(character.to_string())),
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_select() {
        let field = |name: &str| match name {
            "metadata.name" => Some("web"),
            "status.phase" => Some("Running"),
            "a" => Some("x,y=z"),
            _ => None,
        };
        for (text, selected) in [
            ("", true),
            ("metadata.name=web", true),
            ("metadata.name==web,status.phase!=Pending", true),
            ("metadata.name!=web", false),
            ("spec.nodeName=", true),
            (r"a=x\,y\=z", true),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(field), selected, "{text}");
            assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
        assert_eq!(Selector::parse("a=b,metadata.name=web").unwrap().exact("metadata.name"), Some("web"));
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in ["metadata.name", "a=b=c", r"a=\x"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
