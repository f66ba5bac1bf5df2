//! Finds the type of every node, and says what does not fit.
//! Not here: which functions there are (`declarations`), how types unify (`unify`).
//! Upstream: cel-go `checker/checker.go`, `checker/errors.go`, `cel/validator.go`.

mod unify;

use std::collections::BTreeMap;

use super::ast::{Comprehension, Expr, ExprKind, Literal};
use super::declarations::{self, Overload};
use super::lexer::Mistake;
use super::parser::{macros::UNUSED, qualified};
use super::types::Type;
use unify::Unifier;

/// What may be named.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Variables and their types.
    pub variables: BTreeMap<String, Type>,
    /// Object types that may be constructed by name; those that are `open` also with any path below their name.
    pub constructible: BTreeMap<String, Type>,
    /// Whether there is `cel.bind`: upstream has it in selectors of devices, and nowhere else.
    pub binds: bool,
}

/// What is known of the nodes, by their numbers.
#[derive(Debug, Default)]
pub struct Checked {
    /// The type of each.
    pub types: Vec<Type>,
    /// The overloads that a call may be.
    pub overloads: Vec<Vec<&'static str>>,
    /// Names that are variables although they are written as fields (`a.b`), and types.
    pub names: Vec<Option<String>>,
}

struct Checker<'a> {
    scope: &'a Scope,
    locals: Vec<(String, Type)>,
    unifier: Unifier,
    found: Checked,
    mistakes: Vec<Mistake>,
}

/// Checks a tree of `count` nodes.
pub(super) fn check(expr: &Expr, count: u32, scope: &Scope) -> Result<Checked, Vec<Mistake>> {
    let count = count as usize;
    let found = Checked {
        types: vec![Type::Error; count],
        overloads: vec![Vec::new(); count],
        names: vec![None; count],
    };
    let mut checker =
        Checker { scope, locals: Vec::new(), unifier: Unifier::default(), found, mistakes: Vec::new() };
    checker.check(expr);
    if !checker.mistakes.is_empty() {
        return Err(checker.mistakes);
    }
    for index in 0..count {
        checker.found.types[index] = checker.unifier.resolve(&checker.found.types[index], true);
    }
    literals(expr, &checker.found, &mut checker.mistakes);
    if checker.mistakes.is_empty() { Ok(checker.found) } else { Err(checker.mistakes) }
}

impl Checker<'_> {
    fn set(&mut self, expr: &Expr, found: Type) -> Type {
        self.found.types[expr.id as usize] = found.clone();
        found
    }

    fn wrong(&mut self, position: u32, message: String) {
        self.mistakes.push(Mistake { position, message });
    }

    fn shown(&mut self, found: &Type) -> Type {
        self.unifier.resolve(found, true)
    }

    fn variable(&self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let local = self.locals.iter().rev().find(|(local, _)| local == name).map(|(_, found)| found);
        local
            .or_else(|| self.scope.variables.get(name))
            .cloned()
            .or_else(|| declarations::TYPES.contains(&name).then_some(Type::Kind))
    }

    fn check(&mut self, expr: &Expr) -> Type {
        let found = match &expr.kind {
            ExprKind::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            ExprKind::Ident(name) => self.ident(expr, name),
            ExprKind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            ExprKind::Call { function, target, arguments } => {
                self.call(expr, function, target.as_deref(), arguments)
            }
            ExprKind::List(elements) => self.list(elements),
            ExprKind::Map(entries) => self.map(entries),
            ExprKind::Struct { name, fields } => self.structure(expr, name, fields),
            ExprKind::Comprehension(fold) => self.comprehension(fold),
        };
        self.set(expr, found)
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Type {
        match self.variable(name) {
            Some(found) => {
                let name = name.strip_prefix('.').unwrap_or(name);
                self.found.names[expr.id as usize] = Some(name.to_owned());
                found
            }
            None => {
                let message = format!("undeclared reference to '{name}' (in container '')");
                self.wrong(expr.position, message);
                Type::Error
            }
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = qualified(expr)
            && let Some(found) = self.variable(&name)
        {
            self.found.names[expr.id as usize] = Some(name);
            return found;
        }
        let of = self.check(operand);
        let of = self.unifier.resolve(&of, false);
        let found = self.field(expr.position, &of, field, false);
        if test { Type::Bool } else { found }
    }

    fn field(&mut self, position: u32, of: &Type, field: &str, inside: bool) -> Type {
        match of {
            Type::Dyn | Type::Error | Type::Var(_) => Type::Dyn,
            Type::Map(inner) => inner.1.clone(),
            Type::Optional(inner) if !inside => {
                let inner = self.unifier.resolve(inner, false);
                let found = self.field(position, &inner, field, true);
                Type::optional(found)
            }
            Type::Object(object) => match object.fields.get(field) {
                Some(found) => found.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.wrong(position, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            other => {
                let shown = self.shown(other);
                self.wrong(position, format!("type '{shown}' does not support field selection"));
                Type::Error
            }
        }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, arguments: &[Expr]) -> Type {
        if function == "_?._"
            && let [operand, field] = arguments
        {
            let of = self.check(operand);
            let of = self.unifier.resolve(&of, false);
            self.check(field);
            let found = self.field(expr.position, &of, field.text().unwrap_or_default(), false);
            self.found.overloads[expr.id as usize] = vec!["select_optional_field"];
            return match found {
                Type::Optional(_) => found,
                found => Type::optional(found),
            };
        }
        for argument in arguments {
            self.check(argument);
        }
        let Some(target) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            return match declarations::overloads(name) {
                Some(overloads) => self.resolve(expr, name, overloads, None, arguments),
                None => self.undeclared(expr, name),
            };
        };
        let name = qualified(target).map(|target| format!("{target}.{function}"));
        if let Some(name) = name
            && let Some(overloads) = declarations::overloads(&name)
        {
            self.found.names[expr.id as usize] = Some(name.clone());
            return self.resolve(expr, &name, overloads, None, arguments);
        }
        self.check(target);
        match declarations::overloads(function) {
            Some(overloads) => self.resolve(expr, function, overloads, Some(target), arguments),
            None => self.undeclared(expr, function),
        }
    }

    fn undeclared(&mut self, expr: &Expr, function: &str) -> Type {
        self.wrong(expr.position, format!("undeclared reference to '{function}' (in container '')"));
        Type::Error
    }

    fn resolve(
        &mut self,
        expr: &Expr,
        function: &str,
        overloads: &'static [Overload],
        target: Option<&Expr>,
        arguments: &[Expr],
    ) -> Type {
        let types: Vec<Type> =
            target.into_iter().chain(arguments).map(|a| self.found.types[a.id as usize].clone()).collect();
        let mut result: Option<Type> = None;
        let mut ids = Vec::new();
        for overload in overloads.iter().filter(|overload| overload.method == target.is_some()) {
            // One argument may be null and no numbers of two kinds: what upstream's checker lets pass for a
            // comparison with dyn passes here by the same rules of assignment.
            let Some(found) = self.unifier.apply(overload, &types) else { continue };
            ids.push(overload.id);
            result = Some(match result {
                None => found,
                Some(earlier) if earlier == found => earlier,
                Some(_) => Type::Dyn,
            });
        }
        if let Some(found) = result {
            self.found.overloads[expr.id as usize] = ids;
            return found;
        }
        let shown: Vec<String> = types.iter().map(|found| self.shown(found).to_string()).collect();
        let signature = match (target, shown.split_first()) {
            (Some(_), Some((first, rest))) => format!("{first}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        let message = format!("found no matching overload for '{function}' applied to '{signature}'");
        self.wrong(expr.position, message);
        Type::Error
    }

    /// Literals of lists and maps must be of one type.
    fn join(&mut self, previous: Option<Type>, expr: &Expr, optional: bool) -> Type {
        let mut current = self.check(expr);
        if optional {
            current = match self.unifier.resolve(&current, false) {
                Type::Optional(inner) => (*inner).clone(),
                Type::Dyn => Type::Dyn,
                other => {
                    let (wanted, shown) = (Type::optional(other.clone()), self.shown(&other));
                    let wanted = self.shown(&wanted);
                    self.wrong(expr.position, format!("expected type '{wanted}' but found '{shown}'"));
                    Type::Error
                }
            };
        }
        let Some(previous) = previous else { return current };
        if self.unifier.assignable(&previous, &current) {
            return self.unifier.general(&previous, &current);
        }
        let (wanted, shown) = (self.shown(&previous), self.shown(&current));
        self.wrong(expr.position, format!("expected type '{wanted}' but found '{shown}'"));
        previous
    }

    fn list(&mut self, elements: &[(Expr, bool)]) -> Type {
        let mut element = None;
        for (expr, optional) in elements {
            element = Some(self.join(element, expr, *optional));
        }
        Type::list(element.unwrap_or_else(|| self.unifier.fresh()))
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Type {
        let (mut key, mut value) = (None, None);
        for (key_expr, value_expr, optional) in entries {
            key = Some(self.join(key, key_expr, false));
            value = Some(self.join(value, value_expr, *optional));
        }
        let key = key.unwrap_or_else(|| self.unifier.fresh());
        Type::map(key, value.unwrap_or_else(|| self.unifier.fresh()))
    }

    fn structure(&mut self, expr: &Expr, name: &str, fields: &[(String, Expr, bool)]) -> Type {
        let name = name.strip_prefix('.').unwrap_or(name);
        let root = name.split('.').next().unwrap_or_default();
        let known = self.scope.constructible.get(name).or_else(|| {
            self.scope
                .constructible
                .get(root)
                .filter(|found| matches!(found, Type::Object(object) if object.open))
        });
        let Some(Type::Object(object)) = known.cloned() else {
            self.wrong(expr.position, format!("undeclared reference to '{name}' (in container '')"));
            for (_, value, _) in fields {
                self.check(value);
            }
            return Type::Error;
        };
        for (field, value, optional) in fields {
            let mut given = self.check(value);
            if *optional && let Type::Optional(inner) = self.unifier.resolve(&given, false) {
                given = (*inner).clone();
            }
            let wanted = match object.fields.get(field) {
                Some(wanted) => wanted.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.wrong(value.position, format!("undefined field '{field}'"));
                    continue;
                }
            };
            if !self.unifier.assignable(&wanted, &given) {
                let given = self.shown(&given);
                let message =
                    format!("expected type of field '{field}' is '{wanted}' but provided type is '{given}'");
                self.wrong(value.position, message);
            }
        }
        if object.open {
            // Each path is a type of its own: the evaluation compares them.
            let open =
                super::types::ObjectType { name: name.to_owned(), fields: BTreeMap::new(), open: true };
            return Type::Object(std::sync::Arc::new(open));
        }
        Type::Object(object)
    }

    fn comprehension(&mut self, fold: &Comprehension) -> Type {
        let range = self.check(&fold.range);
        let initial = self.check(&fold.initial);
        let (first, second) = match self.unifier.resolve(&range, false) {
            Type::List(element) => match fold.second {
                Some(_) => (Type::Int, (*element).clone()),
                None => ((*element).clone(), Type::Dyn),
            },
            Type::Map(inner) => (inner.0.clone(), inner.1.clone()),
            Type::Dyn | Type::Error | Type::Var(_) => (Type::Dyn, Type::Dyn),
            other => {
                let shown = self.shown(&other);
                let message = format!(
                    "expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.wrong(fold.range.position, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.locals.len();
        self.locals.push((fold.accumulator.clone(), initial.clone()));
        if fold.variable != UNUSED {
            self.locals.push((fold.variable.clone(), first));
        }
        if let Some(name) = &fold.second {
            self.locals.push((name.clone(), second));
        }
        let condition = self.check(&fold.condition);
        self.expect(&fold.condition, &Type::Bool, &condition);
        let step = self.check(&fold.step);
        self.expect(&fold.step, &initial, &step);
        self.locals.truncate(outside + 1);
        let result = self.check(&fold.result);
        self.locals.truncate(outside);
        self.unifier.resolve(&result, false)
    }

    fn expect(&mut self, expr: &Expr, wanted: &Type, given: &Type) {
        if !self.unifier.assignable(wanted, given) {
            let (wanted, given) = (self.shown(wanted), self.shown(given));
            self.wrong(expr.position, format!("expected type '{wanted}' but found '{given}'"));
        }
    }
}

/// Constant arguments that could only fail are refused at once.
fn literals(expr: &Expr, found: &Checked, mistakes: &mut Vec<Mistake>) {
    if let ExprKind::Call { function, arguments, .. } = &expr.kind
        && let Some(last) = arguments.last()
        && let Some(text) = last.text()
    {
        let valid = match function.as_str() {
            "duration" => super::functions::time::parse_duration(text).is_some(),
            "timestamp" => super::functions::time::parse_timestamp(text).is_some(),
            "matches" if found.overloads[expr.id as usize].iter().any(|id| id.starts_with("matches")) => {
                super::functions::regex::compile(text).is_ok()
            }
            _ => true,
        };
        if !valid {
            let message = format!("invalid {function} argument");
            mistakes.push(Mistake { position: last.position, message });
        }
    }
    for child in expr.children() {
        literals(child, found, mistakes);
    }
}
