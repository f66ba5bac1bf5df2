//! Match conditions: expressions that must all hold for a webhook or policy to see a request.
//! Upstream: apiserver `pkg/admission/plugin/webhook/matchconditions/matcher.go`.

use api::types::admissionregistration::v1::MatchCondition;
use schema::cel::authorizer::Check;
use schema::cel::{CALL_LIMIT, Error, Program, REQUEST_BUDGET, Scope, Type, Value};

use super::expressions::{Data, Decided, Environment};

/// The conditions of one webhook or policy.
#[derive(Debug)]
pub(crate) struct Conditions(Vec<Condition>);

#[derive(Debug)]
struct Condition {
    name: String,
    /// As it was written: errors quote it.
    expression: String,
    program: Result<Program, String>,
}

/// What conditions say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All hold.
    Holds,
    /// This one does not.
    Fails(String),
    /// None is false, but not all could be evaluated.
    Broken(String),
}

/// Compiles an expression that must give a boolean; the error is upstream's.
pub(crate) fn compile_bool(expression: &str, scope: &Scope) -> Result<Program, String> {
    let program =
        schema::cel::compile(expression, scope).map_err(|error| format!("compilation failed: {error}"))?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        _ => Err("must evaluate to bool".to_owned()),
    }
}

impl Conditions {
    /// Compiles conditions. What does not compile (validation has seen to that) fails when it is evaluated.
    pub fn new(conditions: &[MatchCondition], scope: &Scope) -> Self {
        let compile = |condition: &MatchCondition| Condition {
            name: condition.name.clone(),
            expression: condition.expression.clone(),
            program: compile_bool(&condition.expression, scope),
        };
        Self(conditions.iter().map(compile).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say of a request.
    pub fn evaluate(&self, data: &Data, known: &Decided) -> Result<Verdict, Box<Check>> {
        let environment = Environment { data, known, variables: None };
        let mut budget = REQUEST_BUDGET / 4;
        let mut broken = Vec::new();
        for Condition { name, expression, program } in &self.0 {
            let program = match program {
                Ok(program) => program,
                Err(error) => {
                    broken.push(error.clone());
                    continue;
                }
            };
            let outcome = program.evaluate(&environment, CALL_LIMIT);
            budget -= i64::try_from(outcome.cost).unwrap_or(i64::MAX);
            match outcome.value {
                Err(Error::Undecided(check)) => return Err(check),
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(Verdict::Fails(name.clone())),
                Ok(other) => broken.push(format!("expression gave {}, not bool", other.type_name())),
                Err(error) => broken.push(format!("expression '{expression}' resulted in error: {error}")),
            }
            if budget < 0 {
                broken.push(
                    "validation failed due to running out of cost budget, no further validation rules will be run"
                        .to_owned(),
                );
                break;
            }
        }
        Ok(match broken.len() {
            0 => Verdict::Holds,
            1 => Verdict::Broken(broken.remove(0)),
            _ => Verdict::Broken(format!("[{}]", broken.join(", "))),
        })
    }
}

#[cfg(test)]
mod tests {
    use schema::cel::admission::{self, Names};

    use super::super::expressions;
    use super::*;

    #[test]
    fn errors_quote_the_expression() {
        let scope = admission::scope(Names::default(), expressions::dynamic(), expressions::dynamic());
        let condition = |name: &str, expression: &str| MatchCondition {
            name: name.to_owned(),
            expression: expression.to_owned(),
        };
        let object = serde_json::json!({ "metadata": { "name": "x" } });
        let data = Data { object, ..Data::default() };
        let say = |conditions: &[MatchCondition]| {
            Conditions::new(conditions, &scope).evaluate(&data, &Decided::default()).unwrap()
        };
        let broken = condition("second", "object.spec.missing == 1");
        let text = "expression 'object.spec.missing == 1' resulted in error: no such key: spec";
        assert_eq!(say(std::slice::from_ref(&broken)), Verdict::Broken(text.into()));
        let fails = condition("third", "object.metadata.name == 'y'");
        assert_eq!(say(&[broken, fails]), Verdict::Fails("third".into()), "one that is false is enough");
        assert_eq!(say(&[condition("fine", "object.metadata.name == 'x'")]), Verdict::Holds);
    }
}
