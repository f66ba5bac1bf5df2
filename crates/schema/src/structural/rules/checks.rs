//! Whether the rules of a schema may be accepted: they compile, name fields that there are, and cannot cost too much.
//! Upstream: apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`.

use api::field::{self, ErrorList, Path};

use super::{Declared, Node, Structural, estimated};
use crate::structural::Additional;

/// What one rule may be estimated to cost, over all places where it is evaluated.
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may be estimated to cost together.
const TOTAL_LIMIT: u64 = 100_000_000;
/// The largest request: bounds how often a rule below an unbounded list is evaluated.
const REQUEST: u64 = 3 * 1024 * 1024;

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What ends a line in CEL.
const NEW_LINES: [char; 2] = ['\n', '\r'];

/// A rule's `fieldPath` as errors print it.
pub(super) fn normalized(path: &str) -> String {
    path.trim_start_matches('.').to_owned()
}

impl Structural {
    /// What is wrong with the rules of the schema at `path`.
    pub fn check_rules(&self, path: &Path) -> ErrorList {
        let mut check = Check { errors: ErrorList::new(), total: 0, costs: Vec::new() };
        if self.root.has_rules {
            check.node(&self.root, path, Some(1), None);
        }
        if check.total > TOTAL_LIMIT {
            check.costs.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            for (cost, at) in check.costs.iter().take(4).filter(|(cost, _)| *cost > 1) {
                let share = cost.saturating_mul(100) / check.total.max(1);
                if share >= 1 {
                    let message = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
                    check.errors.push(field::forbidden(at, message));
                }
            }
            let message = too_costly(
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
                check.total,
                TOTAL_LIMIT,
            );
            check.errors.push(field::forbidden(path, message));
        }
        check.errors
    }
}

fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    let excess = cost as f64 / limit as f64;
    let factor = match excess {
        excess if excess > 100.0 => "more than 100x".to_owned(),
        excess if excess < 1.5 => format!("{excess:.6}x"),
        excess => format!("{excess:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

struct Check {
    errors: ErrorList,
    total: u64,
    costs: Vec<(u64, Path)>,
}

impl Check {
    /// `times`: how often values of the node there can be; `None` without a bound. `lost`: where on the way the past
    /// of a value can no longer be found.
    fn node(&mut self, node: &Node, path: &Path, times: Option<u64>, lost: Option<&Path>) {
        if !node.has_rules {
            return;
        }
        for (name, property) in &node.properties {
            let atomic = path.clone();
            let lost = lost.or(node.atomic.then_some(&atomic));
            self.node(property, &path.child("properties").key(name.clone()), times, lost);
        }
        if let Some(Additional::Schema(schema)) = &node.additional {
            let times = times.zip(node.max_properties()).map(|(times, most)| times.saturating_mul(most));
            let atomic = path.clone();
            let lost = lost.or(node.atomic.then_some(&atomic));
            self.node(schema, &path.child("additionalProperties"), times, lost);
        }
        if let Some(items) = &node.items {
            let times = times.zip(node.max_items()).map(|(times, most)| times.saturating_mul(most));
            let here = path.clone();
            let lost = lost.or(node.map_keys().is_none().then_some(&here));
            self.node(items, &path.child("items"), times, lost);
        }
        if !node.rules.is_empty() {
            self.rules(node, path, times, lost);
        }
    }

    fn rules(&mut self, node: &Node, path: &Path, times: Option<u64>, lost: Option<&Path>) {
        let all = path.child("x-kubernetes-validations");
        let Some(declared) = Declared::of_node(node, "selfType") else {
            let message = "rules cannot be set on values whose type is not declared";
            self.errors.push(field::invalid(&all, "", message));
            return;
        };
        for (index, (rule, compiled)) in node.rules.iter().zip(node.compiled(node)).enumerate() {
            let at = all.index(index);
            let (message, text) = (rule.message.trim(), rule.rule.trim());
            if text.is_empty() {
                self.errors.push(field::required(&at.child("rule"), "rule is not specified"));
                continue;
            }
            if !rule.message.is_empty() && message.is_empty() {
                let detail = "message must be non-empty if specified";
                self.errors.push(field::invalid(&at.child("message"), rule.message.clone(), detail));
            } else if message.contains(NEW_LINES) {
                let detail = "message must not contain line breaks";
                self.errors.push(field::invalid(&at.child("message"), rule.message.clone(), detail));
            } else if text.contains(NEW_LINES) && message.is_empty() {
                let detail = "message must be specified if rule contains line breaks";
                self.errors.push(field::required(&at.child("message"), detail));
            }
            if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
                let detail = "messageExpression must be non-empty if specified";
                self.errors.push(field::required(&at.child("messageExpression"), detail));
            }
            if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
                self.errors.push(field::not_supported(&at.child("reason"), reason, &REASONS));
            }
            let field_path = rule.field_path.as_str();
            for (wrong, detail) in [
                (field_path.trim().is_empty(), "fieldPath must be non-empty if specified"),
                (field_path.contains(NEW_LINES), "fieldPath must not contain line breaks"),
                (names_field(node, field_path).is_err(), "fieldPath must be a valid path"),
            ] {
                if wrong && !field_path.is_empty() {
                    self.errors.push(field::invalid(&at.child("fieldPath"), field_path, detail));
                }
            }
            let invalid = |member: &'static str, detail: &str| {
                field::invalid(&at.child(member), rule.written.clone(), detail)
            };
            match &compiled.program {
                Err(detail) => self.errors.push(invalid("rule", detail)),
                Ok(program) => {
                    let often = times.unwrap_or_else(|| REQUEST / declared.min_size().max(1));
                    let cost = program.estimate(&estimated(&declared)).saturating_mul(often);
                    if cost > RULE_LIMIT {
                        let detail = too_costly("estimated rule cost", cost, RULE_LIMIT);
                        self.errors.push(field::forbidden(&at.child("rule"), detail));
                    }
                    self.total = self.total.saturating_add(cost);
                    self.costs.push((cost, at.child("rule")));
                    if let (true, Some(lost)) = (compiled.uses_old, lost) {
                        let detail = format!(
                            "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
                        );
                        self.errors.push(field::invalid(&at.child("rule"), rule.rule.clone(), detail));
                    }
                    if !compiled.uses_old && !rule.written["optionalOldSelf"].is_null() {
                        let detail = "may not be set if oldSelf is not used in rule";
                        let value = rule.written["optionalOldSelf"].clone();
                        self.errors.push(field::invalid(&at.child("optionalOldSelf"), value, detail));
                    }
                }
            }
            if let Some(Err(detail)) = &compiled.message {
                self.errors.push(invalid("messageExpression", detail));
            }
        }
    }
}

/// Whether a path such as `.spec['a']` names a field.
fn names_field(node: &Node, path: &str) -> Result<(), String> {
    let (mut at, mut rest) = (node, path);
    while let Some(first) = rest.chars().next() {
        let (name, after) = match first {
            '.' => {
                let end = rest[1..].find(['.', '[']).map_or(rest.len(), |end| end + 1);
                (rest[1..end].to_owned(), &rest[end..])
            }
            '[' => {
                let inner = rest.strip_prefix("['").ok_or("expected single quoted string")?;
                let (name, after) = inner.split_once("']").ok_or("unexpected end of JSON path")?;
                (name.to_owned(), after)
            }
            _ => return Err(format!("expected [ or . but got: {rest}")),
        };
        if name.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        at = at.member(&name).ok_or("does not refer to a valid field")?;
        rest = after;
    }
    Ok(())
}
