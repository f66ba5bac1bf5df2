//! Says in a ValidatingAdmissionPolicy's status which of its expressions do not fit the types of the kinds it names.
//!
//! Reads ValidatingAdmissionPolicies, discovery, and the OpenAPI v3 documents of the group versions that a policy names.
//! Applies `status.observedGeneration` and `status.typeChecking`, once for every generation.
//! Not here: refusing expressions that fit no type at all, and evaluating them (admission).
//! Upstream: `pkg/controller/validatingadmissionpolicystatus`, apiserver `policy/validating/typechecking.go`.

use std::collections::{BTreeMap, BTreeSet};

use api::types::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec};
use api::{GroupVersion, GroupVersionKind};
use client::Patch;
use jiff::Timestamp;
use reconcile::{Action, Answers, Controller, Key, Plan, View, Watches};
use schema::cel::{self, Type, admission};
use serde_json::{Value, json};

/// No more kinds than these are checked.
const MAX_KINDS: usize = 10;
/// Discovery is asked about no more group versions than these.
const MAX_GROUP_VERSIONS: usize = 100;

/// The controller.
pub struct PolicyStatus;

impl Controller for PolicyStatus {
    const NAME: &'static str = "validatingadmissionpolicy-status";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.map::<ValidatingAdmissionPolicy>(|_, change, wake| {
            if !change.is_deleted() && unseen(change.object()).is_some() {
                wake(Key::of(&**change.object()));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(policy) = view.get_key::<ValidatingAdmissionPolicy>(key) else { return plan };
        let (Some(generation), Some(spec)) = (unseen(&policy), &policy.spec) else { return plan };
        let warnings = match types(spec, view.answers()) {
            Ok(types) => types.warnings(spec),
            Err(questions) => {
                plan.questions = questions;
                return plan;
            }
        };
        let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        let value = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": key.name()},
            "status": {"observedGeneration": generation, "typeChecking": checking},
        });
        let patch = Patch::Apply { value, field_manager: Self::NAME.to_owned(), force: true };
        plan.act(Action::patch_status(&*policy, patch));
        plan
    }
}

/// The generation that nothing is said about yet.
fn unseen(policy: &ValidatingAdmissionPolicy) -> Option<i64> {
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
    policy.metadata.generation.filter(|generation| *generation > seen)
}

/// What is known of a policy's objects.
struct Types {
    /// The kinds and their types, in order of group, version and kind.
    objects: Vec<(GroupVersionKind, Type)>,
    /// The type of the parameters, if the server knows it.
    params: Option<Type>,
}

/// The types that a policy names; `Err` says what to ask first. What cannot be found is not checked.
fn types(spec: &ValidatingAdmissionPolicySpec, answers: &Answers) -> Result<Types, Vec<String>> {
    let params = spec.param_kind.as_ref().and_then(|named| {
        let version = GroupVersion::parse(named.api_version.as_deref()?)?;
        Some(version.with_kind(named.kind.as_deref()?))
    });
    let kinds = kinds(spec, answers)?;
    let paths: BTreeSet<String> =
        kinds.iter().chain(&params).map(|kind| document_path("/openapi/v3", kind)).collect();
    let unasked: Vec<String> = paths.into_iter().filter(|path| answers.get(path).is_none()).collect();
    if !unasked.is_empty() {
        return Err(unasked);
    }
    let find = |kind: &GroupVersionKind| match answers.get(&document_path("/openapi/v3", kind)) {
        Some(Ok(document)) => cel::openapi::of_kind(document, kind),
        _ => None,
    };
    let params = params.as_ref().and_then(find);
    let objects = kinds.into_iter().filter_map(|kind| find(&kind).map(|found| (kind, found))).collect();
    Ok(Types { objects, params })
}

/// Where a document about a kind's group version is, below a root.
fn document_path(root: &str, kind: &GroupVersionKind) -> String {
    group_version_path(root, &kind.group, &kind.version)
}

fn group_version_path(root: &str, group: &str, version: &str) -> String {
    match group {
        "" => format!("{root}/api/{version}"),
        group => format!("{root}/apis/{group}/{version}"),
    }
}

/// The kinds of the resources that the rules name without wildcards.
fn kinds(
    spec: &ValidatingAdmissionPolicySpec,
    answers: &Answers,
) -> Result<BTreeSet<GroupVersionKind>, Vec<String>> {
    let rules = spec.match_constraints.as_ref().and_then(|matched| matched.resource_rules.as_deref());
    let (mut found, mut documents) = (BTreeSet::new(), BTreeMap::new());
    for rule in rules.unwrap_or_default() {
        let [groups, versions] = [&rule.api_groups, &rule.api_versions].map(|names| {
            let names: BTreeSet<&str> = names.iter().flatten().map(String::as_str).collect();
            // One wildcard among them, and the rule is given up.
            if names.iter().any(|name| name.contains('*')) { BTreeSet::new() } else { names }
        });
        let resources: BTreeSet<&str> = rule
            .resources
            .iter()
            .flatten()
            .map(String::as_str)
            .filter(|resource| !resource.contains(['*', '/']))
            .collect();
        if resources.is_empty() {
            continue;
        }
        let mut of_rule = 0;
        'rule: for group in groups {
            for version in &versions {
                let path = group_version_path("", group, version);
                if documents.len() == MAX_GROUP_VERSIONS && !documents.contains_key(&path) {
                    break 'rule;
                }
                let answer = answers.get(&path);
                documents.insert(path, answer.is_some());
                let Some(Ok(document)) = answer else { continue };
                for resource in &resources {
                    let Some(kind) = kind_of(document, resource) else { continue };
                    let (group, version) = (group.to_owned(), (*version).to_owned());
                    found.insert(GroupVersionKind { group, version, kind });
                    of_rule += 1;
                    if of_rule == MAX_KINDS {
                        break 'rule;
                    }
                }
            }
        }
        if of_rule == MAX_KINDS {
            break;
        }
    }
    let unasked: Vec<String> =
        documents.into_iter().filter(|(_, asked)| !asked).map(|(path, _)| path).collect();
    if unasked.is_empty() { Ok(found) } else { Err(unasked) }
}

/// The kind of a resource, by its plural or singular name.
fn kind_of(document: &Value, resource: &str) -> Option<String> {
    let listed = document["resources"].as_array()?;
    let named =
        listed.iter().find(|listed| listed["name"] == resource || listed["singularName"] == resource)?;
    named["kind"].as_str().map(ToOwned::to_owned)
}

impl Types {
    /// Every expression that does not fit one of the kinds, with what is wrong for which of them.
    fn warnings(&self, spec: &ValidatingAdmissionPolicySpec) -> Vec<Value> {
        let scopes: Vec<_> = self
            .objects
            .iter()
            .map(|(kind, object)| {
                let params = self.params.clone().unwrap_or(Type::Dyn);
                let mut scope = admission::policy_scope(self.params.is_some(), false, object.clone(), params);
                for variable in spec.variables.iter().flatten() {
                    let program = cel::compile(&variable.expression, &scope);
                    let found = program.map_or(Type::Dyn, |program| program.result_type().clone());
                    admission::add_variable(&mut scope, &variable.name, found);
                }
                (kind, scope)
            })
            .collect();
        let mut warnings = Vec::new();
        let mut check = |index: usize, field: &str, expression: &str| {
            let wrong: Vec<String> = scopes
                .iter()
                .filter_map(|(kind, scope)| {
                    let error = cel::compile(expression, scope).err()?;
                    Some(format!("{kind}: {error}\n"))
                })
                .collect();
            if !wrong.is_empty() {
                let field = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": field, "warning": wrong.join("\n")}));
            }
        };
        for (index, validation) in spec.validations.iter().flatten().enumerate() {
            check(index, "expression", &validation.expression);
            match validation.message_expression.as_deref() {
                None | Some("") => {}
                Some(expression) => check(index, "messageExpression", expression),
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use reconcile::{Fixture, Verb};

    use super::*;

    fn discovered(resources: Value) -> Value {
        json!({"kind": "APIResourceList", "resources": resources})
    }

    fn published(kinds: &[&str], spec: Value) -> Value {
        let schemas: serde_json::Map<String, Value> = kinds
            .iter()
            .map(|kind| {
                let gvk = json!([{"group": "apps", "version": "v1", "kind": kind}]);
                let schema = json!({
                    "type": "object", "x-kubernetes-group-version-kind": gvk,
                    "properties": {"spec": {"type": "object", "properties": spec}},
                });
                ((*kind).to_owned(), schema)
            })
            .collect();
        json!({"components": {"schemas": schemas}})
    }

    fn policy(spec: Value, observed: Option<i64>) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "generation": 2},
            "spec": spec,
            "status": {"observedGeneration": observed},
        }))
        .unwrap()
    }

    fn rules(group: &str, version: &str, resources: &[&str]) -> Value {
        json!({"resourceRules": [{
            "apiGroups": [group], "apiVersions": [version], "operations": ["*"], "resources": resources,
        }]})
    }

    /// The paths that are asked, or the status that is applied.
    fn answer(spec: Value, answers: &[(&str, Value)]) -> Result<Value, Vec<String>> {
        let mut fixture = Fixture::new(PolicyStatus).with(vec![policy(spec, Some(1))]);
        for (path, answer) in answers {
            fixture = fixture.with_answer(path, Ok(answer.clone()));
        }
        let plan = fixture.plan("", "p", Timestamp::UNIX_EPOCH);
        if !plan.questions.is_empty() {
            return Err(plan.questions);
        }
        let action = plan.actions().next().expect("a status");
        assert_eq!(action.path(), "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/p");
        assert!(matches!(action.verb, Verb::PatchSubresource("status", _)), "{action:?}");
        Ok(action.patch_body().expect("a patch")["status"].clone())
    }

    #[test]
    fn asks_what_it_must_and_says_what_does_not_fit() {
        let discovery = discovered(json!([
            {"name": "deployments", "singularName": "deployment", "kind": "Deployment"},
            {"name": "replicasets", "singularName": "replicaset", "kind": "ReplicaSet"},
            {"name": "deployments/scale", "kind": "Scale"},
        ]));
        let document = published(&["Deployment", "ReplicaSet"], json!({"replicas": {"type": "integer"}}));
        let known = [("/apis/apps/v1", discovery), ("/openapi/v3/apis/apps/v1", document)];
        let on = |resources: &[&str], validations: Value| json!({"matchConstraints": rules("apps", "v1", resources), "validations": validations});
        let fine = on(&["deployments"], json!([{"expression": "object.spec.replicas > 1"}]));
        assert_eq!(answer(fine.clone(), &[]), Err(vec!["/apis/apps/v1".to_owned()]));
        assert_eq!(answer(fine.clone(), &known[..1]), Err(vec!["/openapi/v3/apis/apps/v1".to_owned()]));
        assert_eq!(answer(fine, &known), Ok(json!({"observedGeneration": 2, "typeChecking": {}})));

        let confused = on(
            &["replicasets", "deployments", "deployments/scale"],
            json!([{
                "expression": "object.spec.replicas > '1'",
                "messageExpression": "'wants ' + object.spec.replicas",
            }]),
        );
        let report = |kind: &str, message: &str, expression: &str, column: usize| {
            let dots = ".".repeat(column - 1);
            format!(
                "apps/v1, Kind={kind}: ERROR: <input>:1:{column}: {message}\n | {expression}\n | {dots}^\n"
            )
        };
        let both = |message: &str, expression: &str, column: usize| {
            ["Deployment", "ReplicaSet"].map(|kind| report(kind, message, expression, column)).join("\n")
        };
        let status = answer(confused, &known).unwrap();
        let greater = "found no matching overload for '_>_' applied to '(int, string)'";
        let plus = "found no matching overload for '_+_' applied to '(string, int)'";
        assert_eq!(
            status["typeChecking"]["expressionWarnings"],
            json!([
                {"fieldRef": "spec.validations[0].expression",
                    "warning": both(greater, "object.spec.replicas > '1'", 22)},
                {"fieldRef": "spec.validations[0].messageExpression",
                    "warning": both(plus, "'wants ' + object.spec.replicas", 10)},
            ])
        );
    }

    #[test]
    fn variables_and_parameters_have_types_too() {
        let discovery = discovered(json!([{"name": "deployments", "kind": "Deployment"}]));
        let document = published(&["Deployment", "Limits"], json!({"replicas": {"type": "integer"}}));
        let known = [("/apis/apps/v1", discovery), ("/openapi/v3/apis/apps/v1", document)];
        let warned = |expression: &str, param_kind: Value| {
            let status = answer(
                json!({
                    "paramKind": param_kind,
                    "matchConstraints": rules("apps", "v1", &["deployments"]),
                    "variables": [
                        {"name": "count", "expression": "object.spec.replicas"},
                        {"name": "wrong", "expression": "object.spec.missing"},
                    ],
                    "validations": [{"expression": expression}],
                }),
                &known,
            );
            let status = status.unwrap();
            let warning = &status["typeChecking"]["expressionWarnings"][0]["warning"];
            warning.as_str().map(|text| text.lines().next().unwrap_or_default().to_owned())
        };
        let limits = json!({"apiVersion": "apps/v1", "kind": "Limits"});
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Unknown"});
        for (expression, param_kind, wrong) in [
            ("variables.count < params.spec.replicas", &limits, None),
            ("variables.count < params.spec.other", &limits, Some("undefined field 'other'")),
            ("variables.count < params.spec.other", &nothing, Some("undeclared reference to 'params'")),
            ("variables.count == 'a'", &limits, Some("'_==_' applied to '(int, string)'")),
            ("variables.wrong == 'a'", &limits, None),
            ("authorizer.requestResource.check('get').allowed()", &limits, None),
            ("namespaceObject.metadata.name == request.namespace", &limits, None),
        ] {
            let found = warned(expression, param_kind.clone());
            let fits = match (&found, wrong) {
                (None, None) => true,
                (Some(found), Some(wrong)) => found.contains(wrong),
                _ => false,
            };
            assert!(fits, "{expression}: {found:?}");
        }
    }

    #[test]
    fn what_is_not_named_or_not_served_is_not_checked() {
        let applied = Ok(json!({"observedGeneration": 2, "typeChecking": {}}));
        let validations = json!([{"expression": "object.anything"}]);
        for (group, version, resource) in [("*", "v1", "pods"), ("", "*", "pods"), ("", "v1", "*")] {
            let spec =
                json!({"matchConstraints": rules(group, version, &[resource]), "validations": validations});
            assert_eq!(answer(spec, &[]), applied, "{group} {version} {resource}");
        }
        assert_eq!(answer(json!({"validations": validations}), &[]), applied);
        let spec = json!({"matchConstraints": rules("", "v1", &["pods"]), "validations": validations});
        assert_eq!(answer(spec.clone(), &[]), Err(vec!["/api/v1".to_owned()]));
        assert_eq!(answer(spec, &[("/api/v1", discovered(json!([])))]), applied);
    }

    #[test]
    fn the_number_of_kinds_is_bounded() {
        let names: Vec<String> = (0..20).map(|number| format!("kind{number:02}")).collect();
        let listed: Vec<Value> = names.iter().map(|name| json!({"name": name, "kind": name})).collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let document = published(&known, json!({}));
        let spec = json!({
            "matchConstraints": rules("apps", "v1", &known),
            "validations": [{"expression": "object.spec.missing"}],
        });
        let answers = [("/apis/apps/v1", discovered(json!(listed))), ("/openapi/v3/apis/apps/v1", document)];
        let status = answer(spec, &answers).unwrap();
        let warning = status["typeChecking"]["expressionWarnings"][0]["warning"].as_str().unwrap();
        assert_eq!(warning.matches("undefined field 'missing'").count(), MAX_KINDS);
    }

    #[test]
    fn a_generation_is_checked_once() {
        let fixture = Fixture::new(PolicyStatus).with(vec![policy(json!({}), Some(2))]);
        assert!(fixture.woken().is_empty());
        assert_eq!(fixture.plan("", "p", Timestamp::UNIX_EPOCH).actions().count(), 0);
        let fixture = Fixture::new(PolicyStatus).with(vec![policy(json!({}), None)]);
        assert_eq!(fixture.woken(), ["p"]);
    }
}
