//! The one error of the API: `metav1.Status`, its constructors and predicates.
//! Codes, reasons and messages are upstream's (apimachinery `pkg/api/errors`); clients match on them.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::ErrorList;
use crate::gvk::{GroupKind, GroupResource};

/// The machine-readable reason of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[expect(missing_docs, reason = "the names are the wire values")]
pub enum Reason {
    #[default]
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// A reason this list does not know, from another server or a webhook.
    Other(String),
}

impl Reason {
    /// The wire value; empty for [`Reason::Unknown`].
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::StoreReadError => "StorageReadError",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Other(reason) => reason,
        }
    }

    /// Reads the wire value.
    pub fn parse(text: &str) -> Self {
        const KNOWN: [Reason; 19] = [
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Invalid,
            Reason::ServerTimeout,
            Reason::StoreReadError,
            Reason::Timeout,
            Reason::TooManyRequests,
            Reason::BadRequest,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::InternalError,
            Reason::Expired,
            Reason::ServiceUnavailable,
        ];
        if text.is_empty() {
            return Self::Unknown;
        }
        KNOWN
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .unwrap_or_else(|| Self::Other(text.to_owned()))
    }
}

/// One cause of a failure, usually one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: String,
    /// What to tell a person.
    pub message: String,
    /// The field, may be empty.
    pub field: String,
}

/// What the failure is about. All strings may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Kind, or (upstream's habit) the resource.
    pub kind: String,
    /// UID of the object.
    pub uid: String,
    /// The causes.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense; 0 = none.
    pub retry_after_seconds: u32,
}

/// A failed request, as it is sent to the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// What to tell a person.
    pub message: String,
    /// What it is about. Boxed: a Status travels in every `Result` of the server.
    pub details: Option<Box<Details>>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn about(resource: &GroupResource, name: &str) -> Option<Box<Details>> {
    Some(Box::new(Details {
        name: name.to_owned(),
        group: resource.group.clone(),
        kind: resource.resource.clone(),
        ..Details::default()
    }))
}

impl Status {
    /// A status of no constructor below; no details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn with(mut self, details: Option<Box<Details>>) -> Self {
        self.details = details;
        self
    }

    /// 404: the object does not exist.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} \"{name}\" not found"))
            .with(about(resource, name))
    }

    /// 409: the object to create exists.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} \"{name}\" already exists"))
            .with(about(resource, name))
    }

    /// 409: `generateName` produced a name that exists; the client should try again.
    pub fn generate_name_conflict(resource: &GroupResource, name: &str, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(
            409,
            Reason::AlreadyExists,
            format!("{resource} \"{name}\" already exists, the server was not able to generate a unique name for the object"),
        )
        .with(about(resource, name));
        status.set_retry_after(retry_after_seconds);
        status
    }

    /// 409: the object changed under the request.
    pub fn conflict(resource: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        Self::new(
            409,
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {resource} \"{name}\": {message}"),
        )
        .with(about(resource, name))
    }

    /// 422: the object is not valid; one cause for each error.
    pub fn invalid(kind: &GroupKind, name: &str, errors: ErrorList) -> Self {
        let mut message = format!("{kind} {} is invalid", crate::field::quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&aggregate(&errors));
        }
        Self::new(422, Reason::Invalid, message).with(Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes: errors.iter().map(crate::field::Error::cause).collect(),
            ..Details::default()
        })))
    }

    /// 403: the request is understood and refused.
    pub fn forbidden(resource: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        let text = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {message}"),
            (false, true) => format!("{resource} is forbidden: {message}"),
            (false, false) => format!("{resource} \"{name}\" is forbidden: {message}"),
        };
        Self::new(403, Reason::Forbidden, text).with(about(resource, name))
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 401: who are you?
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        let message = if message.is_empty() { "not authorized".to_owned() } else { message };
        Self::new(401, Reason::Unauthorized, message)
    }

    /// 410 Expired: the resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// 410 Gone.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    /// 405: the resource has no such verb.
    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            format!("{verb} is not supported on resources of kind \"{resource}\""),
        )
        .with(about(resource, ""))
    }

    /// 405 where no more is known than the path and the method (upstream's `NewGenericServerResponse`).
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, Reason::MethodNotAllowed, message).with(Some(Box::default()))
    }

    /// 406: none of the media types the client accepts can be served.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, Reason::NotAcceptable, message)
    }

    /// 415: the body's media type cannot be read.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 413: the body is too large.
    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity is too large: {message}"))
    }

    /// 429: come back in `retry_after_seconds`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, Reason::TooManyRequests, message);
        status.set_retry_after(retry_after_seconds);
        status
    }

    /// 504: the request did not complete in time.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(504, Reason::Timeout, format!("Timeout: {message}"));
        status.set_retry_after(retry_after_seconds);
        status
    }

    /// 500 ServerTimeout: the server could not do it now; the client may try again.
    pub fn server_timeout(resource: &GroupResource, verb: &str, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(
            500,
            Reason::ServerTimeout,
            format!(
                "The {verb} operation against {resource} could not be completed at this time, please try again."
            ),
        )
        .with(about(resource, ""));
        status.set_retry_after(retry_after_seconds);
        status
    }

    /// 500: a fault of the server.
    pub fn internal(message: impl fmt::Display) -> Self {
        let text = message.to_string();
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {text}")).with(Some(
            Box::new(Details {
                causes: vec![Cause { message: text, ..Cause::default() }],
                ..Details::default()
            }),
        ))
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// The answer to an HTTP request of which nothing more is known than its code (upstream's
    /// `NewGenericServerResponse`, in the form the server uses for unrouted paths).
    pub fn page_not_found() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with(Some(Box::default()))
    }

    /// Whether it says which object it is about.
    pub fn names_an_object(&self) -> bool {
        self.details.as_ref().is_some_and(|details| !details.name.is_empty())
    }

    fn set_retry_after(&mut self, seconds: u32) {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
    }

    /// Seconds after which a retry makes sense, when the server said so.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref().map(|details| details.retry_after_seconds).filter(|&seconds| seconds > 0)
    }

    /// The wire form.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": self.code
        });
        let fields = object.as_object_mut().expect("a literal object");
        insert(fields, "message", &self.message);
        insert(fields, "reason", self.reason.as_str());
        if let Some(details) = &self.details {
            fields.insert("details".into(), details.to_json());
        }
        object
    }

    /// Reads the wire form. `None` when the value is not a `Status`, or reports success.
    pub fn from_json(value: &Value) -> Option<Self> {
        if value.get("kind")?.as_str()? != "Status" || value.get("status")?.as_str()? != "Failure" {
            return None;
        }
        Some(Self {
            code: value
                .get("code")
                .and_then(Value::as_u64)
                .and_then(|code| code.try_into().ok())
                .unwrap_or(0),
            reason: Reason::parse(&text(value, "reason")),
            message: text(value, "message"),
            details: value.get("details").map(|details| Box::new(Details::from_json(details))),
        })
    }

    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }
    /// 409 because of a stale resource version or a failed precondition.
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }
    /// 409 because the object exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }
    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.reason == Reason::Forbidden
    }
    /// 401.
    pub fn is_unauthorized(&self) -> bool {
        self.reason == Reason::Unauthorized
    }
    /// 422.
    pub fn is_invalid(&self) -> bool {
        self.reason == Reason::Invalid
    }
    /// 410, for a resource version or continue token too old to serve.
    pub fn is_expired(&self) -> bool {
        matches!(self.reason, Reason::Expired | Reason::Gone)
    }
    /// 429.
    pub fn is_too_many_requests(&self) -> bool {
        self.reason == Reason::TooManyRequests || self.code == 429
    }
    /// 400.
    pub fn is_bad_request(&self) -> bool {
        self.reason == Reason::BadRequest
    }
    /// The namespace is going away: creating in it will not succeed.
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && self
                .details
                .iter()
                .flat_map(|details| &details.causes)
                .any(|cause| cause.reason == "NamespaceTerminating")
    }
}

/// How upstream prints several errors at once: each text once, in brackets when there are several.
fn aggregate(errors: &ErrorList) -> String {
    let mut seen = HashSet::with_capacity(errors.len());
    let mut all = String::new();
    for text in errors.iter().map(ToString::to_string) {
        if seen.contains(&text) {
            continue;
        }
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(&text);
        seen.insert(text);
    }
    if seen.len() == 1 { all } else { format!("[{all}]") }
}

fn insert(fields: &mut Map<String, Value>, name: &str, value: &str) {
    if !value.is_empty() {
        fields.insert(name.to_owned(), Value::from(value));
    }
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Details {
    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        insert(&mut fields, "name", &self.name);
        insert(&mut fields, "group", &self.group);
        insert(&mut fields, "kind", &self.kind);
        insert(&mut fields, "uid", &self.uid);
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut fields = Map::new();
                insert(&mut fields, "reason", &cause.reason);
                insert(&mut fields, "message", &cause.message);
                insert(&mut fields, "field", &cause.field);
                Value::Object(fields)
            });
            fields.insert("causes".into(), causes.collect());
        }
        if self.retry_after_seconds > 0 {
            fields.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(fields)
    }

    fn from_json(value: &Value) -> Self {
        let causes = value.get("causes").and_then(Value::as_array).into_iter().flatten();
        Self {
            name: text(value, "name"),
            group: text(value, "group"),
            kind: text(value, "kind"),
            uid: text(value, "uid"),
            causes: causes
                .map(|cause| Cause {
                    reason: text(cause, "reason"),
                    message: text(cause, "message"),
                    field: text(cause, "field"),
                })
                .collect(),
            retry_after_seconds: value
                .get("retryAfterSeconds")
                .and_then(Value::as_u64)
                .and_then(|seconds| seconds.try_into().ok())
                .unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Path, required};

    #[test]
    fn messages_are_upstreams() {
        let pods = GroupResource::new("", "pods");
        let deployments = GroupResource::new("apps", "deployments");
        for (status, code, message) in [
            (Status::not_found(&deployments, "web"), 404, r#"deployments.apps "web" not found"#),
            (Status::already_exists(&pods, "a"), 409, r#"pods "a" already exists"#),
            (
                Status::conflict(&pods, "a", "changed"),
                409,
                r#"Operation cannot be fulfilled on pods "a": changed"#,
            ),
            (Status::forbidden(&pods, "", "no"), 403, "pods is forbidden: no"),
            (Status::forbidden(&pods, "a", "no"), 403, r#"pods "a" is forbidden: no"#),
            (
                Status::invalid(
                    &GroupKind::new("apps", "Deployment"),
                    "web",
                    vec![required(&Path::new("a"), ""), required(&Path::new("b"), "x")],
                ),
                422,
                r#"Deployment.apps "web" is invalid: [a: Required value, b: Required value: x]"#,
            ),
            (
                Status::method_not_supported(&pods, "patch"),
                405,
                r#"patch is not supported on resources of kind "pods""#,
            ),
        ] {
            assert_eq!((status.code, status.message.as_str()), (code, message));
            assert_eq!(Status::from_json(&status.to_json()), Some(status));
        }
    }

    #[test]
    fn success_is_not_an_error() {
        assert_eq!(Status::from_json(&json!({"kind": "Status", "status": "Success"})), None);
        assert_eq!(Status::from_json(&json!({"kind": "Pod"})), None);
    }
}
