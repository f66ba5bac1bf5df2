//! Rules of a structural schema (`x-kubernetes-validations`): compiled once, evaluated over a resource and its past.
//! Values that an update leaves as they were are not refused anew (ratcheting), unless a rule compares with the past.
//! Not here: what a rule may be (`rules/checks`), the language (`cel`).
//! Upstream: apiextensions-apiserver `pkg/apiserver/schema/cel/validation.go`.

mod checks;

use std::collections::{BTreeMap, HashMap};

use api::field::{self, ErrorList, Path};
use serde_json::{Map, Value as Json};

use super::{Node, Structural, part};
use crate::cel::value::from_node;
use crate::cel::{
    self, Bindings, CALL_LIMIT, Declared, Error, MAX_MESSAGE_SIZE, Program, Scope, Type, Value,
};

/// What the rules of one resource may cost together (upstream's RuntimeCELCostBudget).
pub(super) const BUDGET: i64 = 10_000_000;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// A rule as written.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    rule: String,
    message: String,
    message_expression: String,
    reason: Option<String>,
    field_path: String,
    optional_old: bool,
    /// As JSON, for messages about the rule itself.
    written: Json,
}

/// A rule that can be evaluated.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    program: Result<Program, String>,
    message: Option<Result<Program, String>>,
    uses_old: bool,
}

impl Rule {
    pub(super) fn parse(schema: &Map<String, Json>) -> Vec<Self> {
        let rules = part(schema, "x-kubernetes-validations").and_then(Json::as_array);
        let text = |rule: &Json, name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        let read = |rule: &Json| Self {
            rule: text(rule, "rule"),
            message: text(rule, "message"),
            message_expression: text(rule, "messageExpression"),
            reason: rule["reason"].as_str().map(str::to_owned),
            field_path: text(rule, "fieldPath"),
            optional_old: rule["optionalOldSelf"] == true,
            written: rule.clone(),
        };
        rules.into_iter().flatten().map(read).collect()
    }

    /// What messages call the rule.
    fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    fn compile(&self, declared: &Declared) -> Compiled {
        let mut scope = Scope::default();
        let old = match self.optional_old {
            true => Type::optional(declared.kind().clone()),
            false => declared.kind().clone(),
        };
        scope.variables.insert("self".to_owned(), declared.kind().clone());
        scope.variables.insert("oldSelf".to_owned(), old);
        let failed = |error: cel::CompileError| format!("compilation failed: {error}");
        let program = match cel::compile(&self.rule, &scope).map_err(failed) {
            Ok(program) if matches!(program.result_type(), Type::Bool) => Ok(program),
            Ok(_) => Err("cel expression must evaluate to a bool".to_owned()),
            Err(error) => Err(error),
        };
        let message = (!self.message_expression.trim().is_empty()).then(|| {
            let failed = |error: cel::CompileError| format!("messageExpression compilation failed: {error}");
            match cel::compile(&self.message_expression, &scope).map_err(failed) {
                Ok(program) if matches!(program.result_type(), Type::String) => Ok(program),
                Ok(_) => Err("messageExpression must evaluate to a string".to_owned()),
                Err(error) => Err(error),
            }
        });
        let uses_old = program.as_ref().is_ok_and(|program| program.mentions("oldSelf"));
        Compiled { program, message, uses_old }
    }
}

impl Node {
    /// Notes, here and below, where there are rules and where there are embedded resources: whether there are any.
    pub(super) fn note_below(&mut self) -> (bool, bool) {
        self.has_rules = !self.rules.is_empty() || self.all_of.iter().any(|one| !one.rules.is_empty());
        self.embeds = self.embedded_resource;
        let additional = match &mut self.additional {
            Some(super::Additional::Schema(schema)) => Some(&mut **schema),
            _ => None,
        };
        for node in self.properties.values_mut().chain(additional).chain(self.items.as_deref_mut()) {
            let (rules, embeds) = node.note_below();
            self.has_rules |= rules;
            self.embeds |= embeds;
        }
        (self.has_rules, self.embeds)
    }

    /// Whether there is a rule here or below.
    pub(super) fn has_rules(&self) -> bool {
        self.has_rules
    }

    /// The rules of `from` (this node, or a part of its `allOf`), compiled for the type of this node.
    fn compiled<'n>(&self, from: &'n Self) -> &'n [Compiled] {
        from.compiled.get_or_init(|| match Declared::of_node(self, "selfType") {
            Some(declared) => from.rules.iter().map(|rule| rule.compile(&declared)).collect(),
            None => Vec::new(),
        })
    }

    fn type_name(&self) -> &'static str {
        use super::Type;
        match self.r#type {
            Some(Type::Object) => "object",
            Some(Type::Array) => "array",
            Some(Type::String) => "string",
            Some(Type::Integer) => "integer",
            Some(Type::Number) => "number",
            Some(Type::Boolean) => "boolean",
            None if self.embedded_resource => "object",
            None => "",
        }
    }
}

impl Structural {
    /// What the rules say of a resource, and of what it was before.
    pub(super) fn evaluate_rules(&self, new: &Json, old: Option<&Json>) -> ErrorList {
        if !self.root.has_rules {
            return ErrorList::new();
        }
        let mut evaluation = Evaluation { errors: ErrorList::new(), budget: BUDGET };
        evaluation.walk(&self.root, &Path::root(), true, new, old, false);
        evaluation.errors
    }
}

/// What the rules say of a default at `path`, as a value that is new and as one that stays, and what is left of
/// `budget` (negative: nothing more may be evaluated).
pub(super) fn of_default(node: &Node, path: &Path, value: &Json, budget: i64) -> (ErrorList, i64) {
    if !node.has_rules || budget < 0 {
        return (ErrorList::new(), budget);
    }
    let mut evaluation = Evaluation { errors: ErrorList::new(), budget };
    // First for the rules that compare; of the others none is heard here, as nothing changes.
    evaluation.walk(node, path, false, value, Some(value), false);
    if !evaluation.errors.is_empty() {
        return (evaluation.errors, evaluation.budget);
    }
    let mut fresh = Evaluation { errors: ErrorList::new(), budget };
    fresh.walk(node, path, false, value, None, false);
    (fresh.errors, fresh.budget.min(evaluation.budget))
}

struct Evaluation {
    errors: ErrorList,
    /// Negative: nothing more is evaluated.
    budget: i64,
}

impl Evaluation {
    /// `unchanged`: something above is as it was.
    fn walk(
        &mut self,
        node: &Node,
        path: &Path,
        root: bool,
        new: &Json,
        old: Option<&Json>,
        unchanged: bool,
    ) {
        if !node.has_rules || new.is_null() || self.budget < 0 {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        let unchanged = unchanged || old.is_some_and(|old| old == new);
        self.rules(node, node, path, root, new, old, unchanged);
        for part in &node.all_of {
            self.rules(node, part, path, root, new, old, false);
        }
        match new {
            Json::Object(object) => {
                let past = old.and_then(Json::as_object).filter(|_| !node.atomic);
                for (name, member) in object {
                    let Some(schema) = node.member(name) else { continue };
                    let past = past.and_then(|past| past.get(name));
                    let below = match (node.names(name), root) {
                        (true, true) => Path::new(name.clone()),
                        (true, false) => path.child(name.clone()),
                        (false, _) => path.key(name.clone()),
                    };
                    let kept = unchanged && !(root && matches!(name.as_str(), "apiVersion" | "kind"));
                    self.walk(schema, &below, false, member, past, kept);
                }
            }
            Json::Array(list) => {
                let Some(items) = &node.items else { return };
                let keys = node.map_keys();
                // The former elements by the text of their keys, the first of each.
                let identity = |element: &Json| -> String {
                    let values: Vec<_> = keys.iter().flatten().map(|key| element.get(key)).collect();
                    serde_json::json!(values).to_string()
                };
                let mut past = HashMap::new();
                if keys.is_some() {
                    for element in old.and_then(Json::as_array).into_iter().flatten() {
                        past.entry(identity(element)).or_insert(element);
                    }
                }
                for (index, element) in list.iter().enumerate() {
                    let past = past.get(&identity(element)).copied();
                    self.walk(items, &path.index(index), false, element, past, unchanged);
                }
            }
            _ => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one place in the schema, the path and the two objects")]
    fn rules(
        &mut self,
        node: &Node,
        from: &Node,
        path: &Path,
        root: bool,
        new: &Json,
        old: Option<&Json>,
        unchanged: bool,
    ) {
        // Upstream has no path to give for the root.
        let at = if root { Path::new("<nil>") } else { path.clone() };
        for (rule, compiled) in from.rules.iter().zip(node.compiled(from)) {
            if self.budget < 0 {
                return;
            }
            if compiled.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let outcome = self.rule(node, rule, compiled, new, old);
            let detail = match outcome {
                Ok(None) => continue,
                Ok(Some(detail)) => detail,
                Err(detail) => {
                    self.errors.push(field::invalid(&at, node.type_name(), detail));
                    continue;
                }
            };
            if unchanged && !compiled.uses_old {
                continue;
            }
            let at = match (rule.field_path.trim(), root) {
                ("", _) => at.clone(),
                (below, true) => Path::new(checks::normalized(below)),
                (below, false) => path.child(checks::normalized(below)),
            };
            let value = node.type_name();
            self.errors.push(match rule.reason.as_deref() {
                Some("FieldValueForbidden") => field::forbidden(&at, detail),
                Some("FieldValueRequired") => field::required(&at, detail),
                Some("FieldValueDuplicate") => field::duplicate(&at, value),
                _ => field::invalid(&at, value, detail),
            });
        }
    }

    /// `None`: it holds; a text: it does not; an error: it cannot be evaluated.
    fn rule(
        &mut self,
        node: &Node,
        rule: &Rule,
        compiled: &Compiled,
        new: &Json,
        old: Option<&Json>,
    ) -> Result<Option<String>, String> {
        let program = compiled.program.as_ref().map_err(|error| format!("rule compile error: {error}"))?;
        let read = |json| from_node(json, Some(node)).map_err(|error| error.to_string());
        let mut bindings = Bindings(vec![("self", read(new)?)]);
        match (old, rule.optional_old) {
            (Some(old), false) => bindings.0.push(("oldSelf", read(old)?)),
            (Some(old), true) => bindings.0.push(("oldSelf", Value::some(read(old)?))),
            (None, true) => bindings.0.push(("oldSelf", Value::Optional(None))),
            (None, false) => {}
        }
        let outcome = program.evaluate(&bindings, CALL_LIMIT);
        let cost = i64::try_from(outcome.cost).unwrap_or(i64::MAX);
        if cost > self.budget {
            self.budget = -1;
            return Err(OUT_OF_BUDGET.to_owned());
        }
        self.budget -= cost;
        match outcome.value {
            Ok(Value::Bool(true)) => return Ok(None),
            Ok(_) => {}
            Err(error @ Error::CostLimit) => {
                self.budget = -1;
                return Err(format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    rule.shown()
                ));
            }
            Err(error) => {
                let text = error.to_string();
                return Err(match text.starts_with("no such overload") {
                    true => format!(
                        "'{text}': call arguments did not match a supported operator, function or macro signature for \
                         rule: {}",
                        rule.shown()
                    ),
                    false => format!("{text} evaluating rule: {}", rule.shown()),
                });
            }
        }
        if let Some(Ok(program)) = &compiled.message {
            let outcome = program.evaluate(&bindings, CALL_LIMIT);
            let cost = i64::try_from(outcome.cost).unwrap_or(i64::MAX);
            if cost > self.budget {
                self.budget = -1;
                return Err(
                    "messageExpression evaluation failed due to running out of cost budget, no further validation rules \
                     will be run"
                        .to_owned(),
                );
            }
            self.budget -= cost;
            if let Ok(Value::String(text)) = &outcome.value {
                let text = text.trim();
                if !text.is_empty() && text.len() <= MAX_MESSAGE_SIZE && !text.contains('\n') {
                    return Ok(Some(text.to_owned()));
                }
            }
        }
        Ok(Some(match rule.message.is_empty() {
            true => format!("failed rule: {}", rule.shown()),
            false => rule.message.trim().to_owned(),
        }))
    }
}

/// The variables of estimates.
fn estimated(declared: &Declared) -> BTreeMap<String, &Declared> {
    ["self", "oldSelf"].into_iter().map(|name| (name.to_owned(), declared)).collect()
}
