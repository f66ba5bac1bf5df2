//! An API server in memory, for tests of whatever stands on [`crate::Client`]: objects with resourceVersions, lists with
//! selectors, watches, conflicts, finalizers, preconditions, generation.
//!
//! Not a server: no kinds, no validation, no defaulting, no admission, no authorization, no history beyond a vector. It
//! accepts any object under any path. What an object *means* must be tested against the real server.

mod store;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use self::store::{Outcome, Place, Store, Watcher};
use crate::{Body, BoxError, Client, Endpoint, Resource, Transport, TransportError, full_body};

/// The server. Cloning is a reference count.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Shared>);

#[derive(Default)]
struct Shared {
    store: Mutex<Store>,
    changed: Notify,
    log: Mutex<Vec<Call>>,
    reactor: Mutex<Option<Reactor>>,
}

type Reactor = Box<dyn FnMut(&Call) -> Option<api::Status> + Send>;

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE`.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query, undecoded.
    pub query: String,
    /// The body as JSON, or null.
    pub body: Value,
}

impl FakeApi {
    /// An empty server.
    pub fn new() -> FakeApi {
        FakeApi::default()
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()), "test")
    }

    /// Stores an object as a client's create would, without a request in the log. Panics if the name is taken.
    pub fn insert<K: Resource>(&self, object: K) -> K {
        let meta = object.metadata();
        let path = Endpoint::of::<K>().path(meta.namespace.as_deref(), None, None);
        let place = Place::parse(&path).expect("a path of our own making");
        let value = serde_json::to_value(&object).expect("objects serialize");
        let stored = self.0.store.lock().create(&place, value).expect("the name is free");
        self.0.changed.notify_waiters();
        serde_json::from_value(stored).expect("what was stored is of the kind")
    }

    /// Every object of a kind, ordered by namespace and name.
    pub fn objects<K: Resource>(&self) -> Vec<K> {
        let place =
            Place::parse(&Endpoint::of::<K>().path(None, None, None)).expect("a path of our own making");
        let objects = self.0.store.lock().list(&place);
        objects.into_iter().map(|object| serde_json::from_value(object).expect("of the kind")).collect()
    }

    /// The requests so far that could change something, oldest first.
    pub fn writes(&self) -> Vec<Call> {
        self.0.log.lock().iter().filter(|call| call.method != Method::GET).cloned().collect()
    }

    /// The requests so far, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.0.log.lock().clone()
    }

    /// Asks `reactor` before each request: with `Some(status)` the request fails so and has no effect.
    pub fn react(&self, reactor: impl FnMut(&Call) -> Option<api::Status> + Send + 'static) {
        *self.0.reactor.lock() = Some(Box::new(reactor));
    }

    /// Forgets all history: a watch from any earlier revision is answered with 410. With `cut`, running watches end.
    pub fn compact(&self, cut: bool) {
        self.0.store.lock().compact(cut);
        self.0.changed.notify_waiters();
    }

    /// Holds back the events of all watches until [`FakeApi::resume`]: caches lag as much as a test wants.
    pub fn pause(&self) {
        self.0.store.lock().paused = true;
    }

    /// Delivers what [`FakeApi::pause`] held back.
    pub fn resume(&self) {
        self.0.store.lock().paused = false;
        self.0.changed.notify_waiters();
    }

    /// Waits until `condition` holds of the objects of a kind, looking after each change; gives up after 10 s of real
    /// time by panicking with the objects.
    pub async fn wait_for<K: Resource>(&self, condition: impl Fn(&[K]) -> bool) -> Vec<K> {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let changed = self.0.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let objects = self.objects::<K>();
            if condition(&objects) {
                return objects;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let names: Vec<_> =
                    objects.iter().map(|o| serde_json::to_string(o).unwrap_or_default()).collect();
                panic!("the condition never held of {}: {names:#?}", K::KIND);
            }
        }
    }

    fn answer(&self, call: &Call, content_type: &str) -> Result<Response<Body>, api::Status> {
        let place = Place::parse(&call.path)
            .ok_or_else(|| api::Status::bad_request(format!("the fake serves no {}", call.path)))?;
        let query = store::query(&call.query);
        let get = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        let mut store = self.0.store.lock();
        let outcome = match call.method {
            Method::GET if place.name.is_some() => Outcome::Object(store.get(&place)?),
            Method::GET if get("watch").is_some_and(|v| v == "true" || v == "1") => {
                let from = get("resourceVersion").unwrap_or("0").parse().unwrap_or(0);
                let watcher = store.watcher(place, from, get("labelSelector"), get("fieldSelector"))?;
                drop(store);
                return Ok(Response::new(self.watch(watcher)));
            }
            Method::GET => {
                let items = store.select(&place, get("labelSelector"), get("fieldSelector"))?;
                Outcome::Object(json!({
                    "kind": "List",
                    "apiVersion": "v1",
                    "metadata": {"resourceVersion": store.revision().to_string()},
                    "items": items,
                }))
            }
            Method::POST if place.subresource.is_some() => store.subresource(&place, &call.body)?,
            Method::POST => Outcome::Created(store.create(&place, call.body.clone())?),
            Method::PUT => Outcome::Object(store.update(&place, call.body.clone())?),
            Method::PATCH => Outcome::Object(store.patch(&place, &call.body, content_type)?),
            Method::DELETE if place.name.is_some() => Outcome::Object(store.delete(&place, &call.body)?),
            Method::DELETE => {
                for object in store.select(&place, get("labelSelector"), get("fieldSelector"))? {
                    let one = place.of(&object);
                    store.delete(&one, &call.body)?;
                }
                Outcome::Object(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => return Err(api::Status::bad_request(format!("the fake knows no {}", call.method))),
        };
        drop(store);
        if call.method != Method::GET {
            self.0.changed.notify_waiters();
        }
        let (code, value) = match outcome {
            Outcome::Object(value) => (200, value),
            Outcome::Created(value) => (201, value),
        };
        Ok(respond(code, &value))
    }

    fn watch(&self, watcher: Watcher) -> Body {
        let api = self.clone();
        let stream = futures::stream::unfold((api, watcher), |(api, mut watcher)| async move {
            let event = loop {
                let changed = api.0.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if let Some(event) = api.0.store.lock().next_event(&mut watcher)? {
                    break event;
                }
                changed.await;
            };
            let mut line = serde_json::to_vec(&event).expect("JSON serializes");
            line.push(b'\n');
            Some((Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(line))), (api, watcher)))
        });
        BodyExt::boxed_unsync(StreamBody::new(stream))
    }
}

fn respond(code: u16, value: &Value) -> Response<Body> {
    let body = full_body(serde_json::to_vec(value).expect("JSON serializes"));
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code of our own making");
    response
}

#[async_trait::async_trait]
impl Transport for FakeApi {
    async fn send(&self, request: http::Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let (parts, body) = request.into_parts();
        let call = Call {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        let content_type =
            parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        self.0.log.lock().push(call.clone());
        let refused = self.0.reactor.lock().as_mut().and_then(|reactor| reactor(&call));
        let answer = match refused {
            Some(status) => Err(status),
            None => self.answer(&call, content_type),
        };
        Ok(answer.unwrap_or_else(|status| respond(status.code, &status.to_json())))
    }
}
