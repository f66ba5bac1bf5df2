//! What the expressions of admission may name: webhooks' conditions, and policies of either kind.
//! Not here: the values of these names (apiserver), the types of objects (`declared`, `openapi`).
//! Upstream: apiserver `pkg/admission/plugin/cel/{compile,composition}.go`.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::types::ObjectType;
use super::{AUTHORIZER, RESOURCE_CHECK, Scope, Type};

/// The type of `variables`, and the name it is known by.
const VARIABLES: (&str, &str) = ("kubernetes.variables", "variables");

/// What expressions of a request can name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names {
    /// `params`
    pub params: bool,
    /// `authorizer`
    pub authorizer: bool,
    /// `namespaceObject`
    pub namespace: bool,
    /// `Object{…}` and `JSONPatch{…}`
    pub construct: bool,
}

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    Type::object(name, fields.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect())
}

/// The type of `request`.
fn request_type() -> Type {
    static TYPE: LazyLock<Type> = LazyLock::new(|| {
        let gvk = ["group", "version", "kind"].map(|name| (name, Type::String));
        let gvr = ["group", "version", "resource"].map(|name| (name, Type::String));
        let kind = object("kubernetes.GroupVersionKind", &gvk);
        let resource = object("kubernetes.GroupVersionResource", &gvr);
        let user = [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", Type::list(Type::String)),
            ("extra", Type::map(Type::String, Type::list(Type::String))),
        ];
        object(
            "kubernetes.AdmissionRequest",
            &[
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", Type::String),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", Type::String),
                ("name", Type::String),
                ("namespace", Type::String),
                ("operation", Type::String),
                ("userInfo", object("kubernetes.UserInfo", &user)),
                ("dryRun", Type::Bool),
                ("options", Type::Dyn),
            ],
        )
    });
    TYPE.clone()
}

/// The type of `namespaceObject`.
fn namespace_type() -> Type {
    static TYPE: LazyLock<Type> = LazyLock::new(|| {
        let texts = Type::map(Type::String, Type::String);
        let metadata = [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", texts.clone()),
            ("annotations", texts),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ];
        let condition = [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ];
        let conditions = Type::list(object("kubernetes.NamespaceCondition", &condition));
        object(
            "kubernetes.Namespace",
            &[
                ("metadata", object("kubernetes.NamespaceMetadata", &metadata)),
                ("spec", object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(Type::String))])),
                (
                    "status",
                    object(
                        "kubernetes.NamespaceStatus",
                        &[("conditions", conditions), ("phase", Type::String)],
                    ),
                ),
            ],
        )
    });
    TYPE.clone()
}

/// An object type that may have any field.
fn open(name: &str) -> Type {
    let open = ObjectType { name: name.to_owned(), fields: BTreeMap::new(), open: true };
    Type::Object(Arc::new(open))
}

/// The names and types for expressions over a request whose objects have the type `object`.
pub fn scope(names: Names, object_type: Type, params: Type) -> Scope {
    let mut scope = Scope::default();
    let mut declare = |name: &str, kind: Type| scope.variables.insert(name.to_owned(), kind);
    declare("object", object_type.clone());
    declare("oldObject", object_type);
    declare("request", request_type());
    if names.params {
        declare("params", params);
    }
    if names.namespace {
        declare("namespaceObject", namespace_type());
    }
    if names.authorizer {
        declare("authorizer", Type::Opaque(AUTHORIZER));
        declare("authorizer.requestResource", Type::Opaque(RESOURCE_CHECK));
    }
    if names.construct {
        scope.constructible.insert("Object".to_owned(), open("Object"));
        let patch =
            [("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)];
        scope.constructible.insert("JSONPatch".to_owned(), object("JSONPatch", &patch));
    }
    scope
}

/// The names of a policy's expressions; its variables grow with [`add_variable`].
pub fn policy_scope(has_params: bool, construct: bool, object: Type, params: Type) -> Scope {
    let names = Names { params: has_params, authorizer: true, namespace: true, construct };
    let mut scope = scope(names, object, params);
    let (kind, name) = VARIABLES;
    scope.variables.insert(name.to_owned(), Type::object(kind, BTreeMap::new()));
    scope
}

/// The same scope for expressions that make messages: they cannot ask the authorizer.
pub fn message_scope(scope: &Scope) -> Scope {
    let mut scope = scope.clone();
    for name in ["authorizer", "authorizer.requestResource"] {
        scope.variables.remove(name);
    }
    scope
}

/// Lets later expressions name a variable.
pub fn add_variable(scope: &mut Scope, name: &str, kind: Type) {
    let (variables, known_as) = VARIABLES;
    let mut fields = match scope.variables.get(known_as) {
        Some(Type::Object(known)) => known.fields.clone(),
        _ => BTreeMap::new(),
    };
    fields.insert(name.to_owned(), kind);
    scope.variables.insert(known_as.to_owned(), Type::object(variables, fields));
}
