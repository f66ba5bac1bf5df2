//! Evaluates a policy's expressions over one request and one object of parameters.
//! Pure: checks of the authorizer that are not decided yet end an evaluation, which then begins again.
//! Upstream: apiserver `pkg/admission/plugin/policy/validating/validator.go`, `pkg/admission/plugin/cel/composition.go`.

use std::cell::Cell;
use std::time::Duration;

use api::Reason;
use schema::cel::authorizer::Check;
use schema::cel::{
    CALL_LIMIT, Error, Fields, MAX_MESSAGE_SIZE, Map, Once, Outcome, Program, REQUEST_BUDGET, Value,
};

use super::compile::{Compiled, Policy};
use crate::admission::dynamic::conditions::Verdict;
use crate::admission::dynamic::expressions::{Data, Decided, Environment};

/// What one validation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It holds.
    Admits,
    /// It cannot be evaluated, which the policy ignores.
    Ignored(Fault),
    /// It does not hold, or cannot be evaluated under a policy that fails then.
    Refuses { message: String, reason: Reason, fault: Option<Fault> },
}

/// Why an expression cannot be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Compilation,
    Budget,
    Other,
}

impl Fault {
    /// As its message has it, which is where upstream reads it off, too.
    pub(super) fn of(message: &str) -> Self {
        match message {
            _ if message.starts_with("compilation") => Self::Compilation,
            _ if message.starts_with("validation failed due to running out of cost budget") => Self::Budget,
            _ => Self::Other,
        }
    }
}

impl Judgement {
    /// What comes of an expression that cannot be evaluated, for this reason.
    pub(super) fn broken(policy: &Policy, message: String) -> Self {
        let fault = Fault::of(&message);
        match policy.fails {
            true => Self::Refuses { message, reason: Reason::Invalid, fault: Some(fault) },
            false => Self::Ignored(fault),
        }
    }

    /// Upstream's word for the kind of error.
    pub(super) fn error(&self) -> &'static str {
        match self {
            Self::Admits | Self::Refuses { fault: None, .. } => "no_error",
            Self::Ignored(fault) | Self::Refuses { fault: Some(fault), .. } => match fault {
                Fault::Compilation => "compile_error",
                Fault::Budget => "out_of_budget",
                Fault::Other => "invalid_error",
            },
        }
    }
}

/// What a policy says.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Each with how long it took.
    pub judgements: Vec<(Judgement, Duration)>,
    /// Annotations for the audit log.
    pub annotations: Vec<(String, String)>,
}

/// The variables of a policy: each is evaluated when it is first asked for.
pub(super) struct Lazy<'a> {
    policy: &'a Policy,
    data: &'a Data,
    known: &'a Decided,
    values: Vec<Once<'a>>,
    cost: Cell<u64>,
}

impl<'a> Lazy<'a> {
    pub fn new(policy: &'a Policy, data: &'a Data, known: &'a Decided) -> Self {
        let values = policy.variables.iter().map(|_| Once::default()).collect();
        Self { policy, data, known, values, cost: Cell::new(0) }
    }

    /// The environment in which the policy's expressions are evaluated.
    pub fn environment(&'a self) -> Environment<'a> {
        let variables = Some(Value::Map(Map::Fields(self)));
        Environment { data: self.data, known: self.known, variables }
    }

    /// Evaluates one expression, and takes its cost and that of the variables it was first to ask for off the budget.
    pub fn evaluate(&'a self, program: &Program, budget: &mut i64) -> Outcome<'a> {
        let before = self.cost.get();
        let outcome = program.evaluate(&self.environment(), CALL_LIMIT);
        let cost = outcome.cost.saturating_add(self.cost.get() - before);
        *budget -= i64::try_from(cost).unwrap_or(i64::MAX);
        outcome
    }
}

impl<'a> Fields<'a> for Lazy<'a> {
    fn field(&'a self, name: &str) -> Option<Result<Value<'a>, Error>> {
        let index = self.policy.variables.iter().position(|(known, _)| known == name)?;
        let (_, program) = &self.policy.variables[index];
        Some(self.values[index].get_or(|| match program {
            Ok(program) => {
                let outcome = program.evaluate(&self.environment(), CALL_LIMIT);
                self.cost.set(self.cost.get().saturating_add(outcome.cost));
                outcome.value.map_err(|error| match error {
                    Error::Failed(message) => {
                        Error::Failed(format!("composited variable {name:?} fails to evaluate: {message}"))
                    }
                    other => other,
                })
            }
            Err(message) => Err(Error::Failed(message.clone())),
        }))
    }
}

/// Upstream's words for a budget that is used up.
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What the policy's conditions say.
pub(super) fn conditions(policy: &Policy, data: &Data, known: &Decided) -> Result<Verdict, Box<Check>> {
    policy.conditions.evaluate(data, known)
}

/// A single expression's value, with upstream's words for what may go wrong.
pub(super) fn value<'a>(
    lazy: &'a Lazy<'a>,
    expression: &str,
    program: &Compiled,
    budget: &mut i64,
) -> Result<Result<Value<'a>, String>, Box<Check>> {
    let program = match program {
        Ok(program) => program,
        Err(message) => return Ok(Err(format!("compilation error: {message}"))),
    };
    if *budget < 0 {
        return Ok(Err(OUT_OF_BUDGET.to_owned()));
    }
    let outcome = lazy.evaluate(program, budget);
    if *budget < 0 {
        return Ok(Err(OUT_OF_BUDGET.to_owned()));
    }
    match outcome.value {
        Err(Error::Undecided(check)) => Err(check),
        Err(Error::CostLimit) => Ok(Err(format!(
            "operation cancelled: actual cost limit exceeded: no further validation rules will be run due to call cost \
             exceeds limit for rule: {expression}"
        ))),
        Err(error) => Ok(Err(format!("expression '{expression}' resulted in error: {error}"))),
        Ok(value) => Ok(Ok(value)),
    }
}

/// What the policy's validations say, and its annotations. `now` is a clock that measures them.
pub(super) fn validations(
    policy: &Policy,
    data: &Data,
    known: &Decided,
    now: &dyn Fn() -> Duration,
) -> Result<Judged, Box<Check>> {
    let lazy = Lazy::new(policy, data, known);
    let mut budget = REQUEST_BUDGET;
    let mut judged = Judged::default();
    let broken = |message: String| Judgement::broken(policy, message);
    for validation in &policy.validations {
        let began = now();
        let judgement = match value(&lazy, &validation.expression, &validation.program, &mut budget)? {
            Ok(Value::Bool(true)) => Judgement::Admits,
            Ok(Value::Bool(false)) => {
                let given = match &validation.message_program {
                    Some(program) => message(&lazy, program, &mut budget)?,
                    None => None,
                };
                let message = match given {
                    Some(message) => message,
                    None if validation.message.is_empty() => {
                        format!("failed expression: {}", validation.expression.trim())
                    }
                    None => validation.message.clone(),
                };
                Judgement::Refuses { message, reason: validation.reason.clone(), fault: None }
            }
            Ok(other) => broken(format!(
                "expression '{}' resulted in error: unexpected type {}",
                validation.expression,
                other.type_name()
            )),
            Err(message) => broken(message),
        };
        judged.judgements.push((judgement, now().saturating_sub(began)));
    }
    for (key, expression, program) in &policy.annotations {
        let began = now();
        match value(&lazy, expression, program, &mut budget)? {
            Ok(Value::String(text)) if !text.trim().is_empty() => {
                judged.annotations.push((format!("{}/{key}", policy.name), text.trim().to_owned()));
            }
            Ok(_) => {}
            Err(message) => judged.judgements.push((broken(message), now().saturating_sub(began))),
        }
    }
    Ok(judged)
}

/// The message that an expression makes; `None` where it makes none that can be shown.
fn message<'a>(
    lazy: &'a Lazy<'a>,
    program: &Compiled,
    budget: &mut i64,
) -> Result<Option<String>, Box<Check>> {
    Ok(match value(lazy, "", program, budget)? {
        Ok(Value::String(text)) => {
            let text = text.trim();
            let shown = !text.is_empty() && text.len() <= MAX_MESSAGE_SIZE && !text.contains('\n');
            shown.then(|| text.to_owned())
        }
        _ => None,
    })
}
