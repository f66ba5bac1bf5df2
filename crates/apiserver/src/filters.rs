//! The filter chain that every request passes, whichever way it came.
//!
//! In order: panic recovery, counting, meaning, cross-origin requests, deadline, authentication, audit, impersonation, priority and fairness,
//! authorization, body limit; then the handler. Its end is always a response: failures become `Status` objects here.
//! Not here: connections (`listen`), the handlers themselves.
//! Upstream: apiserver/pkg/server/config.go (DefaultBuildHandlerChain).

mod body;
pub(crate) mod compression;
pub(crate) mod cors;
pub(crate) mod impersonation;
mod warnings;

pub(crate) use impersonation::extra_key;

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::{Reason, Status};
use bytes::Bytes;
use foundation::CancellationToken;
use futures::FutureExt;
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tracing::Instrument as _;

use crate::aggregation;
use crate::audit;
use crate::authn::Credentials;
use crate::authz::{self, Decision};
use crate::engine::{self, Call};
use crate::fairness;
use crate::handlers;
use crate::metrics::access::Attempt;
use crate::metrics::gates::{self, Gate};
use crate::metrics::{self, Answered, Elsewhere, aborts};
use crate::negotiation;
use crate::output;
use crate::proxy;
use crate::request::{Attributes, Query, RequestInfo, User};
use crate::response::{self, Response};
use crate::server::Server;
use crate::traces::{self, Span};

/// A request that takes longer is told in the log (upstream's threshold for tracing a request).
const SLOW: Duration = Duration::from_millis(500);
/// The longest id that a client may give its request.
const AUDIT_ID: usize = 64;

/// A request as it comes in.
pub struct Incoming {
    /// Method, URI, headers.
    pub head: http::request::Parts,
    /// The body, read or to be read.
    pub body: Body,
    /// Who sent it, or what they have to show.
    pub identity: Identity,
}

/// A request's body.
pub enum Body {
    /// At hand.
    Ready(Bytes),
    /// Still on the wire.
    Wire(hyper::body::Incoming),
}

impl Body {
    /// For another server, piece by piece as it comes; a client that goes away before its end ends it with an error.
    pub(crate) fn passed_on(self) -> client::Body {
        match self {
            Self::Ready(bytes) => client::full_body(bytes),
            Self::Wire(body) => body.map_err(client::BoxError::from).boxed_unsync(),
        }
    }
}

/// Who sent a request.
pub enum Identity {
    /// A part of this process, authenticated by being it.
    Known(User),
    /// Someone with these certificates, at this address.
    Peer {
        /// The chain that TLS verified; empty without one.
        certificates: Arc<[CertificateDer<'static>]>,
        /// Where they are.
        remote: SocketAddr,
    },
}

/// Serves one request, from the first filter to the response's head.
///
/// A write is carried through in a task of its own: once it is in the store's queue it will be done, and its outcome
/// is to be recorded also when the client has gone. One that still waits for its turn ends with its client.
pub async fn serve(server: Arc<Server>, request: Incoming) -> Response {
    let query = request.head.uri.query();
    let info = RequestInfo::parse(&request.head.method, request.head.uri.path(), query);
    let client = CancellationToken::new();
    if matches!(request.head.method, Method::GET | Method::HEAD | Method::OPTIONS) || info.is_long_running() {
        return answer(server, request, info, client).await;
    }
    let _gone = client.clone().drop_guard();
    // Behind a pointer: on its way into a task a future is moved a dozen times, and this one is large.
    let work = Box::pin(answer(server, request, info, client)).in_current_span();
    // Panics are answered in there; what is left is a runtime that ends.
    tokio::spawn(work).await.unwrap_or_else(|error| response::failure(&Status::internal(error.to_string())))
}

async fn answer(
    server: Arc<Server>,
    request: Incoming,
    info: RequestInfo,
    client: CancellationToken,
) -> Response {
    let started = server.clock.monotonic();
    let query = request.head.uri.query().map(str::to_owned);
    let inflight = server.metrics.inflight(&info);
    let dry_run = !info.is_read_only() && metrics::is_dry_run(query.as_deref());
    let content_type = request.head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let apply = content_type.is_some_and(|kind| kind.starts_with(b"application/apply-patch"));
    let elsewhere = Elsewhere::default();
    let accepted = negotiation::of_errors(&request.head.headers);
    let bodiless = request.head.method == Method::HEAD;
    let origin = server.options.cors.allowed(&request.head.headers);
    let preflight = cors::preflight(&request.head.method, origin.as_ref());
    let compress = compression::wanted(&request.head.headers, &info);
    let trail = Trail::new(&server, &request.head.headers, client, started);
    // Behind a pointer: callers in this process bring stacks that are deep already.
    let work = Box::pin(filtered(&server, request, info.clone(), query, &trail));
    let work = async {
        match preflight {
            Some(answer) => Ok(answer),
            None => work.await,
        }
    };
    let work = AssertUnwindSafe(elsewhere.around(work)).catch_unwind();
    let response = match work.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => output::failure(accepted, &status),
        Err(panic) => {
            let what = panic_text(&*panic);
            let record = trail.record.lock().clone();
            if let Some(record) = record {
                record.panicked().await;
            }
            tracing::error!(verb = info.verb, path = info.path, panic = what, "a handler panicked");
            response::failure(&Status::internal(
                "This request caused apiserver to panic. Look in the logs for details.",
            ))
        }
    };
    let record = trail.record.lock().take();
    let mut response = match record {
        Some(record) => record.answered(response, info.is_long_running()).await,
        None => response,
    };
    warnings::add(&mut response, &trail.warnings.lock());
    let size = http_body::Body::size_hint(response.body()).exact();
    if compress {
        response = compression::compress(response);
    }
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Ok(id) = HeaderValue::from_str(&trail.id) {
        headers.insert("audit-id", id);
    }
    if let Some(origin) = origin {
        cors::permit(headers, origin);
    }
    drop(inflight);
    let resource =
        server.registry.table().get(&info.group, &info.version, &info.resource).map(|r| r.descriptor.clone());
    let took = server.clock.monotonic().saturating_sub(started);
    if took > SLOW && !info.is_long_running() {
        let code = response.status().as_u16();
        tracing::info!(
            verb = info.verb,
            path = info.path,
            code,
            ?took,
            audit_id = trail.id,
            "a slow request"
        );
    }
    let known =
        resource.is_some_and(|found| info.subresource.is_empty() || found.has_subresource(&info.subresource));
    let code = response.status().as_u16();
    let elsewhere = elsewhere.so_far();
    let terminated = trail.terminated.load(Ordering::Relaxed);
    let answered = Answered { code, dry_run, apply, elsewhere, terminated, size, took };
    server.metrics.answered(&info, known, answered);
    if bodiless { response } else { aborts::watched(response, &info, known) }
}

/// What goes with a request from its first filter to its last, for the audit log.
struct Trail {
    id: String,
    at: jiff::Timestamp,
    /// When it came in, on the clock that only goes forward.
    started: Duration,
    /// Set once it is known who asks. Kept here, so that a request that fails or runs out of time is recorded too.
    record: Mutex<Option<Arc<audit::Record>>>,
    /// Cancelled when nobody waits for the answer of a write any more.
    client: CancellationToken,
    /// Whether the server has given it up: out of time, or out of room.
    terminated: AtomicBool,
    /// What the client is to be warned of because of how it has shown who it is.
    warnings: Mutex<Vec<String>>,
}

impl Trail {
    fn new(server: &Server, headers: &http::HeaderMap, client: CancellationToken, started: Duration) -> Self {
        let given = headers.get("audit-id").and_then(|id| id.to_str().ok());
        let given = given.filter(|id| (1..=AUDIT_ID).contains(&id.len())).map(str::to_owned);
        let id = given.unwrap_or_else(|| {
            let mut random = [0; 16];
            server.randomness.fill(&mut random);
            uuid::Builder::from_random_bytes(random).into_uuid().to_string()
        });
        let terminated = AtomicBool::new(false);
        let (record, warnings) = Default::default();
        Self { id, at: server.clock.now(), started, record, client, terminated, warnings }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

async fn filtered(
    server: &Arc<Server>,
    request: Incoming,
    info: RequestInfo,
    query: Option<String>,
    trail: &Trail,
) -> Result<Response, Status> {
    let query_pairs = Query::parse(query.as_deref());
    if info.is_long_running() {
        return admitted(server, request, info, query, query_pairs, trail).await;
    }
    let timeout = timeout(server, &query_pairs)?;
    let deadline = server.clock.sleep(timeout);
    tokio::select! {
        response = admitted(server, request, info, query, query_pairs, trail) => response,
        () = deadline => {
            trail.terminated.store(true, Ordering::Relaxed);
            Err(out_of_time())
        }
    }
}

fn out_of_time() -> Status {
    let message = "Timeout: request did not complete within the allotted timeout";
    Status::new(504, Reason::Timeout, message)
}

fn gone() -> Status {
    Status::new(499, Reason::Unknown, "Connection closed early")
}

/// The least of what the client allows (`timeout=30s`) and what the server does.
fn timeout(server: &Server, query: &Query) -> Result<Duration, Status> {
    let most = server.options.request_timeout;
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(most) };
    let asked: jiff::SignedDuration = text.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration \"{text}\""
        ))
    })?;
    Ok(Duration::try_from(asked).ok().filter(|asked| !asked.is_zero()).map_or(most, |asked| asked.min(most)))
}

async fn admitted(
    server: &Arc<Server>,
    request: Incoming,
    info: RequestInfo,
    raw_query: Option<String>,
    query: Query,
    trail: &Trail,
) -> Result<Response, Status> {
    let Incoming { head, body, identity } = request;
    let remote = match &identity {
        Identity::Known(_) => None,
        Identity::Peer { remote, .. } => Some(remote.ip()),
    };
    let certified = matches!(&identity, Identity::Peer { certificates, .. } if !certificates.is_empty());
    // Nobody is asked on behalf of a client that has gone away. Who needs no asking about is known at once, and the write
    // is carried through as any other's.
    let began = server.clock.monotonic();
    let authenticating = async {
        tokio::select! {
            biased;
            found = authenticate(server, &head.headers, &info.path, identity, trail) => found,
            () = trail.client.cancelled() => Err(gone()),
        }
    };
    let (authenticated, told) = match server.audit.is_on() {
        true => audit::before(authenticating).await,
        false => (authenticating.await, Vec::new()),
    };
    let began = lap(server, Gate::Authentication, began);
    let mut span = match (&server.tracer, &authenticated) {
        (Some(tracer), Ok(user)) => {
            let ago = server.clock.monotonic().saturating_sub(trail.started);
            let span = tracer.request(&head, &info, user, &trail.id, ago);
            span.past("authentication");
            span
        }
        _ => Span::NONE,
    };
    let mut record = None;
    if server.audit.is_on() {
        let user = authenticated.as_ref().ok().cloned().unwrap_or_default();
        let seen = audit::Seen { id: &trail.id, head: &head, remote, at: trail.at };
        record = server.audit.begin(&Attributes::new(user, info.clone()), seen, told).await;
        lap(server, Gate::Audit, began);
    }
    if let (Some(record), Err(_)) = (&record, &authenticated) {
        record.unauthenticated(&head, certified);
    }
    trail.record.lock().clone_from(&record);
    let call = Admitted { head, body, user: authenticated?, info, raw_query, query, remote };
    let work = audit::scope(record, Box::pin(controlled(server, call, trail)));
    if !span.is_open() {
        return work.await;
    }
    let outcome = span.around(work).await;
    let code = outcome.as_ref().map_or_else(|status| status.code, |response| response.status().as_u16());
    span.answered(code);
    outcome
}

/// From the impersonation on: under the request's record.
async fn controlled(server: &Arc<Server>, mut call: Admitted, trail: &Trail) -> Result<Response, Status> {
    let step = traces::span("impersonation");
    let began = server.clock.monotonic();
    if let Some(target) = impersonation::target(&mut call.head.headers)? {
        let asked = attributes(call.user.clone(), call.info.clone(), &call.query);
        let authorizer = &*server.authorization.authorizer;
        let (user, constraint) = server.impersonation.check(authorizer, &asked, &target).await?;
        audit::impersonated(&user, constraint.as_deref());
        call.user = user;
    }
    drop(step);
    let began = lap(server, Gate::Impersonation, began);
    let Admitted { user, info, query, .. } = &call;
    let wait = timeout(server, query).unwrap_or(server.options.request_timeout);
    let step = traces::span("priorityandfairness");
    let admission = tokio::select! {
        biased;
        admission = server.fairness.admit(user, info, |widest| fairness::width::of(server, info, query, widest), wait) => admission,
        () = trail.client.cancelled() => return Err(gone()),
    };
    drop(step);
    metrics::elsewhere(lap(server, Gate::Fairness, began).saturating_sub(began));
    let permit = match admission {
        fairness::Admission::Run(permit) => permit,
        fairness::Admission::Refuse(classified) => {
            trail.terminated.store(true, Ordering::Relaxed);
            let mut response = response::text(429, "Too many requests, please try again later.\n");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            if let Some(classified) = classified {
                classified.mark(response.headers_mut());
            }
            return Ok(response);
        }
    };
    let watches = info.verb == "watch";
    let mut work = Box::pin(authorized(server, call));
    let served = if watches {
        tokio::select! {
            served = &mut work => Some(served),
            // A server behind this one that does not answer a watch shall not keep its seats.
            () = server.clock.sleep(wait) => None,
        }
    } else {
        Some((&mut work).await)
    };
    let (classified, served) = match served {
        Some(served) => (permit.into_classified(), served),
        None => (permit.into_classified(), work.await),
    };
    let mut response = served.unwrap_or_else(|status| response::failure(&status));
    if let Some(classified) = classified {
        classified.mark(response.headers_mut());
    }
    Ok(response)
}

/// A filter that was begun at `began` is behind the request; gives the time now.
fn lap(server: &Server, gate: Gate, began: Duration) -> Duration {
    let now = server.clock.monotonic();
    gates::passed(gate, now.saturating_sub(began));
    now
}

/// An authenticated request that may run now.
struct Admitted {
    head: http::request::Parts,
    body: Body,
    user: User,
    info: RequestInfo,
    raw_query: Option<String>,
    query: Query,
    /// Where it came from; `None`: from within the process.
    remote: Option<IpAddr>,
}

/// What is decided on. Only what means many objects has selectors.
fn attributes(user: User, info: RequestInfo, query: &Query) -> Attributes {
    let many = info.is_resource && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let selector = |name| query.get(name).filter(|text| many && !text.is_empty()).map(str::to_owned);
    let (field_selector, label_selector) = (selector("fieldSelector"), selector("labelSelector"));
    Attributes { user, info, field_selector, label_selector }
}

async fn authorized(server: &Arc<Server>, call: Admitted) -> Result<Response, Status> {
    let Admitted { mut head, body, user, info, raw_query, query, remote } = call;
    let attributes = attributes(user, info, &query);
    let step = traces::span("authorization");
    let began = server.clock.monotonic();
    let said = server.authorization.authorizer.evaluate(&attributes).await;
    drop(step);
    let took = lap(server, Gate::Authorization, began).saturating_sub(began);
    metrics::access::authorized(said.decision, said.error.is_some(), took);
    let allowed = said.decision == Decision::Allow;
    if let Some(error) = said.error.filter(|_| !allowed) {
        audit::annotate("authorization.k8s.io/reason", "internal error");
        let uri = head.uri.path_and_query().map_or("/", |uri| uri.as_str());
        return Ok(authz::failed(uri, &error));
    }
    audit::annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
    audit::annotate("authorization.k8s.io/reason", &said.reason);
    if !allowed {
        return Err(authz::forbidden(&attributes, &said.reason));
    }
    let Attributes { user, info, .. } = attributes;
    let elsewhere = server.aggregator.find(&info);
    if let Some(client) = remote
        && (elsewhere.is_some() || (info.is_long_running() && info.verb != "watch"))
    {
        proxy::forwarded_for(&mut head.headers, client);
    }
    if let Some(remote) = elsewhere {
        aggregation::proxy::check(&head.method, &info)?;
        // How much is too much is the other server's to say.
        let body = if body::is_meaningless(&info) { client::empty_body() } else { body.passed_on() };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        return Ok(Box::pin(aggregation::proxy::serve(server, &remote, &user, head, body, &path)).await);
    }
    if !info.is_resource {
        return Box::pin(handlers::serve(server, &head, &query, &info, &user)).await;
    }
    let resource = {
        let table = server.registry.table();
        match table.get(&info.group, &info.version, &info.resource) {
            Some(resource) => resource.clone(),
            None => return handlers::nothing(server, &info.path),
        }
    };
    let upgrade = head.extensions.remove::<OnUpgrade>();
    // Streams and proxies never look at it, and seats are not held for it: it goes on as it comes.
    let (body, stream) = match info.is_long_running() && !body::is_meaningless(&info) {
        true => (Bytes::new(), Some(body)),
        false => (body::body_of(server, &info, body).await?, None),
    };
    server.metrics.received(&info, body.len());
    audit::request_body(&body);
    let accepted = engine::accept(&head.headers, &query, &info, &resource)?;
    let call = Call {
        server: server.clone(),
        resource,
        info,
        query,
        raw_query: raw_query.unwrap_or_default(),
        method: head.method,
        user,
        headers: head.headers,
        body,
        stream,
        upgrade,
        accepted,
        warnings: Arc::new(Mutex::default()),
    };
    let warned = call.warnings.clone();
    let step = handler_span(&call);
    // Behind a pointer, as the other ways on: these futures are large, and each level above would move them once more.
    let served = step.around(Box::pin(engine::serve(call))).await;
    drop(step);
    let mut response = match served {
        Ok(response) => response,
        Err(status) => output::failure(accepted, &status),
    };
    warnings::add(&mut response, &std::mem::take(&mut *warned.lock()));
    Ok(response)
}

/// The span of what serves a resource: upstream's handlers, and what they tell of the request.
fn handler_span(call: &Call) -> Span {
    let info = &call.info;
    let mut span = traces::span(match info.verb.as_str() {
        "create" => "Create",
        "get" => "Get",
        "list" | "watch" => "List",
        "update" => "Update",
        "patch" => "Patch",
        "delete" | "deletecollection" => "Delete",
        _ => "Connect",
    });
    if span.is_recording() {
        for (key, value) in [
            ("api-group", &info.group),
            ("api-version", &info.version),
            ("name", &info.name),
            ("subresource", &info.subresource),
            ("namespace", &info.namespace),
            ("resource", &info.resource),
            ("url", &info.path),
            ("verb", &info.verb),
        ] {
            span.set(key, value.as_str());
        }
        span.set("scope", metrics::scope(info));
        let agent = call.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        span.set("user-agent", agent.unwrap_or_default());
    }
    span
}

async fn authenticate(
    server: &Server,
    headers: &http::HeaderMap,
    path: &str,
    identity: Identity,
    trail: &Trail,
) -> Result<User, Status> {
    match identity {
        Identity::Known(user) => Ok(user),
        Identity::Peer { certificates, remote } => {
            let credentials = Credentials {
                headers,
                certificates: &certificates,
                remote: Some(remote),
                audiences: &[],
                path,
            };
            let began = server.clock.monotonic();
            let outcome = server.authentication.authenticator.authenticate(credentials).await;
            let attempt = match &outcome {
                Ok(Some(found)) => Attempt::User(&found.user.name),
                Ok(None) => Attempt::Nobody,
                Err(_) => Attempt::Error,
            };
            metrics::access::authenticated(attempt, server.clock.monotonic().saturating_sub(began));
            match outcome {
                Ok(Some(authenticated)) => {
                    trail.warnings.lock().extend(authenticated.warnings);
                    Ok(authenticated.user)
                }
                Ok(None) => Err(Status::unauthorized("Unauthorized")),
                Err(status) => {
                    tracing::debug!(%status, %remote, "credentials refused");
                    Err(Status::unauthorized("Unauthorized"))
                }
            }
        }
    }
}
