//! The one engine that serves every kind from its descriptor.
//!
//! One file per step of the REST contract: [`create`], [`read`] (get and list), [`watch`], [`update`] (PUT,
//! PATCH and status), [`delete`], [`scale`]; `apply` merges configurations, `ownership` keeps `managedFields`,
//! `body` decodes, `selection` reads selectors and
//! resourceVersions. Kinds are never named here: what differs is asked of the descriptor, its hooks, and
//! the resource's [`Rest`](crate::registry::Rest).
//! Upstream: apiserver/pkg/endpoints/handlers and apiserver/pkg/registry/generic/registry/store.go.

mod apply;
mod body;
mod continuation;
mod create;
mod delete;
mod owners;
mod ownership;
mod patch;
mod read;
mod scale;
mod selection;
mod update;
mod versions;
mod watch;
mod write;

use std::sync::Arc;

use api::kind::{Descriptor, Verbs};
use api::{Object, Status};
use bytes::Bytes;
use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;

use crate::admission;
use crate::authz::{self, Decision};
use crate::filters;
use crate::negotiation::{self, Accepted, Form, Offer};
use crate::output::Output;
use crate::registry::Resource;
use crate::request::{Attributes, Query, RequestInfo, User};
use crate::response::Response;
use crate::server::Server;
use crate::storage::Stored;

pub use body::decode_as;
pub(crate) use delete::{check_deletion, remove};
pub use update::{Target, change};
pub use write::WriteOptions;
pub(crate) use write::timestamp;

/// An authorized request for a resource.
pub struct Call {
    /// The server that serves it.
    pub server: Arc<Server>,
    /// The resource in its version.
    pub resource: Arc<Resource>,
    /// What is asked.
    pub info: RequestInfo,
    /// The decoded query.
    pub query: Query,
    /// The query as sent (what a proxied request passes on).
    pub raw_query: String,
    /// The method as sent.
    pub method: http::Method,
    /// Who asks.
    pub user: User,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's body, already within the limit; empty where it is only passed on.
    pub body: Bytes,
    /// The body of a request to a proxy or a stream, to be passed on as it comes.
    pub stream: Option<filters::Body>,
    /// The connection, where it can become another protocol's.
    pub upgrade: Option<OnUpgrade>,
    /// What the client wants back.
    pub accepted: Accepted,
    /// What the client is to be warned of.
    pub warnings: Arc<Mutex<Vec<String>>>,
}

impl Call {
    /// Adds warnings for the client.
    pub fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.lock().extend(warnings);
    }

    /// A response with one object in the form the client wants.
    pub fn respond(&self, code: u16, object: &Bytes) -> Response {
        self.output().object(code, object)
    }

    /// A response with any value (of a kind without Table form).
    pub fn respond_value(&self, code: u16, value: &serde_json::Value) -> Response {
        crate::output::value_response(self.accepted, code, value)
    }

    /// The form the client wants.
    pub fn output(&self) -> Output<'_> {
        let now = self.server.clock.now();
        Output::new(self.accepted, &self.resource, &self.query, now)
    }

    /// The error of a verb that this path does not have. One handler of upstream serves all of a custom resource, and names
    /// the verb; other resources have no such route there, and more is not known then.
    pub fn method_not_allowed(&self) -> Status {
        match self.resource.is_custom() {
            true => Status::method_not_supported(&self.resource.group_resource, &self.info.verb),
            false => Status::method_not_allowed(),
        }
    }

    /// Asks whether the caller may do `verb`, where serving the call is more than the verb it came as.
    ///
    /// # Errors
    /// 403 where they may not.
    pub async fn authorize(&self, verb: &str) -> Result<(), Status> {
        if self.info.verb == verb {
            return Ok(());
        }
        let info = RequestInfo { verb: verb.to_owned(), ..self.info.clone() };
        let attributes = Attributes::new(self.user.clone(), info);
        let (decision, reason) = self.server.authorization.authorizer.authorize(&attributes).await;
        if decision == Decision::Allow { Ok(()) } else { Err(authz::forbidden(&attributes, &reason)) }
    }

    /// The newest state of the object in the path.
    pub async fn stored(&self) -> Result<Stored, Status> {
        self.server.storage.get(&self.resource, &self.info.namespace, &self.info.name).await
    }

    /// A request to admission about this call, for the kind of the resource.
    pub fn admission<'a>(
        &'a self,
        operation: admission::Operation,
        options: &WriteOptions,
        object: Option<&'a mut Object>,
        old: Option<&'a Object>,
    ) -> admission::Request<'a> {
        let descriptor = &self.resource.descriptor;
        admission::Request {
            operation,
            kind: descriptor.group_version_kind(),
            resource: descriptor.group_version_resource(),
            subresource: &self.info.subresource,
            namespace: &self.info.namespace,
            name: &self.info.name,
            user: &self.user,
            dry_run: options.dry_run,
            object,
            old,
            options: options.to_json(operation),
            warnings: Vec::new(),
            reinvocation: Default::default(),
        }
    }
}

/// Serves a call whose resource and subresource are in the descriptor.
pub async fn serve(call: Call) -> Result<Response, Status> {
    let descriptor = call.resource.descriptor.clone();
    let subresource = call.info.subresource.clone();
    if let Some(warning) = &descriptor.deprecated {
        call.warn([warning.to_string()]);
        call.server.metrics.deprecated(&call.info);
        crate::audit::annotate("k8s.io/deprecated", "true");
    }
    if subresource.is_empty() {
        return main(call).await;
    }
    // The old path forms `watch/…` and `proxy/…` set the verb whatever the method is. In front of a subresource
    // they would have a POST authorized as a read.
    if matches!(call.info.verb.as_str(), "watch" | "proxy") {
        return Err(Status::page_not_found());
    }
    match subresource.as_str() {
        "status" if descriptor.subresources.status => write_subresource(&call, Target::Status).await,
        "scale" if descriptor.subresources.scale.is_some() => scale::serve(&call).await,
        name => match call.resource.rest.subresource(name) {
            Some(handler) => handler.serve(call).await,
            None => Err(Status::page_not_found()),
        },
    }
}

/// Serves a subresource that is a part of the object itself (like `status`): GET, PUT and PATCH of the whole
/// object, of which only that part is written.
pub async fn write_subresource(call: &Call, target: Target) -> Result<Response, Status> {
    match call.info.verb.as_str() {
        "get" => read::get(call).await,
        "update" => update::put(call, target).await,
        "patch" => patch::patch(call, target).await,
        _ => Err(call.method_not_allowed()),
    }
}

async fn main(call: Call) -> Result<Response, Status> {
    let verbs = call.resource.descriptor.verbs;
    let verb = call.info.verb.as_str();
    let needed = match verb {
        "create" => Verbs::CREATE,
        "get" => Verbs::GET,
        "list" => Verbs::LIST,
        "watch" => Verbs::WATCH,
        "update" => Verbs::UPDATE,
        "patch" => Verbs::PATCH,
        "delete" => Verbs::DELETE,
        "deletecollection" => Verbs::DELETE_COLLECTION,
        "proxy" => return Err(Status::page_not_found()),
        _ => return Err(call.method_not_allowed()),
    };
    // POST to a name, and writes of namespaced kinds outside a namespace, are no paths of the API.
    let namespaced = call.resource.descriptor.is_namespaced();
    let outside = namespaced && call.info.namespace.is_empty();
    let misplaced = match verb {
        "create" => outside || !call.info.name.is_empty(),
        "deletecollection" => outside,
        "update" | "patch" => call.info.name.is_empty(),
        "watch" => call.method != http::Method::GET,
        _ => false,
    };
    if !verbs.contains(needed) || misplaced {
        return Err(call.method_not_allowed());
    }
    if (outside && !matches!(verb, "list" | "watch")) || (!namespaced && is_in_namespace(&call)) {
        return Err(Status::page_not_found());
    }
    match verb {
        "create" => create::post(&call).await,
        "get" => read::get(&call).await,
        "list" => read::list(&call).await,
        "watch" => watch::watch(call).await,
        "update" => update::put(&call, Target::Main).await,
        "patch" => patch::patch(&call, Target::Main).await,
        "delete" => delete::delete(&call).await,
        _ => delete::collection(&call).await,
    }
}

/// Whether a cluster-scoped resource was asked for below a namespace. A namespace's own path names itself.
fn is_in_namespace(call: &Call) -> bool {
    !call.info.namespace.is_empty() && call.info.namespace != call.info.name
}

/// Agrees on the form of the response to a resource request. Streams of other protocols (logs, exec, proxies)
/// answer in whatever they speak.
pub fn accept(
    headers: &HeaderMap,
    query: &Query,
    info: &RequestInfo,
    resource: &Resource,
) -> Result<Accepted, Status> {
    let stream = info.verb == "watch";
    if info.is_long_running() && !stream {
        return Ok(Accepted::DEFAULT);
    }
    // What is not stored (a review) has no metadata to show and no columns.
    let transforms = resource.descriptor.verbs.contains(Verbs::GET);
    let offer = Offer { transforms, protobuf: schema::protobuf::supports(&resource.schema), stream };
    let accepted = negotiation::negotiate(headers, query, offer)?;
    match (accepted.form, query.get("includeObject")) {
        (Form::Table(_), Some(other)) if !matches!(other, "" | "Metadata" | "None" | "Object") => {
            let quoted = api::field::quote(other);
            Err(Status::bad_request(format!("unrecognized includeObject value: {quoted}")))
        }
        (Form::Partial { list, .. }, _) if list != answers_with_a_list(&info.verb) => {
            Err(other_extent(&resource.descriptor, list))
        }
        _ => Ok(accepted),
    }
}

fn answers_with_a_list(verb: &str) -> bool {
    matches!(verb, "list" | "deletecollection")
}

/// The 406 of whoever asks for the metadata of one object by the name of a list's, or the reverse (upstream:
/// handlers/response.go, which names its own type).
fn other_extent(descriptor: &Descriptor, list: bool) -> Status {
    let (wanted, is, suffix) = match list {
        true => ("PartialObjectMetadataList", "not a list", ""),
        false => ("PartialObjectMetadata", "a list", "List"),
    };
    let package = descriptor.group.split('.').next().filter(|package| !package.is_empty()).unwrap_or("core");
    let kind = &descriptor.kind;
    let message =
        format!("you requested {wanted}, but the requested object is {is} (*{package}.{kind}{suffix})");
    Status::not_acceptable(message)
}
