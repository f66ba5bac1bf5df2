//! A server over a store in a directory of its own, and a user who asks it.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Options, User};
use bytes::{Bytes, BytesMut};
use client::{Body, Transport};
use foundation::{SystemClock, SystemRandomness, Tasks};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::Value;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub server: ApiServer,
    pub admin: User_,
    pub store: Arc<store::embedded::Engine>,
    pub tasks: Tasks,
    _directory: tempfile::TempDir,
}

/// A user who asks the server.
pub struct User_(Arc<dyn Transport>);

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub bytes: Bytes,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::over(change, |store| store).await
    }

    /// A world whose server sees the store through something else.
    pub async fn over(
        change: impl FnOnce(&mut Options),
        through: impl FnOnce(Arc<dyn store::Store>) -> Arc<dyn store::Store>,
    ) -> Self {
        Self::made(change, through, SystemRandomness::shared()).await
    }

    /// A world in which chance is this.
    pub async fn with_randomness(randomness: foundation::SharedRandomness) -> Self {
        Self::made(|_| {}, |store| store, randomness).await
    }

    async fn made(
        change: impl FnOnce(&mut Options),
        through: impl FnOnce(Arc<dyn store::Store>) -> Arc<dyn store::Store>,
        randomness: foundation::SharedRandomness,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store =
            store::embedded::Engine::open(directory.path(), Default::default(), SystemClock::shared())
                .unwrap();
        let tasks = Tasks::new("test");
        let mut options = Options { advertise: Some(([127, 0, 0, 1].into(), 6443)), ..Options::default() };
        change(&mut options);
        let clock = SystemClock::shared();
        let server =
            ApiServer::new(through(store.clone()), options, &tasks, clock, randomness).await.unwrap();
        let admin = User_(server.in_process(User::new("admin", &[User::MASTERS])));
        // What the service account controller does in a whole cluster; pods are refused without it.
        let account = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.is(201);
        Self { server, admin, store, tasks, _directory: directory }
    }

    /// A user who may do what these rules of a ClusterRole say.
    pub async fn granted(&self, name: &str, rules: Value) -> User_ {
        let group = "rbac.authorization.k8s.io";
        let role = serde_json::json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
        });
        let binding = serde_json::json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
        });
        self.admin.post(&format!("/apis/{group}/v1/clusterroles"), &role).await.is(201);
        self.admin.post(&format!("/apis/{group}/v1/clusterrolebindings"), &binding).await.is(201);
        self.user(name, &[])
    }

    pub fn user(&self, name: &str, groups: &[&str]) -> User_ {
        self.user_of(&self.server, name, groups)
    }

    /// A user of another server.
    pub fn user_of(&self, server: &ApiServer, name: &str, groups: &[&str]) -> User_ {
        User_(server.in_process(User::new(name, groups)))
    }
}

impl User_ {
    pub async fn send(&self, request: Request<Bytes>) -> http::Response<Body> {
        tokio::time::timeout(PATIENCE, self.0.send(request)).await.expect("an answer in time").unwrap()
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A request in process can go through without a wait: whoever asks in a loop lets the server's tasks run.
        tokio::task::yield_now().await;
        let response = self.send(request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let bytes =
            tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time").unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { code: head.status.as_u16(), headers: head.headers, body, bytes }
    }

    /// Asks by GET until the answer is as `wanted`, at most for [`PATIENCE`].
    pub async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let asking = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} never was as wanted"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media_type = format!("application/{kind}");
        self.ask(Method::PATCH, path, &[("content-type", &media_type)], body.to_string()).await
    }

    pub async fn delete(&self, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.ask(Method::DELETE, path, &[("content-type", "application/json")], body).await
    }

    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let request = Request::builder().uri(path).header("accept", accept).body(Bytes::new()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), 200, "{path}");
        Watch::of(response.into_body())
    }
}

/// An open watch.
pub struct Watch {
    body: Body,
    read: BytesMut,
}

impl Watch {
    /// The watch whose answer has this body.
    pub fn of(body: Body) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// The next event; `None` when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }

    /// Type and name of the next event.
    pub async fn event(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

impl Watch {
    /// The next bytes, of which there are at least so many.
    pub async fn bytes(&mut self, least: usize) -> Bytes {
        while self.read.len() < least {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            let data = frame.expect("more of the watch").unwrap().into_data().expect("data");
            self.read.extend_from_slice(&data);
        }
        self.read.split_to(least).freeze()
    }

    /// What has been read and not taken, after one more frame.
    pub async fn frame(&mut self) -> Bytes {
        self.bytes(1).await.iter().copied().chain(self.read.split().iter().copied()).collect()
    }
}

impl Answer {
    /// The answer, which must have this code.
    #[track_caller]
    pub fn is(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    pub fn at(&self, pointer: &str) -> &Value {
        self.body.pointer(pointer).unwrap_or(&Value::Null)
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.text("/message")
    }

    /// The texts of the `Warning` headers.
    pub fn warnings(&self) -> Vec<String> {
        let unquoted = |value: &http::HeaderValue| {
            let quoted = value.to_str().unwrap().strip_prefix("299 - ").expect("a warning is of code 299");
            serde_json::from_str(quoted).expect("a warning's text is quoted")
        };
        self.headers.get_all("warning").iter().map(unquoted).collect()
    }

    pub fn names(&self) -> Vec<&str> {
        let items = self.at("/items").as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| item.pointer("/metadata/name")?.as_str()).collect()
    }
}

pub fn config_map(name: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub fn pod(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    })
}
