//! One request on its way: what is known of it so far, and the event of each stage.
//!
//! Upstream: apiserver/pkg/audit/{request,context}.go, apiserver/pkg/apis/audit/v1/types.go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use client::Body;
use foundation::SharedClock;
use foundation::metrics::Counter;
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::policy::{Level, Stage, Verdict};
use super::{Door, Seen, Sink};
use crate::output;
use crate::request::{Attributes, User};
use crate::response::{PassedOn, Response};

/// Answers up to this size are shown in events: more than any object may have.
const LARGEST_RECORDED: u64 = 4 << 20;

/// The record of one request. Dropped without an answer (its client went away) it says so.
pub struct Record {
    rule: Verdict,
    sinks: Vec<Door>,
    clock: SharedClock,
    count: Counter,
    state: Mutex<State>,
    /// The last event was made.
    done: AtomicBool,
}

struct State {
    event: Value,
    annotations: BTreeMap<String, String>,
    /// What the answer's status says of credentials that were not accepted.
    refused: Option<String>,
    /// Keeps the sinks until the request is answered. What is streamed then does not: a watch may outlast the server.
    hold: Vec<Sink>,
}

fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn describe(user: &User) -> Value {
    let mut out = json!({});
    for (field, value) in [("username", &user.name), ("uid", &user.uid)] {
        if !value.is_empty() {
            out[field] = value.as_str().into();
        }
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// What a client has shown that was not accepted. Upstream: filters/authn_audit.go.
fn attempted(head: &http::request::Parts, certificates: bool) -> String {
    let mut methods = Vec::new();
    let header = head.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scheme = header.and_then(|value| value.trim().split_once(' ')).map(|(scheme, _)| scheme);
    if let Some(known) =
        ["basic", "bearer"].iter().find(|known| scheme.is_some_and(|s| s.eq_ignore_ascii_case(known)))
    {
        methods.push(*known);
    }
    if crate::request::Query::parse(head.uri.query())
        .get("access_token")
        .is_some_and(|token| !token.is_empty())
    {
        methods.push("access_token");
    }
    if certificates {
        methods.push("x509");
    }
    match methods.as_slice() {
        [] => "Authentication failed, no credentials provided".to_owned(),
        methods => format!("Authentication failed, attempted: {}", methods.join(",")),
    }
}

/// The addresses that a request came through, the client's first.
fn sources(seen: &Seen<'_>) -> Vec<String> {
    let header = |name| seen.head.headers.get(name).and_then(|value| value.to_str().ok());
    let mut out: Vec<String> = Vec::new();
    let forwarded = header("x-forwarded-for").into_iter().flat_map(|list| list.split(','));
    for address in forwarded.chain(header("x-real-ip")).map(str::trim) {
        if let Ok(address) = address.parse::<std::net::IpAddr>() {
            out.push(address.to_string());
        }
    }
    out.extend(seen.remote.map(|address| address.to_canonical().to_string()));
    out.dedup();
    out
}

impl Record {
    pub(super) fn new(
        rule: Verdict,
        attributes: &Attributes,
        seen: Seen<'_>,
        sinks: Vec<Door>,
        clock: SharedClock,
        count: Counter,
    ) -> Self {
        let Attributes { user, info, .. } = attributes;
        let level = rule.level.name();
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level, "auditID": seen.id, "stage": "",
            "requestURI": seen.head.uri.path_and_query().map_or("", |path| path.as_str()),
            "verb": info.verb, "user": describe(user), "requestReceivedTimestamp": time(seen.at),
        });
        let sources = sources(&seen);
        if !sources.is_empty() {
            event["sourceIPs"] = json!(sources);
        }
        if let Some(agent) = seen.head.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()) {
            event["userAgent"] = agent.into();
        }
        if info.is_resource {
            let fields = [
                ("resource", &info.resource),
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("apiVersion", &info.version),
                ("subresource", &info.subresource),
            ];
            let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
            event["objectRef"] =
                fields.map(|(field, value)| (field.to_owned(), Value::from(value.as_str()))).collect();
        }
        let hold = sinks.iter().filter_map(Door::hold).collect();
        let state = Mutex::new(State { event, annotations: BTreeMap::new(), refused: None, hold });
        Self { rule, sinks, clock, count, state, done: AtomicBool::new(false) }
    }

    pub(super) fn annotate(&self, key: &str, value: &str) {
        self.state.lock().annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }

    pub(super) fn level(&self) -> Level {
        self.rule.level
    }

    #[cfg(test)]
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        self.state.lock().annotations.clone()
    }

    pub(super) fn impersonated(&self, user: &User, constraint: Option<&str>) {
        let mut state = self.state.lock();
        state.event["impersonatedUser"] = describe(user);
        if let Some(constraint) = constraint {
            state.event["authenticationMetadata"] = json!({"impersonationConstraint": constraint});
        }
    }

    /// Nobody was recognised by the request's credentials.
    pub(crate) fn unauthenticated(&self, head: &http::request::Parts, certificates: bool) {
        self.state.lock().refused = Some(attempted(head, certificates));
    }

    pub(super) fn wants_request(&self) -> bool {
        self.rule.level >= Level::Request
    }

    pub(super) fn request_object(&self, object: &Value) {
        let mut state = self.state.lock();
        // A new object's name is only in it.
        let reference = &mut state.event["objectRef"];
        for (field, pointer) in [
            ("name", "/metadata/name"),
            ("namespace", "/metadata/namespace"),
            ("uid", "/metadata/uid"),
            ("resourceVersion", "/metadata/resourceVersion"),
        ] {
            if let Some(value) = object.pointer(pointer).and_then(Value::as_str)
                && reference.is_object()
                && reference[field].is_null()
                && !value.is_empty()
            {
                reference[field] = value.into();
            }
        }
        if self.wants_request() {
            state.event["requestObject"] = self.shown(object);
        }
    }

    pub(super) async fn received(&self) {
        self.emit(Stage::RequestReceived, None).await;
    }

    /// The request was answered. A long answer is complete when its body has been read or dropped.
    pub(crate) async fn answered(self: std::sync::Arc<Self>, response: Response, long: bool) -> Response {
        let code = response.status().as_u16();
        if long && code < 400 {
            self.emit(Stage::ResponseStarted, Some(json!({"metadata": {}, "code": code}))).await;
            self.state.lock().hold.clear();
            let (head, body) = response.into_parts();
            let end = End { record: self, code };
            let body = body.map_frame(move |frame| {
                // The end is reached when the body, and with it this, is dropped.
                let _ = &end;
                frame
            });
            return Response::from_parts(head, body.boxed_unsync());
        }
        // What somebody else answers through a proxy is no object of ours, and may take its time.
        let known = response.extensions().get::<PassedOn>().is_none()
            && response.body().size_hint().upper().is_some_and(|size| size <= LARGEST_RECORDED);
        let whole = known && (code >= 400 || self.rule.level == Level::RequestResponse);
        let mut status = json!({"metadata": {}, "code": code});
        let (head, body) = response.into_parts();
        let mut body: Body = body;
        if whole {
            // Answers of known length are at hand already; this waits for nothing but a list's concatenation.
            let bytes = match body.collect().await {
                Ok(collected) => collected.to_bytes(),
                Err(_) => Bytes::new(),
            };
            if let Some(value) = output::read_back(&head.headers, &bytes) {
                if code >= 400 {
                    for field in ["status", "reason", "message", "details"] {
                        if !value[field].is_null() {
                            status[field] = value[field].clone();
                        }
                    }
                }
                if self.rule.level == Level::RequestResponse {
                    self.state.lock().event["responseObject"] = self.shown(&value);
                }
            }
            body = client::full_body(bytes);
        }
        if let Some(refused) = &self.state.lock().refused {
            status["message"] = refused.as_str().into();
        }
        if !self.done.swap(true, Ordering::Relaxed) {
            self.emit(Stage::ResponseComplete, Some(status)).await;
        }
        Response::from_parts(head, body)
    }

    /// The server failed in the request: the last that is told of it.
    pub(crate) async fn panicked(&self) {
        self.done.store(true, Ordering::Relaxed);
        let message = "APIServer panic'd";
        let status = json!({"metadata": {}, "code": 500, "status": "Failure", "reason": "InternalError", "message": message});
        self.emit(Stage::Panic, Some(status)).await;
    }

    /// An object as events show it.
    fn shown(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if self.rule.omit_managed_fields {
            let strip = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            strip(&mut object);
            if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
                items.iter_mut().for_each(strip);
            }
        }
        object
    }

    /// The event of a stage, if the policy wants it.
    fn event(&self, stage: Stage, status: Option<Value>) -> Option<Bytes> {
        if self.rule.omit.contains(&stage) {
            return None;
        }
        let mut state = self.state.lock();
        state.event["stage"] = stage.name().into();
        state.event["stageTimestamp"] = time(self.clock.now()).into();
        if let Some(status) = status {
            state.event["responseStatus"] = status;
        }
        if !state.annotations.is_empty() {
            state.event["annotations"] = json!(state.annotations);
        }
        self.count.inc();
        Some(crate::encoding::to_json(&state.event))
    }

    async fn emit(&self, stage: Stage, status: Option<Value>) {
        let Some(event) = self.event(stage, status) else { return };
        for sink in self.sinks.iter().filter_map(Door::open) {
            sink.send(event.clone()).await;
        }
    }

    /// Tells the end where nobody can wait for room: what is not carried through (a read, a stream).
    fn end(&self, status: Value) {
        if self.done.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(event) = self.event(Stage::ResponseComplete, Some(status)) else { return };
        for sink in self.sinks.iter().filter_map(Door::open) {
            sink.offer(event.clone());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // As proxies have it: the client closed its request. Upstream writes the same text, and that it succeeded.
        self.end(
            json!({"metadata": {}, "code": 499, "status": "Failure", "message": "Connection closed early"}),
        );
    }
}

/// Says that a long answer is complete, when it is dropped.
struct End {
    record: std::sync::Arc<Record>,
    code: u16,
}

impl Drop for End {
    fn drop(&mut self) {
        self.record.end(json!({"metadata": {}, "code": self.code}));
    }
}
