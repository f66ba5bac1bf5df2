//! Label selectors, from their text form (`app=web,tier in (a,b),!canary`) and from `metav1.LabelSelector`.
//! Upstream: apimachinery `pkg/labels`.

use std::collections::BTreeMap;
use std::fmt;

use crate::meta::LabelSelector;
use crate::names::{is_label_value, is_qualified_name};

/// Why a selector could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text does not follow the grammar.
    #[error("{0}")]
    Grammar(String),
    /// One of the requirements is none.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// An operator of a `LabelSelector` that does not exist.
    #[error("\"{0}\" is not a valid label selector operator")]
    Operator(String),
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is an integer greater than the value.
    GreaterThan,
    /// The label is an integer less than the value.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How to compare.
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<String>,
}

impl Requirement {
    /// Makes a requirement without checking the syntax of key and values.
    pub fn new(key: impl Into<String>, operator: Operator, mut values: Vec<String>) -> Self {
        values.sort();
        values.dedup();
        Self { key: key.into(), operator, values }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|candidate| candidate == value);
        let compare = |test: fn(&i64, &i64) -> bool| {
            let bound = self.values.first().and_then(|bound| bound.parse::<i64>().ok());
            let value = value.and_then(|value| value.parse::<i64>().ok());
            matches!((value, bound), (Some(value), Some(bound)) if test(&value, &bound))
        };
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(i64::gt),
            Operator::LessThan => compare(i64::lt),
        }
    }
}

/// All of its requirements must hold. The empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object: what a missing `LabelSelector` means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Selects objects that have all these labels: the form of Services and ReplicationControllers.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        labels
            .iter()
            .map(|(key, value)| Requirement::new(key, Operator::In, vec![value.clone()]))
            .collect::<Vec<_>>()
            .into()
    }

    /// From the form objects carry. `None` selects nothing, an empty one everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, Error> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements =
            selector.match_labels.as_ref().map(Self::from_map).unwrap_or_default().requirements;
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(Error::Operator(other.to_owned())),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values));
        }
        Ok(requirements.into())
    }

    /// Reads the text form, as in the `labelSelector` parameter.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        if parser.peek().is_none() {
            return Ok(Self::everything());
        }
        if let Some(token) = parser.peek().filter(|token| !begins(token)) {
            return Err(unexpected(token, "!, identifier, or 'end of string'"));
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                None => break,
                Some(",") => match parser.peek() {
                    Some(token) if begins(token) => {}
                    other => return Err(unexpected(other.unwrap_or_default(), "identifier after ','")),
                },
                Some(other) => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
        Ok(requirements.into())
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether an object is selected whose labels `label` looks up.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether no object is selected, whatever its labels.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl From<Vec<Requirement>> for Selector {
    fn from(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        Self { requirements, nothing: false }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&requirement.key, &requirement.values);
            match requirement.operator {
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::In if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::GreaterThan => write!(f, "{key}>{}", values.join(","))?,
                Operator::LessThan => write!(f, "{key}<{}", values.join(","))?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

fn found(token: &str, expected: &str) -> Error {
    Error::Syntax(format!("found '{token}', expected: {expected}"))
}

/// What is wrong between requirements: upstream names no requirement there.
fn unexpected(token: &str, expected: &str) -> Error {
    Error::Grammar(format!("found '{token}', expected: {expected}"))
}

const SPECIAL: &str = "=!(),><";

/// Whether a requirement may begin with it.
fn begins(token: &str) -> bool {
    token == "!" || !token.chars().all(|c| SPECIAL.contains(c))
}

impl<'a> Parser<'a> {
    fn lex(&self) -> Option<(&'a str, &'a str)> {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let first = text.chars().next()?;
        let length = if SPECIAL.contains(first) {
            if ["==", "!="].iter().any(|operator| text.starts_with(operator)) { 2 } else { 1 }
        } else {
            text.find(|c: char| SPECIAL.contains(c) || c.is_ascii_whitespace()).unwrap_or(text.len())
        };
        Some(text.split_at(length))
    }

    fn peek(&self) -> Option<&'a str> {
        self.lex().map(|(token, _)| token)
    }

    fn next(&mut self) -> Option<&'a str> {
        let (token, rest) = self.lex()?;
        self.rest = rest;
        Some(token)
    }

    fn key(&mut self) -> Result<&'a str, Error> {
        match self.next() {
            None => Err(found("", "identifier")),
            Some(token) if token.chars().all(|c| SPECIAL.contains(c)) => Err(found(token, "identifier")),
            Some(token) => check(is_qualified_name(token), "key", token),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        if self.peek() == Some("!") {
            self.next();
            return Ok(Requirement::new(self.key()?, Operator::DoesNotExist, Vec::new()));
        }
        let key = self.key()?;
        let operator = match self.peek() {
            None | Some(",") => return Ok(Requirement::new(key, Operator::Exists, Vec::new())),
            Some("=" | "==") => Operator::In,
            Some("!=") => Operator::NotIn,
            Some("in") => Operator::In,
            Some("notin") => Operator::NotIn,
            Some(">") => Operator::GreaterThan,
            Some("<") => Operator::LessThan,
            Some(other) => return Err(found(other, "in, notin, =, ==, !=, gt, lt")),
        };
        let token = self.next().unwrap_or_default();
        let values = if matches!(token, "in" | "notin") { self.set()? } else { vec![self.value()?] };
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) && values[0].parse::<i64>().is_err()
        {
            return Err(Error::Syntax(format!(
                "values[0]: Invalid value: \"{}\": for 'Gt', 'Lt' operators, the value must be an integer",
                values[0]
            )));
        }
        for value in &values {
            check(is_label_value(value), "values[0]", value)?;
        }
        Ok(Requirement::new(key, operator, values))
    }

    /// A value may be left out: `app=` selects the empty value.
    fn value(&mut self) -> Result<String, Error> {
        match self.peek() {
            None | Some(",") => Ok(String::new()),
            Some(token) if token.chars().all(|c| SPECIAL.contains(c)) => Err(found(token, "identifier")),
            Some(token) => {
                self.next();
                Ok(token.to_owned())
            }
        }
    }

    fn set(&mut self) -> Result<Vec<String>, Error> {
        match self.next() {
            Some("(") => {}
            other => return Err(found(other.unwrap_or_default(), "'('")),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Some("," | ")") => values.push(String::new()),
                Some(token) if !token.chars().all(|c| SPECIAL.contains(c)) => {
                    self.next();
                    values.push(token.to_owned());
                }
                other => return Err(found(other.unwrap_or_default(), "',', ')' or identifier")),
            }
            match self.next() {
                Some(",") => {}
                Some(")") => return Ok(values),
                other => return Err(found(other.unwrap_or_default(), "',' or ')'")),
            }
        }
    }
}

fn check<'a>(messages: Vec<String>, field: &str, token: &'a str) -> Result<&'a str, Error> {
    if messages.is_empty() {
        return Ok(token);
    }
    Err(Error::Syntax(format!(
        "{field}: Invalid value: {}: {}",
        crate::field::quote(token),
        messages.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        for (text, said) in [
            ("==", "found '==', expected: !, identifier, or 'end of string'"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("a,", "found '', expected: identifier after ','"),
            ("a,=b", "found '=', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("!!a", "unable to parse requirement: found '!', expected: identifier"),
            ("a,!", "unable to parse requirement: found '', expected: identifier"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), said, "{text}");
        }
    }

    #[test]
    fn texts_select() {
        let web = labels(&[("app", "web"), ("tier", "a"), ("n", "5")]);
        for (text, selected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=a", true),
            ("app = web , tier = a", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app notin (web)", false),
            ("missing notin (x)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("missing=", false),
            ("tier in (b,)", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&web), selected, "{text}");
        }
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in ["=", "a in", "a in b", "a=b c", "a,,b", "-a", "a=-b", "a>b", "a in (b", "x/y/z"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn printing_reads_back() {
        for text in ["a=b,c in (d,e),!f,g", "a!=b,c>1,d notin (x,y)"] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn none_selects_nothing_and_empty_everything() {
        assert!(!Selector::from_label_selector(None).unwrap().matches(&labels(&[])));
        let empty = LabelSelector::default();
        assert!(Selector::from_label_selector(Some(&empty)).unwrap().matches(&labels(&[])));
        let wrong = LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: "a".into(),
                operator: "in".into(),
                values: None,
            }]),
            ..LabelSelector::default()
        };
        assert!(Selector::from_label_selector(Some(&wrong)).is_err());
    }
}
