//! The paths of a kind: one for the collection, one for an object, one for each subresource.
//! kubectl looks here for the parameters a server understands: `fieldValidation` on PATCH means that the server
//! validates, so that the client need not.

use std::collections::BTreeSet;

use api::kind::{Descriptor, Verbs};
use serde_json::{Map, Value, json};

use super::definition::{Dialect, group_version_kind};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const JSON_PATCHES: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];
const JSON: &str = "application/json";

/// Query parameters: name and type.
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// Where a group version lives, without a leading slash: `api/v1`, `apis/apps/v1`.
pub(super) fn root(descriptor: &Descriptor) -> String {
    if descriptor.group.is_empty() {
        format!("api/{}", descriptor.version)
    } else {
        format!("apis/{}/{}", descriptor.group, descriptor.version)
    }
}

/// One operation of a path.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    parameters: &'a [(&'a str, &'a str)],
    body: Option<&'a str>,
    answer: &'a str,
}

fn operation<'a>(
    method: &'static str,
    action: &'static str,
    id: String,
    parameters: &'a [(&'a str, &'a str)],
    body: Option<&'a str>,
    answer: &'a str,
) -> Operation<'a> {
    Operation { method, action, id, parameters, body, answer }
}

/// Adds all paths of a kind, and to `roots` the definitions they name.
pub(super) fn add(
    paths: &mut Map<String, Value>,
    descriptor: &Descriptor,
    dialect: Dialect,
    roots: &mut BTreeSet<String>,
) {
    let own = &*descriptor.schema;
    let list = format!("{}{}", own.strip_suffix(&*descriptor.kind).unwrap_or(own), descriptor.list_kind);
    let status = format!("{META}.Status");
    let delete_options = format!("{META}.DeleteOptions");
    let verbs = descriptor.verbs;
    let namespaced = if descriptor.is_namespaced() { "Namespaced" } else { "" };
    let group = group_id(descriptor);
    let kind = &*descriptor.kind;
    let id = |verb: &str| format!("{verb}{group}{namespaced}{kind}");
    let gvk = group_version_kind(descriptor);
    let mut put = |path: String, operations: Vec<Operation<'_>>, gvk: &Value| {
        if operations.is_empty() {
            return;
        }
        for operation in &operations {
            roots.extend(operation.body.map(String::from));
            roots.insert(operation.answer.to_owned());
        }
        let item = path_item(&path, operations, &group_tag(descriptor), gvk, dialect);
        paths.insert(path, item);
    };

    let root = root(descriptor);
    let plural = &descriptor.plural;
    let collection = if descriptor.is_namespaced() {
        if verbs.contains(Verbs::LIST) {
            let id = format!("list{group}{kind}ForAllNamespaces");
            put(format!("/{root}/{plural}"), vec![operation("get", "list", id, LIST, None, &list)], &gvk);
        }
        format!("/{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("/{root}/{plural}")
    };
    let mut operations = Vec::new();
    if verbs.contains(Verbs::LIST) {
        operations.push(operation("get", "list", id("list"), LIST, None, &list));
    }
    if verbs.contains(Verbs::CREATE) {
        operations.push(operation("post", "post", id("create"), WRITE, Some(own), own));
    }
    if verbs.contains(Verbs::DELETE_COLLECTION) {
        let id = format!("delete{group}Collection{namespaced}{kind}");
        operations.push(operation("delete", "deletecollection", id, DELETE, Some(&delete_options), &status));
    }
    put(collection.clone(), operations, &gvk);

    let object = format!("{collection}/{{name}}");
    let mut operations = Vec::new();
    if verbs.contains(Verbs::GET) {
        operations.push(operation("get", "get", id("read"), &[], None, own));
    }
    if verbs.contains(Verbs::UPDATE) {
        operations.push(operation("put", "put", id("replace"), WRITE, Some(own), own));
    }
    if verbs.contains(Verbs::PATCH) {
        operations.push(operation("patch", "patch", id("patch"), PATCH, None, own));
    }
    if verbs.contains(Verbs::DELETE) {
        let answer = if descriptor.returns_deleted { own } else { &status };
        operations.push(operation("delete", "delete", id("delete"), DELETE, Some(&delete_options), answer));
    }
    put(object.clone(), operations, &gvk);

    if descriptor.subresources.status {
        let id = |verb: &str| format!("{verb}{group}{namespaced}{kind}Status");
        let operations = vec![
            operation("get", "get", id("read"), &[], None, own),
            operation("put", "put", id("replace"), WRITE, Some(own), own),
            operation("patch", "patch", id("patch"), PATCH, None, own),
        ];
        put(format!("{object}/status"), operations, &gvk);
    }
    if descriptor.subresources.scale.is_some() {
        let scale = "io.k8s.api.autoscaling.v1.Scale";
        let id = |verb: &str| format!("{verb}{group}{namespaced}{kind}Scale");
        let gvk = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        let operations = vec![
            operation("get", "get", id("read"), &[], None, scale),
            operation("put", "put", id("replace"), WRITE, Some(scale), scale),
            operation("patch", "patch", id("patch"), PATCH, None, scale),
        ];
        put(format!("{object}/scale"), operations, &gvk);
    }
    for subresource in &descriptor.subresources.other {
        let target = &subresource.kind;
        let gvk = json!({"group": target.group, "version": target.version, "kind": target.kind});
        let body = subresource_definition(&target.group, &target.version, &target.kind);
        let suffix: String = capital(&subresource.name);
        let mut operations = Vec::new();
        for (verb, method, action, name) in [
            (Verbs::GET, "get", "connect", "connectGet"),
            (Verbs::CREATE, "post", "post", "create"),
            (Verbs::UPDATE, "put", "put", "replace"),
            (Verbs::PATCH, "patch", "patch", "patch"),
        ] {
            // A subresource without a body of its own (logs, exec) answers with text.
            if subresource.verbs.contains(verb) {
                let id = format!("{name}{group}{namespaced}{kind}{suffix}");
                let given = (verb == Verbs::CREATE || verb == Verbs::UPDATE).then_some(&*body);
                let parameters = if verb == Verbs::GET { &[] } else { WRITE };
                operations.push(operation(method, action, id, parameters, given, &body));
            }
        }
        put(format!("{object}/{}", subresource.name), operations, &gvk);
    }
}

/// The definition of a subresource's body.
fn subresource_definition(group: &str, version: &str, kind: &str) -> String {
    let group = match group {
        "" => "core",
        other => other.split('.').next().unwrap_or(other),
    };
    format!("io.k8s.api.{group}.{version}.{kind}")
}

/// `rbac.authorization.k8s.io` and `v1` make `RbacAuthorizationV1`.
fn group_id(descriptor: &Descriptor) -> String {
    let group = if descriptor.group.is_empty() { "core" } else { &descriptor.group };
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    group.split('.').chain([&*descriptor.version]).map(capital).collect()
}

/// `rbac.authorization.k8s.io` makes `RbacAuthorization`, and `rbacAuthorization` as a tag.
pub(super) fn group_names(descriptor: &Descriptor) -> (String, String) {
    let id = group_id(descriptor);
    let version = capital(&descriptor.version);
    let group = id.strip_suffix(&version).unwrap_or(&id);
    let mut letters = group.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_lowercase).collect();
    (group.to_owned(), format!("{first}{}", letters.as_str()))
}

/// `rbac.authorization.k8s.io` and `v1` make `rbacAuthorization_v1`.
fn group_tag(descriptor: &Descriptor) -> String {
    format!("{}_{}", group_names(descriptor).1, descriptor.version)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}", letters.as_str())
}

fn path_item(path: &str, operations: Vec<Operation<'_>>, tag: &str, gvk: &Value, dialect: Dialect) -> Value {
    let mut item = Map::new();
    let mut parameters = Vec::new();
    for name in ["name", "namespace"] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(parameter(name, "path", "string", dialect));
        }
    }
    parameters.push(query_parameter("pretty", "string", dialect));
    item.insert("parameters".into(), Value::Array(parameters));
    for operation in operations {
        item.insert(operation.method.into(), write(&operation, tag, gvk, dialect));
    }
    Value::Object(item)
}

fn write(operation: &Operation<'_>, tag: &str, gvk: &Value, dialect: Dialect) -> Value {
    let mut parameters: Vec<Value> =
        operation.parameters.iter().map(|(name, r#type)| query_parameter(name, r#type, dialect)).collect();
    let patch = operation.method == "patch";
    let body = match operation.body {
        Some(name) => Some(dialect.reference(name)),
        None if patch => Some(json!({"type": "object"})),
        None => None,
    };
    let answer = dialect.reference(operation.answer);
    let mut written = json!({
        "tags": [tag],
        "operationId": operation.id,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": gvk,
    });
    match dialect {
        Dialect::V2 => {
            if let Some(schema) = body {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            }
            let consumes: &[&str] = if patch { &JSON_PATCHES } else { &["*/*"] };
            written["consumes"] = json!(consumes);
            written["produces"] = json!([JSON]);
            written["schemes"] = json!(["https"]);
            written["responses"] = json!({
                "200": {"description": "OK", "schema": answer},
                "401": {"description": "Unauthorized"},
            });
        }
        Dialect::V3 => {
            if let Some(schema) = body {
                let types: &[&str] = if patch { &JSON_PATCHES } else { &["*/*"] };
                let content: Map<String, Value> =
                    types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
                written["requestBody"] = json!({"content": content, "required": true});
            }
            written["responses"] = json!({
                "200": {"description": "OK", "content": {JSON: {"schema": answer}}},
                "401": {"description": "Unauthorized"},
            });
        }
    }
    if !parameters.is_empty() {
        written["parameters"] = Value::Array(parameters);
    }
    written
}

/// The parameters that v2 operations refer to.
pub(super) fn shared_parameters() -> Map<String, Value> {
    [LIST, PATCH, DELETE, &[("pretty", "string")]]
        .into_iter()
        .flatten()
        .map(|(name, r#type)| ((*name).to_owned(), parameter(name, "query", r#type, Dialect::V2)))
        .collect()
}

fn query_parameter(name: &str, r#type: &str, dialect: Dialect) -> Value {
    match dialect {
        // kubectl resolves references of v2 only by this prefix.
        Dialect::V2 => json!({"$ref": format!("#/parameters/{name}")}),
        Dialect::V3 => parameter(name, "query", r#type, dialect),
    }
}

fn parameter(name: &str, place: &str, r#type: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    if place == "path" {
        parameter["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => {
            parameter["type"] = r#type.into();
            parameter["uniqueItems"] = true.into();
        }
        Dialect::V3 => parameter["schema"] = json!({"type": r#type}),
    }
    parameter
}
