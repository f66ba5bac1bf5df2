//! CEL as Kubernetes uses it: the rules of custom resources, admission policies, match conditions.
//!
//! Read these first: [`compile`] (text to [`Program`], checked against a [`Scope`]), [`Program::evaluate`] (over
//! [`Variables`], up to a cost), [`Declared`] (a structural schema as a type, with the sizes that estimates need),
//! [`Program::estimate`]; [`admission`] (what admission's expressions may name), [`openapi`] (a published schema as a type).
//!
//! To add a function: its overloads in `declarations`, its implementation in `functions/`, its costs in `cost` and
//! `estimate`.
//!
//! **Invariants.** Nothing here panics, does I/O, or takes more stack than [`ast::MAX_DEPTH`] nodes need. Evaluation
//! ends at its limit of cost. Messages are upstream's.
//! Upstream: cel-go; apiserver `pkg/cel`.

pub mod admission;
pub mod ast;
pub mod authorizer;
mod check;
mod cost;
mod declarations;
mod declared;
pub mod escape;
mod estimate;
mod eval;
mod functions;
mod lexer;
pub mod openapi;
mod parser;
pub mod types;
pub mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use check::Scope;
pub use declarations::{AUTHORIZER, QUANTITY, RESOURCE_CHECK};
pub use declared::Declared;
pub use eval::Outcome;
pub(crate) use functions::time::parse_duration;
pub use types::Type;
pub use value::{Bindings, Error, Fields, Map, Once, Value, Variables};

use check::Checked;
use lexer::Mistake;

/// What one evaluation may cost (upstream's `PerCallLimit`).
pub const CALL_LIMIT: u64 = 1_000_000;

/// What all expressions of one request (one webhook, one policy) may cost together.
pub const REQUEST_BUDGET: i64 = 10_000_000;

/// The most bytes a message made by an expression may have.
pub const MAX_MESSAGE_SIZE: usize = 5 * 1024;

/// What is wrong with an expression, as upstream prints it: every mistake with its line and a mark below.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

#[derive(Debug)]
struct Compiled {
    expr: ast::Expr,
    checked: Checked,
}

/// A checked expression. Clones are the same.
#[derive(Clone, Debug)]
pub struct Program(Arc<Compiled>);

/// Parses and checks an expression.
pub fn compile(source: &str, scope: &Scope) -> Result<Program, CompileError> {
    let (expr, count) =
        parser::parse(source, scope.binds).map_err(|mistake| report(source, vec![mistake]))?;
    let checked = check::check(&expr, count, scope).map_err(|mistakes| report(source, mistakes))?;
    Ok(Program(Arc::new(Compiled { expr, checked })))
}

/// At most this many mistakes are told.
const MAX_MISTAKES: usize = 100;

fn report(source: &str, mut mistakes: Vec<Mistake>) -> CompileError {
    mistakes.sort_by_key(|mistake| mistake.position);
    let lines: Vec<&str> = source.split('\n').collect();
    let described = mistakes.iter().take(MAX_MISTAKES).map(|mistake| {
        let (mut line, mut column) = (0, mistake.position as usize);
        while let Some(text) = lines.get(line) {
            let length = text.chars().count();
            if column <= length {
                break;
            }
            column -= length + 1;
            line += 1;
        }
        let text = lines.get(line).copied().unwrap_or_default().replace('\t', " ");
        let dot = |character: char| if character.len_utf8() > 1 { '\u{ff0e}' } else { '.' };
        let dots: String = text.chars().take(column).map(dot).collect();
        let mark = match text.chars().nth(column) {
            Some(character) if character.len_utf8() > 1 => '\u{ff3e}',
            _ => '^',
        };
        let (line, column) = (line + 1, column + 1);
        format!("ERROR: <input>:{line}:{column}: {}\n | {text}\n | {dots}{mark}", mistake.message)
    });
    CompileError(described.collect::<Vec<_>>().join("\n"))
}

impl Program {
    /// The type of what it gives.
    pub fn result_type(&self) -> &Type {
        &self.0.checked.types[self.0.expr.id as usize]
    }

    /// Whether it uses the name.
    pub fn mentions(&self, name: &str) -> bool {
        self.0.expr.mentions(name)
    }

    /// Whether it takes the field of the variable anywhere: `name.field`, `name.?field`, `has(name.field)`.
    pub fn selects(&self, name: &str, field: &str) -> bool {
        self.0.expr.selects(name, field)
    }

    /// Evaluates with these variables, up to `limit` units of cost.
    pub fn evaluate<'a>(&self, variables: &dyn Variables<'a>, limit: u64) -> Outcome<'a> {
        eval::evaluate(&self.0, variables, limit)
    }

    /// The most an evaluation can cost, for variables of these types.
    pub fn estimate(&self, variables: &BTreeMap<String, &Declared>) -> u64 {
        estimate::estimate(&self.0, variables)
    }
}

#[cfg(test)]
mod tests;
