//! Configurations of admission: their expressions must compile.
//! What needs no compiler is validated in `api`.
//! Upstream: pkg/apis/admissionregistration/validation (the parts that call `plugin/cel`).

use api::field::{self, ErrorList, Path};
use schema::cel::{Scope, Type};
use serde_json::Value;

use super::Rest;
use crate::admission::dynamic::conditions::compile_bool;
use crate::admission::dynamic::expressions;
use crate::admission::policy::compile;
use crate::admission::webhook::condition_scope;

/// What to compile in an object.
#[derive(Clone, Copy)]
pub(super) enum Expressions {
    /// Conditions of webhooks.
    Webhooks,
    /// A ValidatingAdmissionPolicy.
    Validating,
    /// A MutatingAdmissionPolicy.
    Mutating,
}

impl Rest for Expressions {
    fn expressions(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        // What is stored already is not refused anew.
        if old.is_some_and(|old| old["spec"] == new["spec"] && old["webhooks"] == new["webhooks"]) {
            return ErrorList::new();
        }
        match self {
            Self::Webhooks => webhooks(new),
            Self::Validating => policy(&new["spec"], false),
            Self::Mutating => policy(&new["spec"], true),
        }
    }
}

/// What is wrong with the expressions of an object of `kind`; bindings have none.
pub(crate) fn wrong_expressions(kind: &str, object: &Value) -> ErrorList {
    match kind {
        "ValidatingAdmissionPolicy" => policy(&object["spec"], false),
        "MutatingAdmissionPolicy" => policy(&object["spec"], true),
        _ => webhooks(object),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Compiles what is there; an empty expression is refused elsewhere.
fn check<T>(
    errors: &mut ErrorList,
    path: &Path,
    expression: &Value,
    compile: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let expression = text(expression);
    if expression.trim().is_empty() {
        return None;
    }
    match compile(expression) {
        Ok(compiled) => Some(compiled),
        Err(message) => {
            errors.push(field::invalid(path, expression, message));
            None
        }
    }
}

fn conditions(errors: &mut ErrorList, path: &Path, conditions: &Value, scope: &Scope) {
    for (index, condition) in list(conditions).iter().enumerate() {
        let path = path.child("matchConditions").index(index).child("expression");
        check(errors, &path, &condition["expression"], |expression| compile_bool(expression, scope));
    }
}

fn webhooks(object: &Value) -> ErrorList {
    let (mut errors, scope) = (ErrorList::new(), condition_scope());
    for (index, webhook) in list(&object["webhooks"]).iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        conditions(&mut errors, &path, &webhook["matchConditions"], &scope);
    }
    errors
}

fn policy(spec: &Value, mutating: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let dynamic = expressions::dynamic;
    let mut scope = compile::scope(spec["paramKind"].is_object(), mutating, dynamic(), dynamic());
    conditions(&mut errors, &path, &spec["matchConditions"], &scope);
    for (index, variable) in list(&spec["variables"]).iter().enumerate() {
        let path = path.child("variables").index(index).child("expression");
        let compiled = check(&mut errors, &path, &variable["expression"], |expression| {
            compile::compile_any(expression, &scope)
        });
        let kind = compiled.map_or(Type::Dyn, |program| program.result_type().clone());
        compile::add_variable(&mut scope, text(&variable["name"]), kind);
    }
    let messages = compile::message_scope(&scope);
    for (index, validation) in list(&spec["validations"]).iter().enumerate() {
        let path = path.child("validations").index(index);
        check(&mut errors, &path.child("expression"), &validation["expression"], |expression| {
            compile_bool(expression, &scope)
        });
        check(
            &mut errors,
            &path.child("messageExpression"),
            &validation["messageExpression"],
            |expression| compile::compile_message(expression, &messages),
        );
    }
    for (index, annotation) in list(&spec["auditAnnotations"]).iter().enumerate() {
        let path = path.child("auditAnnotations").index(index).child("valueExpression");
        check(&mut errors, &path, &annotation["valueExpression"], |expression| {
            compile::compile_annotation(expression, &scope)
        });
    }
    for (index, mutation) in list(&spec["mutations"]).iter().enumerate() {
        let path = path.child("mutations").index(index);
        for (member, applies) in [("applyConfiguration", true), ("jsonPatch", false)] {
            let path = path.child(member).child("expression");
            check(&mut errors, &path, &mutation[member]["expression"], |expression| {
                compile::compile_mutation(expression, applies, &scope)
            });
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_refused_with_the_place_of_the_mistake() {
        let spec = json!({
            "matchConditions": [{"name": "a", "expression": "object.x =="}],
            "variables": [
                {"name": "a", "expression": "object.spec.replicas"}, {"name": "b", "expression": "variables.zzz"},
            ],
            "validations": [
                {"expression": "variables.a > 1", "messageExpression": "1"},
                {"expression": "request.nope == 1"}, {"expression": "'text'"},
                {
                    "expression": "authorizer.requestResource.check('get').allowed()",
                    "messageExpression": "authorizer.requestResource.check('get').reason()",
                },
            ],
            "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
        });
        let errors = policy(&spec, false);
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.matchConditions[0].expression",
                "spec.variables[1].expression",
                "spec.validations[0].messageExpression",
                "spec.validations[1].expression",
                "spec.validations[2].expression",
                "spec.validations[3].messageExpression",
                "spec.auditAnnotations[0].valueExpression",
            ]
        );
        assert!(errors[1].detail.contains("undefined field 'zzz'"), "{}", errors[1].detail);
        assert_eq!(errors[4].detail, "must evaluate to bool");
        let spec = json!({"mutations": [
            {"applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: object.spec.replicas + 1}}"}},
            {"jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/x', value: 1}]"}},
            {"jsonPatch": {"expression": "1"}},
        ]});
        let errors = policy(&spec, true);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].field, "spec.mutations[2].jsonPatch.expression");
    }
}
