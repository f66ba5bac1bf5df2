//! The part of JSONPath that printer columns use: fields, quoted fields, indices, `[*]` and filters of the form
//! `[?(@.a.b=="c")]`.
//! Upstream: client-go/util/jsonpath.

use serde_json::Value;

/// A path. The default finds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JsonPath(Option<Vec<Step>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, equal: bool, value: String },
}

impl JsonPath {
    /// Reads `.spec.a`; `None` where it uses what is not supported.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
                continue;
            }
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let (name, left) = field(after);
            if name.is_empty() {
                return None;
            }
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = left;
        }
        Some(Self(Some(steps)))
    }

    /// The values that the path leads to.
    pub(super) fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let Some(steps) = &self.0 else { return Vec::new() };
        let mut found = vec![root];
        for step in steps {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found.retain(|value| !value.is_null());
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(at) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let length = i64::try_from(list.len()).unwrap_or(0);
                let at = if *at < 0 { at + length } else { *at };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            Self::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(members) => members.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter { path, equal, value: wanted } => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let matches = |item: &&Value| {
                    let found = path.iter().try_fold(*item, |at, name| at.get(name));
                    let same = match found {
                        Some(Value::String(text)) => text == wanted,
                        Some(other) => other.to_string() == *wanted,
                        None => return false,
                    };
                    same == *equal
                };
                list.iter().filter(matches).collect()
            }
        }
    }
}

/// A field's name, in which a backslash makes a dot part of it, and what follows.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => {
                name.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(character),
        }
    }
    (name, "")
}

/// Where the bracket closes, quotes aside.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, ']') => return Some(at),
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquoted(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (path, equal, value) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((path, value)), _) => (path, true, value),
            (None, Some((path, value))) => (path, false, value),
            (None, None) => return None,
        };
        let path = path.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        let value = value.trim();
        return Some(Step::Filter { path, equal, value: unquoted(value).unwrap_or(value).to_owned() });
    }
    text.parse().ok().map(Step::Index)
}

/// A path of fields only as a JSON pointer.
pub(super) fn pointer(path: &str) -> String {
    let mut rest = path;
    let mut out = String::new();
    while !rest.is_empty() {
        let (name, left) = field(rest.strip_prefix('.').unwrap_or(rest));
        if name.is_empty() {
            break;
        }
        out.push('/');
        out.push_str(&name.replace('~', "~0").replace('/', "~1"));
        rest = left;
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_upstreams_find() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        for (path, want) in [
            (".status.conditions[0].type", vec!["Ready"]),
            (".status.conditions[-1].type", vec!["Other"]),
            (".status.conditions[*].type", vec!["Ready", "Other"]),
            (r#".status.conditions[?(@.type=="Ready")].status"#, vec!["True"]),
            (".status.conditions[?(@.type!='Ready')].status", vec!["False"]),
            (r".metadata.annotations.a\.b/c", vec!["x"]),
            (".metadata.annotations['a.b/c']", vec!["x"]),
            (".metadata.absent", vec![]),
        ] {
            let found: Vec<_> = JsonPath::parse(path)
                .unwrap()
                .find(&object)
                .into_iter()
                .map(|v| v.as_str().unwrap())
                .collect();
            assert_eq!(found, want, "{path}");
        }
        assert_eq!(JsonPath::parse(".a[?(@.b>3)]"), None);
        assert_eq!(pointer(".spec.replicas"), "/spec/replicas");
    }
}
