//! Expressions over a request: their variables, and what the authorizer says to them.
//! An evaluation does no I/O: when it meets a check that is not decided yet, the check is decided and the evaluation
//! begins again. What an evaluation gives is owned, so nothing of it is held while waiting.
//! Not here: the language (`schema::cel`), and what expressions may name (`schema::cel::admission`).
//! Upstream: apiserver `pkg/admission/plugin/cel`.

use std::collections::HashMap;
use std::sync::Arc;

use schema::cel::authorizer::{Authorizer as Ask, Check, Decision, Resource, Subject};
use schema::cel::value::{Opaque, from_json};
use schema::cel::{Declared, Error, Map, Type, Value, Variables};
use serde_json::{Value as Json, json};

use super::matching::{Matched, operation};
use crate::admission::{Operation, Request};
use crate::authz::{self, Authorizer};
use crate::request::{Attributes, RequestInfo, User};

/// The type of what has no schema.
pub(crate) fn dynamic() -> Type {
    Declared::dynamic().kind().clone()
}

/// The data that expressions read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    /// The object as it will be, or null.
    pub object: Json,
    /// The object as it is, or null.
    pub old: Json,
    /// The request, as an AdmissionRequest without the objects.
    pub request: Json,
    /// The namespace, or null.
    pub namespace: Json,
    /// The parameters, or null.
    pub params: Json,
}

impl Data {
    /// What is known of a request in the version in which it is wanted, the objects not among it.
    pub(in crate::admission) fn of(request: &Request<'_>, matched: &Matched) -> Self {
        Self { request: describe(request, matched, ""), ..Self::default() }
    }
}

/// The request as an AdmissionRequest, without the objects.
pub(in crate::admission) fn describe(request: &Request<'_>, matched: &Matched, uid: &str) -> Json {
    let kind = |kind: &api::GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let resource = |resource: &api::GroupVersionResource| json!({"group": resource.group, "version": resource.version, "resource": resource.resource});
    let user = request.user;
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    let mut review = json!({
        "uid": uid,
        "kind": kind(&matched.kind),
        "resource": resource(&matched.resource),
        "requestKind": kind(&request.kind),
        "requestResource": resource(&request.resource),
        "operation": operation(request.operation),
        "userInfo": info,
        "dryRun": request.dry_run,
        "options": request.options,
    });
    let own = request.object.as_deref().map(|object| object.name()).unwrap_or_default();
    let name = if request.name.is_empty() { own } else { request.name };
    let texts = [
        ("name", name),
        ("namespace", request.namespace),
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
    ];
    for (member, text) in texts {
        if !text.is_empty() {
            review[member] = text.into();
        }
    }
    review
}

/// The checks that are decided.
#[derive(Debug, Default)]
pub(crate) struct Decided(HashMap<Check, Decision>);

impl Ask for Decided {
    fn decision(&self, check: &Check) -> Option<Decision> {
        self.0.get(check).cloned()
    }
}

/// More checks than the costs of one request allow are not decided.
const MAX_CHECKS: usize = 64;

impl Decided {
    /// Decides a check that an evaluation has met; then it begins again.
    pub async fn decide(
        &mut self,
        authorizer: &Arc<dyn Authorizer>,
        user: &User,
        check: Box<Check>,
    ) -> Result<(), api::Status> {
        if self.0.len() >= MAX_CHECKS {
            return Err(api::Status::internal("expressions ask for too many authorizations"));
        }
        let decision = decide(authorizer, user, &check).await;
        self.0.insert(*check, decision);
        Ok(())
    }
}

async fn decide(authorizer: &Arc<dyn Authorizer>, user: &User, check: &Check) -> Decision {
    let user = match &check.service_account {
        None => user.clone(),
        Some((namespace, name)) => User::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), User::AUTHENTICATED],
        ),
    };
    let mut attributes = Attributes::new(user, RequestInfo::default());
    attributes.info.verb = check.verb.clone();
    match &check.subject {
        Subject::Path(path) => attributes.info.path = path.clone(),
        Subject::Resource(resource) => {
            attributes.info.is_resource = true;
            // What kind of path it came by says nothing to authorizers; the version is any.
            attributes.info.version = "*".to_owned();
            attributes.info.group = resource.group.clone();
            attributes.info.resource = resource.resource.clone();
            attributes.info.subresource = resource.subresource.clone();
            attributes.info.namespace = resource.namespace.clone();
            attributes.info.name = resource.name.clone();
            attributes.field_selector = resource.field_selector.clone();
            attributes.label_selector = resource.label_selector.clone();
        }
        Subject::Nothing | Subject::Group(_) => {}
    }
    let (decision, reason) = authorizer.authorize(&attributes).await;
    Decision { allowed: decision == authz::Decision::Allow, reason, error: String::new() }
}

/// The variables of one evaluation.
pub(crate) struct Environment<'a> {
    pub data: &'a Data,
    pub known: &'a Decided,
    /// `variables`, where there are any.
    pub variables: Option<Value<'a>>,
}

impl<'a> Variables<'a> for Environment<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, Error>> {
        Some(Ok(match name {
            "object" => from_json(&self.data.object),
            "oldObject" => from_json(&self.data.old),
            "request" => from_json(&self.data.request),
            "params" => from_json(&self.data.params),
            "namespaceObject" => from_json(&self.data.namespace),
            "variables" => self.variables.clone()?,
            "authorizer" => self.ask(Check::default()),
            "authorizer.requestResource" => self.ask(self.own()),
            _ => return None,
        }))
    }
}

impl<'a> Environment<'a> {
    fn ask(&self, check: Check) -> Value<'a> {
        Value::Opaque(Opaque::Check(std::rc::Rc::new(check), self.known))
    }

    /// The resource of the request, to be asked about.
    fn own(&self) -> Check {
        let request = &self.data.request;
        let text =
            |pointer: &str| request.pointer(pointer).and_then(Json::as_str).unwrap_or_default().to_owned();
        let resource = Resource {
            group: text("/requestResource/group"),
            resource: text("/requestResource/resource"),
            subresource: text("/requestSubResource"),
            namespace: text("/namespace"),
            name: text("/name"),
            ..Resource::default()
        };
        Check { subject: Subject::Resource(resource), ..Check::default() }
    }
}

/// A value as JSON; `None` for what JSON cannot say.
pub(crate) fn to_json(value: &Value<'_>) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Double(number) => json!(number),
        Value::String(text) => Json::String(text.to_string()),
        Value::List(list) => {
            let elements = list.elements().ok()?;
            Json::Array(elements.iter().map(to_json).collect::<Option<_>>()?)
        }
        Value::Map(Map::Json(object, None)) => Json::Object((*object).clone()),
        Value::Map(map) => {
            let mut object = serde_json::Map::new();
            for key in map.keys() {
                let Value::String(name) = &key else { return None };
                object.insert(name.to_string(), to_json(&map.get(&key).ok()??)?);
            }
            Json::Object(object)
        }
        Value::Optional(Some(inner)) => to_json(inner)?,
        Value::Optional(None) => Json::Null,
        Value::Bytes(bytes) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
        Value::Timestamp(at) => at.to_string().into(),
        _ => return None,
    })
}

/// Whether the operation leaves an object behind.
pub(crate) fn has_object(operation: Operation) -> bool {
    operation != Operation::Delete
}
