//! What the macros become: folds over a list or map, and presence tests.
//! Upstream: cel-go `parser/macro.go`, `ext/comprehensions.go`, `ext/bindings.go`, `cel/library.go` (optionals).

use super::{Parser, Result};
use crate::cel::ast::{Comprehension, Expr, ExprKind, Literal};
use crate::cel::lexer::Mistake;

/// The accumulator's name, which no expression can spell.
pub(crate) const ACCUMULATOR: &str = "@result";
/// The variable of folds that walk nothing.
pub(crate) const UNUSED: &str = "#unused";

pub(super) enum Expansion {
    Done(Expr),
    None(Expr, Vec<Expr>),
}

/// What tells one fold from another.
struct Fold {
    initial: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

fn variable(expr: &Expr) -> Result<String> {
    match &expr.kind {
        ExprKind::Ident(name) if !name.starts_with('.') => {
            if name == "__result__" || name == ACCUMULATOR {
                let message = "iteration variable overwrites accumulator variable".to_owned();
                return Err(Mistake { position: expr.position, message });
            }
            Ok(name.clone())
        }
        _ => Err(Mistake { position: expr.position, message: "argument must be a simple name".to_owned() }),
    }
}

impl Parser {
    /// `has(a.b)`.
    pub(super) fn expand_function(
        &mut self,
        position: u32,
        name: &str,
        mut arguments: Vec<Expr>,
    ) -> Result<std::result::Result<Expr, Vec<Expr>>> {
        if name != "has" || arguments.len() != 1 {
            return Ok(Err(arguments));
        }
        let Some(argument) = arguments.pop() else { return Ok(Err(arguments)) };
        match argument.kind {
            ExprKind::Select { operand, field, .. } => {
                self.node(position, ExprKind::Select { operand, field, test: true }).map(Ok)
            }
            _ => Err(Mistake {
                position: argument.position,
                message: "invalid argument to has() macro".to_owned(),
            }),
        }
    }

    pub(super) fn expand_method(
        &mut self,
        position: u32,
        target: Expr,
        function: &str,
        mut arguments: Vec<Expr>,
    ) -> Result<Expansion> {
        let count = arguments.len();
        let of_cel = matches!(&target.kind, ExprKind::Ident(name) if name == "cel");
        match (function, count) {
            ("bind", 3) if of_cel && self.binds => {
                let (body, value) = (arguments.pop(), arguments.pop());
                let name = arguments.pop();
                let (Some(body), Some(value), Some(name)) = (body, value, name) else {
                    return Ok(Expansion::None(target, arguments));
                };
                self.bind(position, variable(&name)?, value, body).map(Expansion::Done)
            }
            ("sortBy", 2) => {
                let body = arguments.pop();
                let name = arguments.pop();
                let (Some(body), Some(name)) = (body, name) else {
                    return Ok(Expansion::None(target, arguments));
                };
                self.sort_by(position, target, variable(&name)?, body).map(Expansion::Done)
            }
            ("optMap" | "optFlatMap", 2) => {
                let body = arguments.pop();
                let name = arguments.pop();
                let (Some(body), Some(name)) = (body, name) else {
                    return Ok(Expansion::None(target, arguments));
                };
                self.optional_map(position, target, variable(&name)?, body, function == "optMap")
                    .map(Expansion::Done)
            }
            ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3) => {
                let rest = arguments.split_off(1);
                let name = variable(&arguments[0])?;
                let fold = self.fold(position, function, &name, rest)?;
                self.comprehension(position, target, name, None, fold).map(Expansion::Done)
            }
            ("all" | "exists" | "exists_one" | "existsOne", 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
                let rest = arguments.split_off(2);
                let (first, second) = (variable(&arguments[0])?, variable(&arguments[1])?);
                let fold = self.fold(position, function, &first, rest)?;
                self.comprehension(position, target, first, Some(second), fold).map(Expansion::Done)
            }
            _ => Ok(Expansion::None(target, arguments)),
        }
    }

    fn ident(&mut self, position: u32, name: &str) -> Result<Expr> {
        self.node(position, ExprKind::Ident(name.to_owned()))
    }

    fn accumulated(&mut self, position: u32) -> Result<Expr> {
        self.ident(position, ACCUMULATOR)
    }

    fn fold(&mut self, at: u32, function: &str, first: &str, mut rest: Vec<Expr>) -> Result<Fold> {
        let last = match rest.pop() {
            Some(last) => last,
            None => {
                return Err(Mistake { position: at, message: "argument must be a simple name".to_owned() });
            }
        };
        let filter = rest.pop();
        let accumulated = self.accumulated(at)?;
        match function {
            "all" | "exists" => {
                let all = function == "all";
                let initial = self.literal(at, Literal::Bool(all))?;
                let reached = if all { accumulated } else { self.call(at, "!_", vec![accumulated])? };
                let condition = self.call(at, "@not_strictly_false", vec![reached])?;
                let so_far = self.accumulated(at)?;
                let step = self.call(at, if all { "_&&_" } else { "_||_" }, vec![so_far, last])?;
                Ok(Fold { initial, condition, step, result: self.accumulated(at)? })
            }
            "exists_one" | "existsOne" => {
                let initial = self.literal(at, Literal::Int(0))?;
                let condition = self.literal(at, Literal::Bool(true))?;
                let one = self.literal(at, Literal::Int(1))?;
                let more = self.call(at, "_+_", vec![accumulated, one])?;
                let same = self.accumulated(at)?;
                let step = self.call(at, "_?_:_", vec![last, more, same])?;
                let (found, one) = (self.accumulated(at)?, self.literal(at, Literal::Int(1))?);
                Ok(Fold { initial, condition, step, result: self.call(at, "_==_", vec![found, one])? })
            }
            _ => {
                let maps = matches!(function, "transformMap" | "transformMapEntry");
                let kind = if maps { ExprKind::Map(Vec::new()) } else { ExprKind::List(Vec::new()) };
                let initial = self.node(at, kind)?;
                let condition = self.literal(at, Literal::Bool(true))?;
                let (filter, step) = match function {
                    "filter" => {
                        let element = self.ident(at, first)?;
                        let list = self.node(at, ExprKind::List(vec![(element, false)]))?;
                        (Some(last), self.call(at, "_+_", vec![accumulated, list])?)
                    }
                    "transformMap" => {
                        let key = self.ident(at, first)?;
                        (filter, self.call(at, "cel.@mapInsert", vec![accumulated, key, last])?)
                    }
                    "transformMapEntry" => {
                        (filter, self.call(at, "cel.@mapInsert", vec![accumulated, last])?)
                    }
                    _ => {
                        let list = self.node(at, ExprKind::List(vec![(last, false)]))?;
                        (filter, self.call(at, "_+_", vec![accumulated, list])?)
                    }
                };
                let step = match filter {
                    Some(filter) => {
                        let same = self.accumulated(at)?;
                        self.call(at, "_?_:_", vec![filter, step, same])?
                    }
                    None => step,
                };
                Ok(Fold { initial, condition, step, result: self.accumulated(at)? })
            }
        }
    }

    fn comprehension(
        &mut self,
        position: u32,
        range: Expr,
        variable: String,
        second: Option<String>,
        fold: Fold,
    ) -> Result<Expr> {
        let Fold { initial, condition, step, result } = fold;
        let accumulator = ACCUMULATOR.to_owned();
        let fold = Comprehension { range, variable, second, accumulator, initial, condition, step, result };
        self.node(position, ExprKind::Comprehension(Box::new(fold)))
    }

    /// `list.sortBy(name, key)`: the list by the keys that a `map` gives, with the list read once.
    fn sort_by(&mut self, at: u32, list: Expr, name: String, key: Expr) -> Result<Expr> {
        const SORTED: &str = "@__sortBy_input__";
        let range = self.ident(at, SORTED)?;
        let fold = self.fold(at, "map", &name, vec![key])?;
        let keys = self.comprehension(at, range, name, None, fold)?;
        let input = self.ident(at, SORTED)?;
        let function = "@sortByAssociatedKeys".to_owned();
        let sorted = ExprKind::Call { target: Some(Box::new(input)), function, arguments: vec![keys] };
        let sorted = self.node(at, sorted)?;
        self.bind(at, SORTED.to_owned(), list, sorted)
    }

    /// `cel.bind(name, value, body)`: a fold over nothing whose accumulator is the name.
    fn bind(&mut self, position: u32, name: String, value: Expr, body: Expr) -> Result<Expr> {
        let fold = Comprehension {
            range: self.node(position, ExprKind::List(Vec::new()))?,
            variable: UNUSED.to_owned(),
            second: None,
            initial: value,
            condition: self.literal(position, Literal::Bool(false))?,
            step: self.ident(position, &name)?,
            accumulator: name,
            result: body,
        };
        self.node(position, ExprKind::Comprehension(Box::new(fold)))
    }

    /// `target.hasValue() ? optional.of(bind(name, target.value(), body)) : optional.none()`.
    fn optional_map(&mut self, at: u32, target: Expr, name: String, body: Expr, wrap: bool) -> Result<Expr> {
        // The target is evaluated once, under a name that no expression can spell.
        const TARGET: &str = "@target";
        let method = |parser: &mut Self, function: &str| {
            let target = Box::new(parser.ident(at, TARGET)?);
            let kind =
                ExprKind::Call { function: function.to_owned(), target: Some(target), arguments: Vec::new() };
            parser.node(at, kind)
        };
        let present = method(self, "hasValue")?;
        let value = method(self, "value")?;
        let bound = self.bind(at, name, value, body)?;
        let found = if wrap { self.call(at, "optional.of", vec![bound])? } else { bound };
        let none = self.call(at, "optional.none", Vec::new())?;
        let choice = self.call(at, "_?_:_", vec![present, found, none])?;
        self.bind(at, TARGET.to_owned(), target, choice)
    }
}
