//! Evaluates a checked tree, counting what it costs.
//! The stack it takes is bounded by the tree's depth, its time by the limit of the cost.
//! Not here: what functions do (`functions`), what calls cost (`cost`).
//! Upstream: cel-go `interpreter`.

use std::cell::Cell;
use std::rc::Rc;

use super::ast::{Comprehension, Expr, ExprKind, Literal, MAX_DEPTH};
use super::cost;
use super::functions::{self, Call};
use super::parser::macros::{ACCUMULATOR, UNUSED};
use super::value::{Error, List, Map, Result, Text, Value, Variables, equal, kind_of};
use super::{Compiled, functions::operators::shown};

/// What an evaluation gave and cost.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// The value, or why there is none.
    pub value: Result<Value<'a>>,
    /// What it cost, in upstream's units.
    pub cost: u64,
}

struct Evaluator<'a, 'e> {
    compiled: &'e Compiled,
    variables: &'e dyn Variables<'a>,
    locals: Vec<(&'e str, Local<'a, 'e>)>,
    cost: u64,
    limit: u64,
}

thread_local! {
    /// How deeply evaluations nest on this thread's stack. Not a field: a policy's variables are evaluated by others,
    /// while the expression that asks for them waits on the same stack.
    static NESTED: Cell<u16> = const { Cell::new(0) };
}

/// How many keys of a map a fold compares for one unit of cost.
const COMPARED_KEYS: u64 = 16;

/// How deep names that stand for expressions may lead: a tree of its own ends at [`MAX_DEPTH`].
const MAX_NESTED: u16 = MAX_DEPTH + MAX_DEPTH / 2;

/// Stands for one level of the stack.
struct Level;

impl Level {
    fn enter() -> Result<Self> {
        let depth = NESTED.get();
        if depth >= MAX_NESTED {
            return Err(Error::failed("expression recursion limit exceeded"));
        }
        NESTED.set(depth + 1);
        Ok(Self)
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        NESTED.set(NESTED.get() - 1);
    }
}

enum Local<'a, 'e> {
    Known(Result<Value<'a>>),
    /// A bound name whose value nobody has asked for yet, and the number of names it may see.
    Later(&'e Expr, usize),
}

/// Evaluates with these variables, up to `limit` units of cost.
pub(super) fn evaluate<'a>(compiled: &Compiled, variables: &dyn Variables<'a>, limit: u64) -> Outcome<'a> {
    let mut evaluator = Evaluator { compiled, variables, locals: Vec::new(), cost: 0, limit };
    let value = evaluator.eval(&compiled.expr);
    Outcome { value, cost: evaluator.cost }
}

fn literal<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(number) => Value::Int(*number),
        Literal::Uint(number) => Value::Uint(*number),
        Literal::Double(number) => Value::Double(*number),
        Literal::String(text) => Value::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// Whether the node is a path from a name: upstream prices these by their steps alone.
fn is_path(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Ident(_) | ExprKind::Select { test: false, .. } => true,
        ExprKind::Call { function, .. } => matches!(function.as_str(), "_[_]" | "_?._" | "_[?_]"),
        _ => false,
    }
}

/// Whether the node is made of constants only, which upstream works out beforehand.
fn is_constant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Literal(_) => true,
        ExprKind::List(elements) => {
            elements.iter().all(|(element, optional)| !optional && is_constant(element))
        }
        ExprKind::Map(entries) => {
            entries.iter().all(|(key, value, optional)| !optional && is_constant(key) && is_constant(value))
        }
        _ => false,
    }
}

/// Whether a function looks at all that is in its arguments, at a price that depends on their own length only.
fn goes_deep(function: &str) -> bool {
    matches!(
        function,
        "_==_" | "_!=_" | "@in" | "format" | "sets.contains" | "sets.equivalent" | "sets.intersects"
    )
}

impl<'a, 'e> Evaluator<'a, 'e> {
    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Error::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, expr: &'e Expr) -> Result<Value<'a>> {
        let _level = Level::enter()?;
        match &expr.kind {
            ExprKind::Literal(constant) => Ok(literal(constant)),
            ExprKind::Ident(name) => self.ident(expr, name),
            ExprKind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            ExprKind::Call { function, target, arguments } => {
                self.call(expr, function, target.as_deref(), arguments)
            }
            ExprKind::List(elements) => self.list(expr, elements),
            ExprKind::Map(entries) => self.map(expr, entries),
            ExprKind::Struct { name, fields } => self.structure(name, fields),
            ExprKind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Result<Value<'a>> {
        self.charge(1)?;
        let name = self.compiled.checked.names[expr.id as usize].as_deref().unwrap_or(name);
        self.named(name)
    }

    fn named(&mut self, name: &str) -> Result<Value<'a>> {
        if let Some(index) = self.locals.iter().rposition(|(known, _)| *known == name) {
            let (later, seen) = match &self.locals[index].1 {
                Local::Known(value) => return value.clone(),
                Local::Later(later, seen) => (*later, *seen),
            };
            let hidden = self.locals.split_off(seen);
            let value = self.eval(later);
            self.locals.extend(hidden);
            self.locals[index].1 = Local::Known(value.clone());
            return value;
        }
        if let Some(found) = self.variables.variable(name) {
            return found;
        }
        kind_of(name).ok_or_else(|| Error::failed(format!("no such attribute(s): {name}")))
    }

    fn select(&mut self, expr: &'e Expr, operand: &'e Expr, field: &str, test: bool) -> Result<Value<'a>> {
        if let Some(name) = self.compiled.checked.names[expr.id as usize].as_deref() {
            self.charge(1)?;
            return self.named(name);
        }
        let of = self.eval(operand)?;
        if test {
            return match &of {
                Value::Map(map) => map.field(field).map(|found| Value::Bool(found.is_some())),
                Value::Optional(inner) => match inner.as_deref() {
                    Some(Value::Map(map)) => map.field(field).map(|found| Value::Bool(found.is_some())),
                    _ => Ok(Value::Bool(false)),
                },
                _ => Err(Error::no_overload()),
            };
        }
        self.charge(if is_path(operand) { 1 } else { 2 })?;
        match &of {
            Value::Map(map) => {
                map.field(field)?.ok_or_else(|| Error::failed(format!("no such key: {field}")))
            }
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => match &**inner {
                Value::Map(map) => Ok(Value::Optional(map.field(field)?.map(Rc::new))),
                _ => Err(Error::no_overload()),
            },
            _ => Err(Error::no_overload()),
        }
    }

    fn call(
        &mut self,
        expr: &'e Expr,
        function: &'e str,
        target: Option<&'e Expr>,
        arguments: &'e [Expr],
    ) -> Result<Value<'a>> {
        match (function, arguments) {
            ("_&&_", [left, right]) => self.logical(left, right, false),
            ("_||_", [left, right]) => self.logical(left, right, true),
            ("_?_:_", [condition, truthy, falsy]) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(truthy),
                Value::Bool(false) => self.eval(falsy),
                _ => Err(Error::no_overload()),
            },
            ("@not_strictly_false", [argument]) => {
                let value = self.eval(argument);
                self.charge(1)?;
                match value {
                    Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                    Err(error) if error.ends() => Err(error),
                    _ => Ok(Value::Bool(true)),
                }
            }
            ("_?._", [operand, field]) => {
                let of = self.eval(operand)?;
                self.charge(if is_path(operand) { 1 } else { 2 })?;
                self.optional_field(&of, field.text().unwrap_or_default())
            }
            // The element of a fold is put onto the end of its list instead of copying the list.
            ("_+_", [accumulated, added]) if matches!(&accumulated.kind, ExprKind::Ident(n) if n == ACCUMULATOR) => {
                self.accumulate(expr, accumulated, added)
            }
            // Likewise the entries of a fold's map.
            ("cel.@mapInsert", [accumulated, added @ ..]) if matches!(&accumulated.kind, ExprKind::Ident(n) if n == ACCUMULATOR) => {
                self.insert(expr, accumulated, added)
            }
            _ => self.apply(expr, function, target, arguments),
        }
    }

    fn optional_field(&self, of: &Value<'a>, field: &str) -> Result<Value<'a>> {
        match of {
            Value::Map(map) => Ok(Value::Optional(map.field(field)?.map(Rc::new))),
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.optional_field(inner, field),
            _ => Err(Error::no_overload()),
        }
    }

    /// An error on one side does not count if the other decides.
    fn logical(&mut self, left: &'e Expr, right: &'e Expr, decides: bool) -> Result<Value<'a>> {
        let first = self.eval(left);
        match &first {
            Ok(Value::Bool(value)) if *value == decides => return first,
            Err(error) if error.ends() => return first,
            _ => {}
        }
        let second = self.eval(right);
        match (&first, &second) {
            (_, Ok(Value::Bool(value))) if *value == decides => second,
            (_, Err(error)) if error.ends() => second,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            (Err(_), _) => first,
            (_, Err(_)) => second,
            _ => Err(Error::no_overload()),
        }
    }

    fn accumulate(&mut self, expr: &'e Expr, accumulated: &'e Expr, added: &'e Expr) -> Result<Value<'a>> {
        self.charge(1)?;
        let taken = match self.locals.iter_mut().rev().find(|(name, _)| *name == ACCUMULATOR) {
            Some((_, Local::Known(value))) => std::mem::replace(value, Ok(Value::Null)),
            _ => return self.ident(accumulated, ACCUMULATOR),
        };
        let left = taken?;
        let right = self.eval(added)?;
        if let (Value::List(List::Made(mut list)), Value::List(List::Made(more))) = (left.clone(), &right) {
            drop(left);
            Rc::make_mut(&mut list).extend(more.iter().cloned());
            self.charge(1)?;
            return Ok(Value::List(List::Made(list)));
        }
        self.finish(expr, "_+_", &[left, right])
    }

    fn insert(&mut self, expr: &'e Expr, accumulated: &'e Expr, added: &'e [Expr]) -> Result<Value<'a>> {
        self.charge(1)?;
        let taken = match self.locals.iter_mut().rev().find(|(name, _)| *name == ACCUMULATOR) {
            Some((_, Local::Known(value))) => std::mem::replace(value, Ok(Value::Null)),
            _ => return self.ident(accumulated, ACCUMULATOR),
        };
        let left = taken?;
        let mut right = Vec::with_capacity(added.len());
        for added in added {
            right.push(self.eval(added)?);
        }
        let Value::Map(map) = left else {
            let arguments: Vec<_> = std::iter::once(left).chain(right).collect();
            return self.finish(expr, "cel.@mapInsert", &arguments);
        };
        let entries = functions::operators::entries(&right)?;
        // Each new key is compared with all there are: upstream's maps find it at once, and it charges nothing.
        let known = map.len() as u64;
        self.charge(1 + known.saturating_mul(entries.len() as u64) / COMPARED_KEYS)?;
        functions::operators::insert(map, entries)
    }

    fn apply(
        &mut self,
        expr: &'e Expr,
        function: &'e str,
        target: Option<&'e Expr>,
        arguments: &'e [Expr],
    ) -> Result<Value<'a>> {
        let name = self.compiled.checked.names[expr.id as usize].as_deref();
        // `optional.of(…)` and its like are functions with a dot in their name, not methods.
        let target = if name.is_some() { None } else { target };
        let function = name.unwrap_or(function).trim_start_matches('.');
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in target.into_iter().chain(arguments) {
            values.push(self.eval(argument)?);
        }
        match (function, arguments) {
            ("_[_]" | "_[?_]", [operand, _]) => {
                self.charge(if is_path(operand) { 1 } else { 2 })?;
                self.run(expr, function, &values)
            }
            // Upstream looks constants up in a set made beforehand, and converts constants beforehand.
            ("@in", [_, list]) if is_constant(list) => self.run(expr, function, &values),
            (
                "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type"
                | "uint",
                [argument],
            ) if matches!(argument.kind, ExprKind::Literal(_)) => self.run(expr, function, &values),
            _ => self.finish(expr, function, &values),
        }
    }

    fn overload(&self, expr: &Expr) -> Option<&'static str> {
        match self.compiled.checked.overloads[expr.id as usize].as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    fn run(&self, expr: &Expr, function: &str, arguments: &[Value<'a>]) -> Result<Value<'a>> {
        let overload = self.overload(expr);
        let call = Call { function, overload, arguments };
        match functions::implementation(function) {
            Some(implementation) => implementation(&call),
            None => Err(call.no_overload()),
        }
    }

    fn finish(&mut self, expr: &Expr, function: &str, arguments: &[Value<'a>]) -> Result<Value<'a>> {
        let overload = self.overload(expr);
        let left = self.limit.saturating_sub(self.cost);
        if goes_deep(function) && cost::is_endless(arguments, left) {
            return Err(Error::CostLimit);
        }
        if cost::is_by_result(function) {
            let result = self.run(expr, function, arguments);
            self.charge(cost::call(function, overload, arguments, result.as_ref().ok(), left))?;
            return result;
        }
        // Before it is done: what cannot be paid for is neither asked (a check) nor made.
        self.charge(cost::call(function, overload, arguments, None, left))?;
        self.run(expr, function, arguments)
    }

    fn list(&mut self, expr: &'e Expr, elements: &'e [(Expr, bool)]) -> Result<Value<'a>> {
        let mut values = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.eval(element)?, optional) {
                (value, false) => values.push(value),
                (Value::Optional(inner), true) => values.extend(inner.map(|inner| (*inner).clone())),
                (other, true) => return Err(not_optional(&other)),
            }
        }
        if !is_constant(expr) {
            self.charge(cost::LIST)?;
        }
        Ok(Value::list(values))
    }

    fn map(&mut self, expr: &'e Expr, entries: &'e [(Expr, Expr, bool)]) -> Result<Value<'a>> {
        let mut made: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            if !matches!(key, Value::String(_) | Value::Int(_) | Value::Uint(_) | Value::Bool(_)) {
                return Err(Error::failed(format!("unsupported key type: {}", key.type_name())));
            }
            let value = match (self.eval(value)?, optional) {
                (value, false) => value,
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (other, true) => return Err(not_optional(&other)),
            };
            if made.iter().any(|(known, _)| equal(known, &key)) {
                return Err(Error::failed(format!("Failed with repeated key: {}", shown(&key))));
            }
            made.push((key, value));
        }
        if !is_constant(expr) {
            self.charge(cost::MAP)?;
        }
        Ok(Value::Map(Map::Made(Rc::new(made))))
    }

    fn structure(&mut self, name: &str, fields: &'e [(String, Expr, bool)]) -> Result<Value<'a>> {
        let mut made = Vec::with_capacity(fields.len());
        for (field, value, optional) in fields {
            match (self.eval(value)?, optional) {
                (value, false) => made.push((field.clone(), value)),
                (Value::Optional(None), true) => {}
                (Value::Optional(Some(inner)), true) => made.push((field.clone(), (*inner).clone())),
                (other, true) => return Err(not_optional(&other)),
            }
        }
        self.charge(cost::STRUCT)?;
        Ok(Value::Map(Map::Struct(Rc::new((name.trim_start_matches('.').to_owned(), made)))))
    }

    fn fold(&mut self, fold: &'e Comprehension) -> Result<Value<'a>> {
        let outside = self.locals.len();
        if fold.variable == UNUSED {
            self.locals.push((&fold.accumulator, Local::Later(&fold.initial, outside)));
            let result = self.eval(&fold.result);
            self.locals.truncate(outside);
            return result;
        }
        let range = self.eval(&fold.range)?;
        let initial = self.eval(&fold.initial);
        self.locals.push((&fold.accumulator, Local::Known(initial)));
        let walked = self.walk(fold, &range, outside);
        self.locals.truncate(outside + 1);
        let result = walked.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(outside);
        result
    }

    fn walk(&mut self, fold: &'e Comprehension, range: &Value<'a>, outside: usize) -> Result<()> {
        let keys = match range {
            Value::Map(map) => Some(map.keys()),
            Value::List(_) => None,
            _ => return Err(Error::no_overload()),
        };
        let count = match (range, &keys) {
            (_, Some(keys)) => keys.len(),
            (Value::List(list), _) => list.len(),
            _ => 0,
        };
        for index in 0..count {
            self.locals.truncate(outside + 1);
            let (first, second) = match (range, &keys) {
                (Value::Map(map), Some(keys)) => {
                    let key = keys[index].clone();
                    let value = if fold.second.is_some() { map.get(&key)?.map(Ok) } else { None };
                    (Ok(key), value)
                }
                (Value::List(list), _) => {
                    let element = list.get(index).map(|found| found.unwrap_or(Value::Null));
                    match fold.second {
                        Some(_) => (Ok(Value::Int(index as i64)), Some(element)),
                        None => (element, None),
                    }
                }
                _ => return Ok(()),
            };
            self.locals.push((&fold.variable, Local::Known(first)));
            if let (Some(name), Some(value)) = (&fold.second, second) {
                self.locals.push((name, Local::Known(value)));
            }
            match self.eval(&fold.condition) {
                Ok(Value::Bool(false)) => return Ok(()),
                Err(error) if error.ends() => return Err(error),
                _ => {}
            }
            let next = self.eval(&fold.step);
            if let Err(error) = &next
                && error.ends()
            {
                return Err(error.clone());
            }
            self.locals[outside].1 = Local::Known(next);
        }
        Ok(())
    }
}

fn not_optional(value: &Value<'_>) -> Error {
    Error::failed(format!(
        "cannot initialize optional list element from non-optional value: {}",
        value.type_name()
    ))
}
