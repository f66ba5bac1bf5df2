//! Clients of several servers: one that writes, one that watches, and questions to one server alone.
//!
//! They know all servers and go on to the next when one does not answer, as any client of a cluster with several servers
//! does by itself or through a balancer.

use std::{
    collections::BTreeSet,
    fs::File,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use client::{HttpsTransport, Transport, kubeconfig};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use testkit::wait;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How long one request of the writer may take before it asks another server.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two writes, and before a server that failed is followed by the next: what two cores bear beside a cluster.
const PACE: Duration = Duration::from_millis(20);

/// The name of the `number`-th object that is written.
pub fn name(number: usize) -> String {
    format!("m{number:06}")
}

/// How many writes were acknowledged.
#[derive(Debug, Default)]
pub struct Written {
    count: AtomicUsize,
    /// Why the last request was not acknowledged.
    trouble: Mutex<String>,
}

impl Written {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits for more of them.
    pub fn more(&self, amount: usize) {
        let goal = self.count() + amount;
        wait::until("more writes are acknowledged", || match self.count() {
            count if count >= goal => Ok(()),
            count => Err(format!("{count} of {goal}; {}", self.trouble.lock().unwrap())),
        });
    }
}

/// What a watch has told.
#[derive(Debug, Default)]
pub struct Watched {
    names: Mutex<Vec<String>>,
}

impl Watched {
    /// The names of new objects, in the order in which they were told.
    pub fn names(&self) -> Vec<String> {
        self.names.lock().unwrap().clone()
    }

    /// Waits until an object was told of.
    pub fn ends_with(&self, name: &str) {
        wait::until("the watch has caught up", || {
            let names = self.names();
            if names.iter().any(|told| told == name) { Ok(()) } else { Err(format!("{:?}", names.last())) }
        });
    }
}

/// The servers, and who asks them from where.
pub struct Clients {
    network: File,
    configs: Vec<client::Config>,
}

impl Clients {
    /// Speaks from a network namespace as the administrator of a kubeconfig.
    pub fn new(network: File, kubeconfig: &Path, servers: &[Ipv4Addr]) -> Clients {
        let config = kubeconfig::load(kubeconfig).expect("the kubeconfig can be read");
        let at = |address: &Ipv4Addr| client::Config {
            server: format!("https://{address}:6443"),
            ..config.clone()
        };
        Clients { network, configs: servers.iter().map(at).collect() }
    }

    /// Runs something with an event loop and connections of its own.
    fn run<T: Send>(&self, work: impl AsyncFnOnce(&[HttpsTransport]) -> T + Send) -> T {
        let run = || {
            let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            event_loop.block_on(async {
                let transports: Vec<HttpsTransport> =
                    self.configs.iter().map(|config| HttpsTransport::new(config).unwrap()).collect();
                work(&transports).await
            })
        };
        sys::netlink::within(&self.network, run).expect("the network can be entered")
    }

    /// Writes one object after the other until told to stop, each until it is acknowledged.
    pub fn write(&self, stop: &AtomicBool, written: &Written) {
        self.run(async |servers| {
            let mut at = 0;
            while !stop.load(Ordering::SeqCst) {
                let number = written.count();
                match create(&servers[at % servers.len()], &name(number)).await {
                    Ok(()) => {
                        written.count.store(number + 1, Ordering::SeqCst);
                    }
                    Err(trouble) => {
                        *written.trouble.lock().unwrap() =
                            format!("server {}: {trouble}", at % servers.len() + 1);
                        at += 1;
                    }
                }
                tokio::time::sleep(PACE).await;
            }
        });
    }

    /// The revision that the first server has reached.
    pub fn revision(&self) -> u64 {
        let list = self.run(async |servers| exchange(&servers[0], "GET", MAPS, Value::Null).await);
        let (_, list) = list.expect("nobody has killed it yet");
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    /// Follows from a revision on what is written, until told to stop.
    pub fn watch(&self, mut revision: u64, stop: &AtomicBool, watched: &Watched) {
        self.run(async |servers| {
            let mut at = 0;
            while !stop.load(Ordering::SeqCst) {
                let end = follow(&servers[at % servers.len()], &mut revision, stop, watched).await;
                assert!(end != Some(410), "revision {revision} is still to be had");
                at += 1;
                tokio::time::sleep(PACE).await;
            }
        });
    }

    /// One server acknowledges no write.
    pub fn refuses_writes(&self, server: usize) {
        let outcome = self.run(async |servers| create(&servers[server], "refused").await);
        assert!(outcome.is_err(), "a server without a majority has acknowledged a write");
    }

    /// The names of all objects, as one server tells.
    pub fn list(&self, server: usize) -> BTreeSet<String> {
        let list = || self.run(async |servers| exchange(&servers[server], "GET", MAPS, Value::Null).await);
        let list = wait::until("a server lists", || match list() {
            Ok((200, list)) => Ok(list),
            other => Err(format!("{other:?}")),
        });
        let items = list["items"].as_array().into_iter().flatten();
        items.filter_map(|map| map["metadata"]["name"].as_str()).map(str::to_owned).collect()
    }
}

fn request(method: &str, path: &str, body: Value) -> http::Request<Bytes> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let builder =
        http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    builder.header("accept", "application/json").body(body).expect("the request is sound")
}

async fn exchange(
    server: &HttpsTransport,
    method: &str,
    path: &str,
    body: Value,
) -> Result<(u16, Value), String> {
    let answer = async {
        let response = server.send(request(method, path, body)).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((code, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn create(server: &HttpsTransport, name: &str) -> Result<(), String> {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    match exchange(server, "POST", MAPS, map).await? {
        (201, _) => Ok(()),
        // An earlier request was carried out without its answer having arrived.
        (409, status) if status["reason"] == "AlreadyExists" => Ok(()),
        (code, status) => Err(format!("{code} {status}")),
    }
}

/// Watches at one server from a revision on until the stream ends, however it does; returns the code of a refusal.
async fn follow(
    server: &HttpsTransport,
    revision: &mut u64,
    stop: &AtomicBool,
    watched: &Watched,
) -> Option<u64> {
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={revision}");
    let answer = tokio::time::timeout(PATIENCE, server.send(request("GET", &path, Value::Null))).await;
    let Ok(Ok(response)) = answer else { return None };
    if response.status() != 200 {
        return Some(u64::from(response.status().as_u16()));
    }
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        // A look at `stop` now and then, also when nothing happens.
        let frame = match tokio::time::timeout(PATIENCE, body.frame()).await {
            Err(_) => continue,
            Ok(Some(Ok(frame))) => frame,
            Ok(_) => return None,
        };
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).expect("an event is JSON");
            let object = &event["object"];
            if event["type"] == "ERROR" {
                return object["code"].as_u64();
            }
            let at: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if event["type"] == "ADDED" && name.starts_with('m') {
                assert!(at > *revision, "{name} is told of at {at}, after {revision}");
                watched.names.lock().unwrap().push(name.to_owned());
            }
            *revision = at.max(*revision);
        }
    }
    None
}
