//! Policies and bindings, compiled.
//! Upstream: apiserver `pkg/admission/plugin/policy/{validating,mutating}/plugin.go` (compilePolicy), `plugin/cel/composition.go`.

use api::types::admissionregistration::v1::{
    MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, Variable,
};
use api::{Object, Reason};
pub(crate) use schema::cel::admission::{add_variable, message_scope, policy_scope as scope};
use schema::cel::{Program, Scope, Type};

use super::super::dynamic::conditions::{Conditions, compile_bool};
use super::super::dynamic::expressions;
use super::super::dynamic::matching::{self, Matcher};

/// A compiled expression, or what is wrong with it.
pub(super) type Compiled = Result<Program, String>;

/// A policy of either kind.
#[derive(Debug)]
pub(in crate::admission) struct Policy {
    pub name: String,
    pub matcher: Matcher,
    pub conditions: Conditions,
    /// Whether what cannot be evaluated refuses the request.
    pub fails: bool,
    /// apiVersion and kind of the parameters.
    pub param_kind: Option<(String, String)>,
    pub variables: Vec<(String, Compiled)>,
    pub validations: Vec<Validation>,
    /// Keys and expressions.
    pub annotations: Vec<(String, String, Compiled)>,
    pub mutations: Vec<Mutation>,
    pub reinvoked: bool,
}

#[derive(Debug)]
pub(in crate::admission) struct Validation {
    pub expression: String,
    pub program: Compiled,
    pub message: String,
    pub message_program: Option<Compiled>,
    pub reason: Reason,
}

/// How an expression changes the object.
#[derive(Debug)]
pub(in crate::admission) struct Mutation {
    pub expression: String,
    /// Whether it gives an object to apply, rather than a JSON patch.
    pub applies: bool,
    pub program: Compiled,
}

/// A binding of either kind.
#[derive(Debug)]
pub(in crate::admission) struct Binding {
    pub name: String,
    pub policy: String,
    pub matcher: Option<Matcher>,
    pub params: Option<ParamRef>,
    pub denies: bool,
    pub warns: bool,
    pub audits: bool,
    /// All that it does, as it was written.
    pub actions: Vec<String>,
}

fn matcher(resources: MatchResources, all: bool) -> Matcher {
    let mut rules = resources.resource_rules.unwrap_or_default();
    if rules.is_empty() && all {
        // A binding without rules takes all that its policy takes.
        let any = || Some(vec!["*".to_owned()]);
        rules.push(api::types::admissionregistration::v1::NamedRuleWithOperations {
            api_groups: any(),
            api_versions: any(),
            operations: any(),
            resource_names: None,
            resources: Some(vec!["*/*".to_owned(), "*".to_owned()]),
            scope: Some("*".to_owned()),
        });
    }
    Matcher {
        rules,
        excluded: resources.exclude_resource_rules.unwrap_or_default(),
        equivalent: resources.match_policy.as_deref() != Some("Exact"),
        namespaces: matching::selector(resources.namespace_selector.as_ref()),
        objects: matching::selector(resources.object_selector.as_ref()),
    }
}

/// Compiles an expression of any type.
pub(crate) fn compile_any(expression: &str, scope: &Scope) -> Compiled {
    schema::cel::compile(expression, scope).map_err(|error| format!("compilation failed: {error}"))
}

/// Compiles an expression that must give one of these types.
pub(crate) fn compile_typed(expression: &str, scope: &Scope, kinds: &[Type], message: &str) -> Compiled {
    let program = compile_any(expression, scope)?;
    let found = program.result_type();
    if *found == Type::Dyn || kinds.contains(found) { Ok(program) } else { Err(message.to_owned()) }
}

/// Compiles the value of an audit annotation.
pub(crate) fn compile_annotation(expression: &str, scope: &Scope) -> Compiled {
    compile_typed(
        expression,
        scope,
        &[Type::String, Type::Null],
        "must evaluate to one of [string null_type]",
    )
}

/// Compiles a message.
pub(crate) fn compile_message(expression: &str, scope: &Scope) -> Compiled {
    compile_typed(expression, scope, &[Type::String], "must evaluate to string")
}

/// Compiles the expression of a mutation.
pub(crate) fn compile_mutation(expression: &str, applies: bool, scope: &Scope) -> Compiled {
    let program = compile_any(expression, scope)?;
    let fits = match (applies, program.result_type()) {
        (_, Type::Dyn) => true,
        (true, Type::Object(object)) => object.name == "Object",
        (false, Type::List(element)) => match &**element {
            Type::Object(object) => object.name == "JSONPatch",
            element => *element == Type::Dyn,
        },
        _ => false,
    };
    match (fits, applies) {
        (true, _) => Ok(program),
        (false, true) => Err("must evaluate to Object".to_owned()),
        (false, false) => Err("must evaluate to list(JSONPatch)".to_owned()),
    }
}

fn variables(given: Option<Vec<Variable>>, scope: &mut Scope) -> Vec<(String, Compiled)> {
    let mut compiled = Vec::new();
    for variable in given.into_iter().flatten() {
        let program = compile_any(&variable.expression, scope);
        let kind = program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone());
        add_variable(scope, &variable.name, kind);
        compiled.push((variable.name, program));
    }
    compiled
}

/// A ValidatingAdmissionPolicy.
pub(super) fn validating(object: &Object) -> Option<Policy> {
    let read: ValidatingAdmissionPolicy = api::json::typed(&object.0).ok()?;
    let spec = read.spec?;
    let param_kind =
        spec.param_kind.map(|kind| (kind.api_version.unwrap_or_default(), kind.kind.unwrap_or_default()));
    let mut scope = scope(param_kind.is_some(), false, expressions::dynamic(), expressions::dynamic());
    let conditions = Conditions::new(&spec.match_conditions.unwrap_or_default(), &scope);
    let variables = variables(spec.variables, &mut scope);
    let messages = message_scope(&scope);
    let validations = spec.validations.into_iter().flatten().map(|validation| Validation {
        program: compile_bool(&validation.expression, &scope),
        message: validation.message.unwrap_or_default().trim().to_owned(),
        message_program: validation
            .message_expression
            .filter(|expression| !expression.is_empty())
            .map(|expression| compile_message(&expression, &messages)),
        reason: Reason::parse(validation.reason.as_deref().unwrap_or("Invalid")),
        expression: validation.expression,
    });
    let annotations = spec.audit_annotations.into_iter().flatten().map(|annotation| {
        let program = compile_annotation(&annotation.value_expression, &scope);
        (annotation.key, annotation.value_expression, program)
    });
    Some(Policy {
        name: object.name().to_owned(),
        conditions,
        fails: spec.failure_policy.as_deref() != Some("Ignore"),
        validations: validations.collect(),
        annotations: annotations.collect(),
        matcher: matcher(spec.match_constraints.unwrap_or_default(), false),
        param_kind,
        variables,
        mutations: Vec::new(),
        reinvoked: false,
    })
}

/// A MutatingAdmissionPolicy.
pub(super) fn mutating(object: &Object) -> Option<Policy> {
    let read: MutatingAdmissionPolicy = api::json::typed(&object.0).ok()?;
    let spec = read.spec?;
    let param_kind =
        spec.param_kind.map(|kind| (kind.api_version.unwrap_or_default(), kind.kind.unwrap_or_default()));
    let mut scope = scope(param_kind.is_some(), true, expressions::dynamic(), expressions::dynamic());
    let conditions = Conditions::new(&spec.match_conditions.unwrap_or_default(), &scope);
    let variables = variables(spec.variables, &mut scope);
    let mutations = spec.mutations.into_iter().flatten().map(|mutation| {
        let applies = mutation.patch_type == "ApplyConfiguration";
        let expression = if applies {
            mutation.apply_configuration.and_then(|apply| apply.expression)
        } else {
            mutation.json_patch.and_then(|patch| patch.expression)
        };
        let expression = expression.unwrap_or_default();
        Mutation { program: compile_mutation(&expression, applies, &scope), expression, applies }
    });
    Some(Policy {
        name: object.name().to_owned(),
        conditions,
        fails: spec.failure_policy.as_deref() != Some("Ignore"),
        mutations: mutations.collect(),
        matcher: matcher(spec.match_constraints.unwrap_or_default(), false),
        param_kind,
        variables,
        validations: Vec::new(),
        annotations: Vec::new(),
        reinvoked: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
    })
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) fn validating_binding(object: &Object) -> Option<Binding> {
    let read: ValidatingAdmissionPolicyBinding = api::json::typed(&object.0).ok()?;
    let spec = read.spec;
    let actions = spec.validation_actions;
    let has = |wanted: &str| actions.iter().any(|action| action == wanted);
    Some(Binding {
        name: object.name().to_owned(),
        policy: spec.policy_name,
        matcher: spec.match_resources.map(|resources| matcher(resources, true)),
        params: spec.param_ref,
        denies: has("Deny"),
        warns: has("Warn"),
        audits: has("Audit"),
        actions,
    })
}

/// A MutatingAdmissionPolicyBinding.
pub(super) fn mutating_binding(object: &Object) -> Option<Binding> {
    let read: MutatingAdmissionPolicyBinding = api::json::typed(&object.0).ok()?;
    let spec = read.spec?;
    Some(Binding {
        name: object.name().to_owned(),
        policy: spec.policy_name.unwrap_or_default(),
        matcher: spec.match_resources.map(|resources| matcher(resources, true)),
        params: spec.param_ref,
        denies: true,
        warns: false,
        audits: false,
        actions: Vec::new(),
    })
}
