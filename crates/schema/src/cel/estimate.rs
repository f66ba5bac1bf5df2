//! The most that an evaluation can cost, found out before there is data.
//! Rules are refused by it, so it follows upstream to the unit, its oddities included.
//! Upstream: cel-go `checker/cost.go`, apiserver `pkg/cel/library/cost.go` (`EstimateCallCost`).

mod library;

use std::collections::{BTreeMap, HashMap};

use super::Compiled;
use super::ast::{Comprehension, Expr, ExprKind, Literal};
use super::cost::{LIST, MAP, REGEX, STRUCT, TEXT};
use super::declared::Declared;
use super::parser::macros::{ACCUMULATOR, UNUSED};
use super::types::Type;

/// Bounds of a size or a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub min: u64,
    pub max: u64,
}

const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl Range {
    pub fn fixed(size: u64) -> Self {
        Self { min: size, max: size }
    }

    pub fn add(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    pub fn scaled(self, factor: f64) -> Self {
        // A float beyond the integers becomes the greatest of them.
        let scale = |size: u64| (size as f64 * factor).ceil() as u64;
        Self { min: scale(self.min), max: scale(self.max) }
    }

    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// The sizes of what is in a list or map.
#[derive(Clone, Copy, Debug)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

#[derive(Clone, Debug, Default)]
struct Local {
    path: Vec<String>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What is known of an argument of a call.
#[derive(Clone, Debug)]
pub(super) struct Argument<'c> {
    pub expr: &'c Expr,
    pub kind: &'c Type,
    pub path: Vec<String>,
    pub size: Option<Range>,
}

pub(super) struct Estimator<'c> {
    compiled: &'c Compiled,
    variables: &'c BTreeMap<String, &'c Declared>,
    paths: HashMap<u32, Vec<String>>,
    locals: Vec<(&'c str, Local)>,
    sizes: HashMap<u32, Range>,
    entries: HashMap<u32, Entries>,
}

/// The most that evaluating can cost.
pub(super) fn estimate(compiled: &Compiled, variables: &BTreeMap<String, &Declared>) -> u64 {
    let mut estimator = Estimator {
        compiled,
        variables,
        paths: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    estimator.cost(&compiled.expr).max
}

impl<'c> Estimator<'c> {
    fn kind(&self, expr: &Expr) -> &'c Type {
        &self.compiled.checked.types[expr.id as usize]
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|(known, _)| *known == name).map(|(_, local)| local)
    }

    fn path(&self, expr: &Expr) -> Vec<String> {
        if let ExprKind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn below(&self, expr: &Expr, step: &str) -> Vec<String> {
        let mut path = self.path(expr);
        path.push(step.to_owned());
        path
    }

    /// The size of the value at a path of the variables.
    pub fn size_at(&self, path: &[String]) -> Option<Range> {
        let (root, rest) = path.split_first()?;
        let max = self.variables.get(root)?.max_elements(rest)?;
        Some(Range { min: 0, max })
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(Range::fixed(size));
        }
        let path = self.path(expr);
        if let Some(size) = self.size_at(&path) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.kind(expr).is_scalar() {
            return Some(Range::fixed(1));
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(UNKNOWN)
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn cost(&mut self, expr: &'c Expr) -> Range {
        match &expr.kind {
            ExprKind::Literal(_) => Range::fixed(0),
            ExprKind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![name.clone()],
                };
                self.paths.insert(expr.id, path);
                Range::fixed(1)
            }
            ExprKind::Select { operand, field, test } => {
                let cost = self.cost(operand);
                if *test {
                    return cost;
                }
                let path = self.below(operand, field);
                self.paths.insert(expr.id, path);
                match self.kind(operand) {
                    Type::Map(_) | Type::Object(_) | Type::Var(_) => cost.add(Range::fixed(1)),
                    _ => cost,
                }
            }
            ExprKind::Call { function, target, arguments } => {
                self.call(expr, function, target.as_deref(), arguments)
            }
            ExprKind::List(elements) => {
                let mut sum = Range::fixed(LIST);
                let mut value = Range { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                for (element, _) in elements {
                    sum = sum.add(self.cost(element));
                    value = value.union(self.size_or_unknown(element));
                }
                self.entries.insert(expr.id, Entries { list: true, key: Range::fixed(1), value });
                sum
            }
            ExprKind::Map(entries) => {
                let mut sum = Range::fixed(MAP);
                let none = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut keys, mut values) = (none, none);
                for (key, value, _) in entries {
                    sum = sum.add(self.cost(key)).add(self.cost(value));
                    keys = keys.union(self.size_or_unknown(key));
                    values = values.union(self.size_or_unknown(value));
                }
                self.entries.insert(expr.id, Entries { list: false, key: keys, value: values });
                sum
            }
            ExprKind::Struct { fields, .. } => {
                fields.iter().fold(Range::fixed(STRUCT), |sum, (_, value, _)| sum.add(self.cost(value)))
            }
            ExprKind::Comprehension(fold) if fold.variable == UNUSED => self.bind(expr, fold),
            ExprKind::Comprehension(fold) => self.fold(expr, fold),
        }
    }

    fn push(&mut self, name: &'c str, path: Vec<String>, size: Option<Range>, entries: Option<Entries>) {
        self.locals.push((name, Local { path, size, entries }));
    }

    fn push_local(&mut self, name: &'c str, value: &Expr) {
        let (path, size, entries) = (self.path(value), self.size(value), self.entries(value));
        self.push(name, path, size, entries);
    }

    fn bind(&mut self, expr: &Expr, fold: &'c Comprehension) -> Range {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.initial));
        self.push_local(&fold.accumulator, &fold.initial);
        sum = sum.add(self.cost(&fold.result));
        let (size, entries) = (self.size(&fold.result), self.entries(&fold.result));
        self.locals.pop();
        self.keep(expr, size, entries);
        sum
    }

    fn keep(&mut self, expr: &Expr, size: Option<Range>, entries: Option<Entries>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
    }

    fn fold(&mut self, expr: &Expr, fold: &'c Comprehension) -> Range {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.initial));
        let outside = self.locals.len();
        self.push_local(&fold.accumulator, &fold.initial);
        let entries = self.entries(&fold.range);
        let list = entries.map_or(matches!(self.kind(&fold.range), Type::List(_)), |entries| entries.list);
        let (keys, values) = if list { ("@indices", "@items") } else { ("@keys", "@values") };
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        match &fold.second {
            Some(second) => {
                let (first_path, second_path) =
                    (self.below(&fold.range, keys), self.below(&fold.range, values));
                self.push(&fold.variable, first_path, key, None);
                self.push(second, second_path, value, None);
            }
            None if list => self.push(&fold.variable, self.below(&fold.range, "@items"), value, None),
            None => self.push(&fold.variable, self.below(&fold.range, "@keys"), key, None),
        }
        let once = self.cost(&fold.condition).add(self.cost(&fold.step));
        self.locals.truncate(outside + 1);
        sum = sum.add(self.cost(&fold.result));
        self.locals.truncate(outside);
        let count = self.size_or_unknown(&fold.range);
        sum = sum.add(count.times(once));
        match &fold.initial.kind {
            ExprKind::Literal(_) => {
                let size = self.size(&fold.initial);
                self.keep(expr, size, None);
            }
            ExprKind::List(_) | ExprKind::Map(_) => {
                let entries = self.entries(&fold.step);
                self.keep(expr, Some(count), entries);
            }
            _ => {}
        }
        sum
    }

    fn argument(&mut self, expr: &'c Expr) -> Argument<'c> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|root| root == ACCUMULATOR) {
            path.clear();
        }
        Argument { expr, kind: self.kind(expr), path, size: self.size(expr) }
    }

    fn call(
        &mut self,
        expr: &'c Expr,
        function: &str,
        target: Option<&'c Expr>,
        arguments: &'c [Expr],
    ) -> Range {
        if let ("dyn", [argument]) = (function, arguments) {
            let cost = self.cost(argument).add(Range::fixed(1));
            let (size, entries) = (self.size(argument), self.entries(argument));
            self.keep(expr, size, entries);
            return cost;
        }
        let name = self.compiled.checked.names[expr.id as usize].as_deref();
        let target = if name.is_some() { None } else { target };
        let function = name.unwrap_or(function).trim_start_matches('.');
        let costs: Vec<Range> = arguments.iter().map(|argument| self.cost(argument)).collect();
        let known: Vec<Argument<'c>> = arguments.iter().map(|argument| self.argument(argument)).collect();
        let overloads = self.compiled.checked.overloads[expr.id as usize].clone();
        if overloads.is_empty() {
            return Range::fixed(0);
        }
        let before = target.map_or(Range::fixed(0), |target| self.cost(target));
        let target = target.map(|target| self.argument(target));
        let mut cost = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (one, result) = self.overload(expr, function, overload, target.as_ref(), &known, &costs);
            cost = cost.union(one);
            if let Some(result) = result {
                size = Some(size.map_or(result, |size| size.union(result)));
            }
            if let (Some(first), "index_list" | "index_map") = (arguments.first(), overload) {
                size = self.entries(first).map(|entries| entries.value);
                let path = self.below(first, if overload == "index_list" { "@items" } else { "@values" });
                self.paths.insert(expr.id, path);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.keep(expr, size, None);
        before.add(cost)
    }

    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Argument<'c>>,
        arguments: &[Argument<'c>],
        costs: &[Range],
    ) -> (Range, Option<Range>) {
        let all = costs.iter().fold(Range::fixed(0), |sum, cost| sum.add(*cost));
        if let Some((cost, size)) = library::call(self, function, overload, target, arguments) {
            return (cost.add(all), size);
        }
        let size = |argument: Option<&Argument<'_>>| argument.and_then(|a| a.size).unwrap_or(UNKNOWN);
        let at = |index: usize| size(arguments.get(index));
        let (cost, result) = match (overload, arguments) {
            ("string_format", [_]) => {
                let pattern = size(target);
                (pattern.scaled(TEXT), Some(pattern.add(at(0))))
            }
            ("string_to_bytes", _) => {
                let text = at(0);
                (text.scaled(TEXT), Some(Range { min: text.min, max: text.max.saturating_mul(4) }))
            }
            ("bytes_to_string", _) => {
                let bytes = at(0);
                (bytes.scaled(TEXT), Some(Range { min: bytes.min / 4, max: bytes.max }))
            }
            ("strings_quote", _) => {
                let text = at(0);
                let max = text.max.saturating_mul(2).saturating_add(2);
                (text.scaled(TEXT), Some(Range { min: text.min.saturating_add(2), max }))
            }
            ("starts_with_string" | "ends_with_string", _) => (at(0).scaled(TEXT), None),
            ("in_list", _) => (at(1).scaled(1.0), None),
            ("matches_string", _) if target.is_some() => {
                let text = size(target).add(Range::fixed(1)).scaled(TEXT);
                (text.times(at(0).scaled(REGEX)), None)
            }
            ("contains_string", _) if target.is_some() => {
                (size(target).scaled(TEXT).times(at(0).scaled(TEXT)), None)
            }
            ("logical_or" | "logical_and", [_, _]) => {
                return (Range { min: costs[0].min, max: all.max }, None);
            }
            ("conditional", [_, truthy, falsy]) => {
                let entries = Entries::union(self.entries(truthy.expr), self.entries(falsy.expr));
                self.keep(expr, None, entries);
                let result = at(1).union(at(2));
                return (costs[0].add(costs[1].union(costs[2])), Some(result));
            }
            ("add_string" | "add_bytes" | "add_list", [left, right]) => {
                let entries = Entries::union(self.entries(left.expr), self.entries(right.expr));
                self.keep(expr, None, entries);
                let result = at(0).add(at(1));
                let cost = if overload == "add_list" { Range::fixed(1) } else { result.scaled(TEXT) };
                (cost, Some(result))
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                [_, _],
            ) => {
                let max = at(0).max.min(at(1).max);
                (Range { min: u64::from(max > 0), max }.scaled(TEXT), None)
            }
            _ => (Range::fixed(1), None),
        };
        (cost.add(all), result)
    }
}

fn literal_size(expr: &Expr) -> Option<u64> {
    Some(match &expr.kind {
        ExprKind::Literal(Literal::String(text)) => text.chars().count() as u64,
        ExprKind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        ExprKind::Literal(_) => 1,
        ExprKind::List(elements) => elements.len() as u64,
        ExprKind::Map(entries) => entries.len() as u64,
        _ => return None,
    })
}
