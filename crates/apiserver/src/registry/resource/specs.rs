//! What the specs of ResourceClaims, their templates and DeviceClasses ask for: that selectors compile and cannot cost too
//! much, and that only namespaces with the label for it ask for access as an administrator.
//! Reads Namespaces.
//! Not here: what needs neither compiler nor cluster (`api`).
//! Upstream: pkg/apis/resource/validation (validateCELSelector), pkg/registry/resource/authz.go (AuthorizedForAdmin),
//! dynamic-resource-allocation/cel.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use api::field::{self, ErrorList, Path};
use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use schema::cel::{Declared, QUANTITY, Scope, Type};
use serde_json::Value;

use super::super::Rest;
use crate::engine::Call;

/// The label of namespaces whose claims may have devices that others use.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";

/// `resourceclaimtemplates`.
pub(in crate::registry) struct ClaimTemplates;

#[async_trait]
impl Rest for ClaimTemplates {
    fn expressions(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        if old.is_some() { ErrorList::new() } else { claim_errors(&new["spec"]["spec"], true) }
    }

    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        if old.is_some() {
            // The spec does not change.
            return Ok(());
        }
        check_claim(call, new, &new.0["spec"]["spec"]).await
    }
}

/// `deviceclasses`.
pub(in crate::registry) struct DeviceClasses;

impl Rest for DeviceClasses {
    fn expressions(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        let selectors = |object: &Value| object["spec"]["selectors"].clone();
        // What is stored already is not refused anew.
        if old.is_none_or(|old| selectors(old) != selectors(new)) {
            compile(&mut errors, &Path::new("spec").child("selectors"), &selectors(new));
        }
        errors
    }
}

/// What a new claim (or the claims of a new template) may not ask for.
pub(super) async fn check_claim(call: &Call, object: &Object, spec: &Value) -> Result<(), Status> {
    let requests = spec.pointer("/devices/requests").unwrap_or(&Value::Null);
    if let Some(index) = administers(requests, "/exactly/adminAccess")
        && let Some(refusal) = refusal(call).await
    {
        // Upstream's path is the same for templates, and leaves out what the field is in.
        let path = Path::new("spec").child("devices").child("requests").index(index).child("adminAccess");
        let errors = vec![refusal.at(&path)];
        return Err(Status::invalid(&call.resource.descriptor.group_kind(), object.name(), errors));
    }
    Ok(())
}

/// Whether devices of an allocation that was made now are given for administration where they may not be.
pub(super) async fn check_allocation(call: &Call, new: &Value, old: &Value) -> ErrorList {
    let granted = |status: &Value| {
        let results = status.pointer("/allocation/devices/results").unwrap_or(&Value::Null);
        administers(results, "/adminAccess")
    };
    // What was granted once stays.
    let (None, Some(index)) = (granted(old), granted(new)) else { return ErrorList::new() };
    let Some(refusal) = refusal(call).await else { return ErrorList::new() };
    let path = Path::new("status").child("allocation").child("devices").child("results");
    vec![refusal.at(&path.index(index).child("adminAccess"))]
}

/// Why a namespace's claims may not administer devices.
enum Refusal {
    /// Its label does not say so.
    Unlabelled,
    /// The namespace cannot be read.
    Unknown(String),
}

impl Refusal {
    fn at(self, path: &Path) -> field::Error {
        match self {
            Self::Unlabelled => field::forbidden(
                path,
                format!(
                    "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
                ),
            ),
            Self::Unknown(why) => {
                field::internal(path, format!("could not retrieve namespace to verify admin access: {why}"))
            }
        }
    }
}

async fn refusal(call: &Call) -> Option<Refusal> {
    let namespaces = GroupResource::new("", "namespaces");
    match call.server.cluster.get(&namespaces, "", &call.info.namespace).await {
        Ok(namespace) if namespace.labels().get(ADMIN_LABEL).is_some_and(|value| value == "true") => None,
        Ok(_) => Some(Refusal::Unlabelled),
        Err(error) => Some(Refusal::Unknown(error.message)),
    }
}

/// The first of a list that is for administration.
fn administers(list: &Value, pointer: &str) -> Option<usize> {
    let list = list.as_array()?;
    list.iter().position(|one| one.pointer(pointer).is_some_and(|access| *access == true))
}

/// The selectors of a claim that cannot be.
pub(super) fn claim_errors(spec: &Value, template: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let path = if template { path.child("spec") } else { path };
    let path = path.child("devices").child("requests");
    let requests = spec.pointer("/devices/requests").and_then(Value::as_array);
    for (index, request) in requests.into_iter().flatten().take(MOST).enumerate() {
        let path = path.index(index);
        compile(&mut errors, &path.child("exactly").child("selectors"), &request["exactly"]["selectors"]);
        let choices = request["firstAvailable"].as_array();
        for (index, choice) in choices.into_iter().flatten().take(MOST).enumerate() {
            let path = path.child("firstAvailable").index(index).child("selectors");
            compile(&mut errors, &path, &choice["selectors"]);
        }
    }
    errors
}

/// How many requests, choices and selectors of each are looked at: more are refused elsewhere, whatever they say.
const MOST: usize = 32;
/// The longest selector that is looked at.
const EXPRESSION_MAX: usize = 10 * 1024;

fn compile(errors: &mut ErrorList, path: &Path, selectors: &Value) {
    for (index, selector) in selectors.as_array().into_iter().flatten().take(MOST).enumerate() {
        let Some(expression) = selector.pointer("/cel/expression").and_then(Value::as_str) else { continue };
        // Refused as too long elsewhere, and not looked at.
        if expression.len() > EXPRESSION_MAX {
            continue;
        }
        let path = path.index(index).child("cel").child("expression");
        match problem(expression) {
            None => {}
            Some(Problem::Wrong(why)) => errors.push(field::invalid(&path, expression, why)),
            Some(Problem::Expensive) => {
                errors.push(field::forbidden(&path, "too complex, exceeds cost limit"))
            }
        }
    }
}

/// What is wrong with a selector.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// It says nothing of a device, and why.
    Wrong(String),
    /// It may cost too much.
    Expensive,
}

fn problem(expression: &str) -> Option<Problem> {
    let program = match schema::cel::compile(expression, &SCOPE) {
        Err(error) => return Some(Problem::Wrong(format!("compilation failed: {error}"))),
        Ok(program) => program,
    };
    match program.result_type() {
        Type::Bool | Type::Dyn if cost(&program) > MAX_COST => Some(Problem::Expensive),
        Type::Bool | Type::Dyn => None,
        other => Some(Problem::Wrong(format!("must evaluate to bool or the unknown type, not {other}"))),
    }
}

/// What a selector can cost with the largest device.
fn cost(program: &schema::cel::Program) -> u64 {
    program.estimate(&BTreeMap::from([(VARIABLE.to_owned(), &*DEVICE)]))
}

/// The most that a selector may cost (`CELSelectorExpressionMaxCost`).
const MAX_COST: u64 = 1_000_000;

/// What selectors name.
const VARIABLE: &str = "device";

/// A device as selectors see it, and how large what it carries can be.
static DEVICE: LazyLock<Declared> = LazyLock::new(|| {
    // Of resource.k8s.io: the longest domains, names, values and drivers, and the most attributes and capacities.
    const DOMAIN: u64 = 63;
    const NAME: u64 = 32;
    const VALUE: u64 = 64;
    const DRIVER: u64 = 63;
    const ENTRIES: u64 = 32;
    let by_domain = |named: Declared| Declared::map(DOMAIN, named, ENTRIES);
    let attributes = Declared::map(NAME, Declared::bounded(Type::Dyn, VALUE), ENTRIES).open();
    let capacity = Declared::map(NAME, Declared::bounded(Type::Opaque(QUANTITY), 0), ENTRIES);
    let fields = [
        ("driver", Declared::bounded(Type::String, DRIVER)),
        ("allowMultipleAllocations", Declared::bounded(Type::Bool, 1)),
        ("attributes", by_domain(attributes)),
        ("capacity", by_domain(capacity)),
    ];
    let fields = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
    Declared::object("kubernetes.DRADevice", fields)
});

static SCOPE: LazyLock<Scope> = LazyLock::new(|| {
    let mut scope = Scope { binds: true, ..Scope::default() };
    scope.variables.insert(VARIABLE.to_owned(), DEVICE.kind().clone());
    scope
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_compile() {
        for (expression, wrong) in [
            ("true", None),
            ("device.driver == 'gpu.example.com' && device.allowMultipleAllocations", None),
            ("device.attributes['gpu.example.com'].model == 'a' && device.attributes['x'].count > 1", None),
            ("device.attributes['gpu.example.com'].healthy", None),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('10Gi')) >= 0", None),
            ("cel.bind(gpu, device.attributes['gpu.example.com'], gpu.one && gpu.two)", None),
            ("device.attributes['x'].version.isGreaterThan(semver('1.0.0'))", None),
            ("1", Some("must evaluate to bool or the unknown type, not int")),
            ("?!", Some("compilation failed: ERROR: <input>:1:1: Syntax error")),
            ("device.name == 'a'", Some("undefined field 'name'")),
            ("devices.driver == 'a'", Some("undeclared reference to 'devices'")),
        ] {
            match (problem(expression), wrong) {
                (None, None) => {}
                (Some(Problem::Wrong(found)), Some(wrong)) if found.contains(wrong) => {}
                (found, _) => panic!("{expression}: {found:?}"),
            }
        }
    }

    #[test]
    fn no_more_selectors_are_compiled_than_there_may_be() {
        let selectors = vec![json!({"cel": {"expression": "a"}}); 1_000];
        let request =
            json!({"exactly": {"selectors": selectors}, "firstAvailable": [{"selectors": selectors}]});
        let spec = json!({"devices": {"requests": [request]}});
        assert_eq!(claim_errors(&spec, false).len(), 2 * MOST);
    }

    /// A walk over ten numbers, in a walk, in a walk …
    fn walks(depth: usize) -> String {
        let inner =
            |inside: String, at: usize| format!("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all(x{at}, {inside})");
        (0..depth).fold("int('1'.find('[0-9]*')) < 100".to_owned(), inner)
    }

    #[test]
    fn costs_are_those_that_upstream_estimates() {
        let seven = walks(7);
        for (expression, expected) in [
            ("true", 0),
            ("'gpu.example.com' in device.attributes", 3),
            ("device.driver == ''", 2),
            ("device.driver == 'gpu.example.com'", 4),
            ("device.allowMultipleAllocations == true", 3),
            ("device.attributes['gpu.example.com'].fast", 4),
            ("device.attributes['gpu.example.com']['fast']", 4),
            ("cel.bind(gpu, device.attributes['gpu.example.com'], gpu.fast)", 15),
            ("device.attributes['gpu.example.com'].count > 0", 5),
            ("device.attributes['gpu.example.com'].kind == 'fish'", 5),
            ("device.attributes['gpu.example.com'].version.isGreaterThan(semver('0.0.1'))", 6),
            ("device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('1Ki'))", 6),
            (
                "!('memory' in device.capacity['gpu.example.com']) || \
                 device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('1Ki'))",
                11,
            ),
            ("device.attributes.exists_one(x, x == 'gpu.example.com')", 164),
            ("device.attributes['gpu.example.com'].exists_one(x, x == 'services')", 133),
            ("device.capacity.exists_one(x, x == 'gpu.example.com')", 164),
            ("device.capacity['gpu.example.com'].exists_one(x, x == 'memory')", 133),
            ("device.attributes['gpu.example.com'].services.split('example').size() >= 2", 19),
            ("device.attributes['gpu.example.com'].services.matches('[^a]?sym')", 18),
            (&seven, 85_555_551),
        ] {
            let program = schema::cel::compile(expression, &SCOPE).unwrap();
            assert_eq!(cost(&program), expected, "{expression}");
        }
    }

    #[test]
    fn a_selector_that_may_cost_too_much_is_refused() {
        for (depth, refused) in [(5, None), (6, Some(Problem::Expensive))] {
            assert_eq!(problem(&walks(depth)), refused, "{depth}");
        }
        let mut errors = ErrorList::new();
        let selectors = json!([{ "cel": { "expression": walks(6) } }]);
        compile(&mut errors, &Path::new("spec").child("selectors"), &selectors);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.selectors[0].cel.expression: Forbidden: too complex, exceeds cost limit"]
        );
    }

    #[test]
    fn every_selector_of_a_claim_is_compiled() {
        let selectors = |expression: &str| json!([{ "cel": { "expression": expression } }]);
        let spec = json!({ "devices": { "requests": [
            { "name": "a", "exactly": { "selectors": selectors("true") } },
            { "name": "b", "exactly": { "selectors": selectors("1"), "adminAccess": true } },
            { "name": "c", "firstAvailable": [{ "selectors": selectors("'a'") }] },
        ] } });
        let fields: Vec<String> = claim_errors(&spec, false).into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "spec.devices.requests[1].exactly.selectors[0].cel.expression",
                "spec.devices.requests[2].firstAvailable[0].selectors[0].cel.expression",
            ]
        );
        assert_eq!(administers(&spec["devices"]["requests"], "/exactly/adminAccess"), Some(1));
    }
}
