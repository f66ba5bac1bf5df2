//! JSONPath as printer columns use it: fields, quoted fields, `..`, indices, slices, unions, `[*]`, and filters that compare
//! paths below an element with each other and with literals.
//! Upstream: client-go/util/jsonpath.

use std::cmp::Ordering;

use serde_json::Value;

/// Characters of a path, and filters within filters, that are read; more is no path. Definitions are written by clients, and
/// reading a filter goes as deep as it does.
const MAX_LENGTH: usize = 4096;
const MAX_FILTERS: usize = 16;
/// Values that a step may find: unions and descents can name one again and again.
const MAX_FOUND: usize = 10_000;

/// A path. The default finds nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct JsonPath(Option<Vec<Step>>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    All,
    /// The value itself and all that is below it.
    Below,
    Union(Vec<Step>),
    Filter {
        left: Operand,
        compared: Option<(Operator, Operand)>,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl JsonPath {
    /// Reads `.spec.a`; `None` where it is no path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH || text.matches("?(").count() > MAX_FILTERS {
            return None;
        }
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        steps(text.strip_prefix('$').unwrap_or(text)).map(|steps| Self(Some(steps)))
    }

    /// The values that the path leads to.
    pub(super) fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let Some(steps) = &self.0 else { return Vec::new() };
        let mut found = walk(steps, root);
        found.retain(|value| !value.is_null());
        found
    }
}

fn steps(mut rest: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(&after[..end])?);
            rest = &after[end + 1..];
            continue;
        }
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Below);
            rest = after;
            if rest.starts_with('[') {
                continue;
            }
        }
        let (name, left) = field(rest.strip_prefix('.').unwrap_or(rest));
        if name.is_empty() {
            return None;
        }
        steps.push(if name == "*" { Step::All } else { Step::Field(name) });
        rest = left;
    }
    Some(steps)
}

fn walk<'a>(steps: &[Step], root: &'a Value) -> Vec<&'a Value> {
    steps.iter().fold(vec![root], |found, step| {
        found.into_iter().flat_map(|value| step.apply(value)).take(MAX_FOUND).collect()
    })
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let length = i64::try_from(list.len()).unwrap_or(0);
        let from_start = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(at) => {
                usize::try_from(from_start(*at)).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            Self::Slice { start, end, step } => {
                let bound = |at: Option<i64>, absent: i64| from_start(at.unwrap_or(absent)).clamp(0, length);
                let (start, end) = (bound(*start, 0), bound(*end, length));
                // Both are within the list, and the step is above zero.
                let taken = usize::try_from(end - start).unwrap_or(0);
                let (start, step) =
                    (usize::try_from(start).unwrap_or(0), usize::try_from(*step).unwrap_or(1));
                list.iter().skip(start).take(taken).step_by(step.max(1)).collect()
            }
            Self::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(members) => members.values().collect(),
                _ => Vec::new(),
            },
            Self::Below => {
                let mut found = Vec::new();
                below(value, &mut found);
                found
            }
            Self::Union(steps) => steps.iter().flat_map(|step| step.apply(value)).collect(),
            Self::Filter { left, compared } => {
                list.iter().filter(|item| holds(left, compared, item)).collect()
            }
        }
    }
}

/// Everything that has members or elements, from the outside in. The depth of stored objects is bounded.
fn below<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Array(list) if !list.is_empty() => {
            found.push(value);
            list.iter().for_each(|item| below(item, found));
        }
        Value::Object(members) if !members.is_empty() => {
            found.push(value);
            members.values().for_each(|member| below(member, found));
        }
        _ => {}
    }
}

fn holds(left: &Operand, compared: &Option<(Operator, Operand)>, item: &Value) -> bool {
    let Some(one) = left.of(item) else { return false };
    let Some((operator, right)) = compared else { return true };
    let Some(other) = right.of(item) else { return false };
    let Some(order) = order(one, other) else { return false };
    match operator {
        Operator::Equal => order == Ordering::Equal,
        Operator::Unequal => order != Ordering::Equal,
        Operator::Less => order == Ordering::Less,
        Operator::AtMost => order != Ordering::Greater,
        Operator::Greater => order == Ordering::Greater,
        Operator::AtLeast => order != Ordering::Less,
    }
}

/// How two values of one type compare; `None` for those that do not.
fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Number(one), Value::Number(other)) => one.as_f64()?.partial_cmp(&other.as_f64()?),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

impl Operand {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix('@') {
            return steps(path).map(Self::Path);
        }
        let literal = match unquoted(text) {
            Some(text) => Value::from(text),
            None => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        };
        Some(Self::Literal(literal))
    }

    /// The first value of a path below `item`, or the literal.
    fn of<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Path(steps) => walk(steps, item).into_iter().next(),
            Self::Literal(value) => Some(value),
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

/// The places of characters outside of quotes and of brackets within, and the characters.
fn outer(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut depth) = (None, 0_usize);
    text.char_indices().filter(move |(_, character)| {
        match (quote, character) {
            (Some(open), _) => {
                if open == *character {
                    quote = None;
                }
                return false;
            }
            (None, '\'' | '"') => quote = Some(*character),
            (None, '[') => depth += 1,
            (None, ']') if depth > 0 => {
                depth -= 1;
                return false;
            }
            _ => {}
        }
        depth == 0 && quote.is_none()
    })
}

/// Where the bracket closes.
fn closing(text: &str) -> Option<usize> {
    outer(text).find(|(_, character)| *character == ']').map(|(at, _)| at)
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

fn bracket(text: &str) -> Option<Step> {
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_of(filter);
    }
    let commas: Vec<usize> =
        outer(text).filter(|(_, character)| *character == ',').map(|(at, _)| at).collect();
    if !commas.is_empty() {
        let (mut parts, mut start) = (Vec::new(), 0);
        for end in commas.into_iter().chain([text.len()]) {
            parts.push(bracket(text[start..end].trim())?);
            start = end + 1;
        }
        return Some(Step::Union(parts));
    }
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquoted(text) {
        return Some(Step::Field(name.to_owned()));
    }
    if !text.contains(':') {
        return text.parse().ok().map(Step::Index);
    }
    let number = |text: &str| match text.trim() {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    };
    let mut parts = text.splitn(3, ':').map(number);
    let (start, end) = (parts.next()??, parts.next()??);
    let step = parts.next().unwrap_or(Some(None))?.unwrap_or(1);
    (step > 0).then_some(Step::Slice { start, end, step })
}

fn filter_of(text: &str) -> Option<Step> {
    let is_operator = |character: char| matches!(character, '=' | '!' | '<' | '>');
    let Some((at, _)) = outer(text).find(|(_, character)| is_operator(*character)) else {
        return Some(Step::Filter { left: Operand::parse(text)?, compared: None });
    };
    let rest = &text[at..];
    let end = rest.find(|character| !is_operator(character)).unwrap_or(rest.len());
    let operator = match &rest[..end] {
        "==" => Operator::Equal,
        "!=" => Operator::Unequal,
        "<" => Operator::Less,
        "<=" => Operator::AtMost,
        ">" => Operator::Greater,
        ">=" => Operator::AtLeast,
        _ => return None,
    };
    let compared = Some((operator, Operand::parse(&rest[end..])?));
    Some(Step::Filter { left: Operand::parse(&text[..at])?, compared })
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
    fn what_a_path_may_cost_is_bounded() {
        assert_eq!(JsonPath::parse(&".a[?(@".repeat(10_000)), None);
        assert_eq!(JsonPath::parse(&format!(".{}", "a".repeat(5000))), None);
        let again = JsonPath::parse(&format!("{}.x", "['a','a']".repeat(60))).unwrap();
        let mut object = json!({"x": 1});
        for _ in 0..60 {
            object = json!({"a": object});
        }
        assert_eq!(again.find(&object).len(), MAX_FOUND);
    }

    #[test]
    fn paths_find_what_upstreams_find() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x", "d": "y"}},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "count": 3, "wanted": 5, "on": true, "tags": ["x"]},
                {"type": "Other", "status": "False", "count": 10, "wanted": 10, "note": "n"},
                {"type": "Last", "status": "True", "count": 4.5, "wanted": 1, "on": false},
            ]},
        });
        let types = |filter: &str| format!(".status.conditions{filter}.type");
        for (path, want) in [
            (types("[0]"), vec!["Ready"]),
            (types("[-1]"), vec!["Last"]),
            (types("[7]"), vec![]),
            (types("[*]"), vec!["Ready", "Other", "Last"]),
            (types("[0:2]"), vec!["Ready", "Other"]),
            (types("[1:]"), vec!["Other", "Last"]),
            (types("[:-1]"), vec!["Ready", "Other"]),
            (types("[::2]"), vec!["Ready", "Last"]),
            (types("[-2:9]"), vec!["Other", "Last"]),
            (types("[2:1]"), vec![]),
            (types("[0,2]"), vec!["Ready", "Last"]),
            (types("[2,-3]"), vec!["Last", "Ready"]),
            (r#".status.conditions[?(@.type=="Ready")].status"#.to_owned(), vec!["True"]),
            (types("[?(@.type!='Ready')]"), vec!["Other", "Last"]),
            (types("[?(@.count>3)]"), vec!["Other", "Last"]),
            (types("[?(@.count >= 3)]"), vec!["Ready", "Other", "Last"]),
            (types("[?(@.count<4.5)]"), vec!["Ready"]),
            (types("[?(@.count<=4.5)]"), vec!["Ready", "Last"]),
            (types("[?(@.count==@.wanted)]"), vec!["Other"]),
            (types("[?(@.on==true)]"), vec!["Ready"]),
            (types("[?(@.note)]"), vec!["Other"]),
            (types("[?(@.tags[0]=='x')]"), vec!["Ready"]),
            (types("[?(@.type=='a]b')]"), vec![]),
            ("..note".to_owned(), vec!["n"]),
            (".status..type".to_owned(), vec!["Ready", "Other", "Last"]),
            ("..conditions[1].type".to_owned(), vec!["Other"]),
            (r".metadata.annotations.a\.b/c".to_owned(), vec!["x"]),
            (".metadata.annotations['a.b/c']".to_owned(), vec!["x"]),
            (".metadata.annotations['d','a.b/c']".to_owned(), vec!["y", "x"]),
            ("{.metadata.annotations.*}".to_owned(), vec!["x", "y"]),
            (".metadata.absent".to_owned(), vec![]),
        ] {
            let found = JsonPath::parse(&path).unwrap_or_else(|| panic!("{path} is a path"));
            let found: Vec<_> = found.find(&object).into_iter().map(|v| v.as_str().unwrap()).collect();
            assert_eq!(found, want, "{path}");
        }
        for none in [".a[", ".a[x]", ".a[?(@.b=<3)]", ".a[1:2:0]", ".a[1:x]", "..", ".a..", ".a[1,]"] {
            assert_eq!(JsonPath::parse(none), None, "{none}");
        }
        assert_eq!(pointer(".spec.replicas"), "/spec/replicas");
    }
}
