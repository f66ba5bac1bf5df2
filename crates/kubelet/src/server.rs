//! The node's HTTPS server: logs, exec, attach, port-forward, metrics and statistics.
//!
//! Every request but `/healthz` is authenticated (client certificate or bearer token) and authorized as access to a
//! subresource of the node. Not here: the streams themselves, which the runtime serves ([`streaming`] is a tunnel).
//! Upstream: `pkg/kubelet/server`.

pub mod auth;
mod idle;
mod logs;
mod stats;
mod streaming;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foundation::Tasks;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::manager::Pods;
use crate::node::Node;
use crate::{Error, ServerOptions};

/// Connections at the same time: each is one of the process's descriptors, and nobody has said yet who he is.
const MOST_CONNECTIONS: usize = 1024;
/// Streams (exec, attach, port-forward) at the same time: each holds two connections, for as long as its client likes.
const MOST_STREAMS: usize = 1024;
/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for the head of a request, and be silent between two: upstream's `IdleTimeout`.
const HEADERS: Duration = Duration::from_secs(90);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a handler works with.
#[derive(Clone)]
struct Context {
    node: Arc<Node>,
    pods: Pods,
    options: ServerOptions,
    tasks: Tasks,
    streams: Arc<Semaphore>,
}

/// Listens and serves. Returns the address that it listens on.
pub(crate) async fn serve(
    node: Arc<Node>,
    pods: Pods,
    options: ServerOptions,
    tasks: &Tasks,
) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Host { what: format!("listen on {}", options.address), source };
    let listener = TcpListener::bind(options.address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let streams = Arc::new(Semaphore::new(MOST_STREAMS));
    let context = Context { node, pods, options, tasks: tasks.child("server"), streams };
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    tasks.spawn_until_cancelled("listener", async move {
        loop {
            // Who comes when all places are taken waits in the kernel's queue.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let context = context.clone();
                    context.tasks.clone().spawn_until_cancelled("connection", async move {
                        connection(context, stream).await;
                        drop(place);
                    });
                }
                // Out of descriptors, or a peer that has gone: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    context.node.clock.sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(address)
}

async fn connection(context: Context, stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from((context.options.tls)()).accept(stream);
    let patience = context.node.clock.sleep(HANDSHAKE);
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        () = patience => Err(std::io::ErrorKind::TimedOut.into()),
    };
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
    };
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(auth::from_certificate);
    let service = service_fn(move |request| {
        let (context, peer) = (context.clone(), peer.clone());
        async move { Ok::<_, Infallible>(handle(context, peer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// A short answer.
fn answer(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.into())).boxed_unsync());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
            response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn handle(context: Context, peer: Option<auth::User>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        return answer(StatusCode::OK, "ok");
    }
    let user = match peer {
        Some(user) => user,
        None => {
            let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let token = header.and_then(|value| value.strip_prefix("Bearer "));
            let user = match token {
                Some(token) => context.options.access.authenticate(token).await,
                None => None,
            };
            match user {
                Some(user) => user,
                None => return answer(StatusCode::UNAUTHORIZED, "Unauthorized"),
            }
        }
    };
    let verb = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let resources = auth::subresources(&path);
    let mut allowed = false;
    for subresource in &resources {
        allowed |=
            context.options.access.authorize(&user, verb, &context.node.options.node_name, subresource).await;
        if allowed {
            break;
        }
    }
    if !allowed {
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={resources:?})",
            user.name
        );
        return answer(StatusCode::FORBIDDEN, message);
    }
    route(context, request, &path).await
}

async fn route(context: Context, request: Request<Incoming>, path: &str) -> Response<Body> {
    let parts: Vec<String> = path.trim_start_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match parts.as_slice() {
        ["pods"] => pods(&context),
        ["runningpods"] => pods(&context),
        ["metrics"] => answer(StatusCode::OK, crate::metrics::page(&context.pods.snapshots())),
        ["metrics", "resource"] => stats::resource(&context).await,
        ["stats", "summary"] => stats::summary(&context).await,
        ["containerLogs", namespace, name, container] => {
            logs::serve(&context, namespace, name, container, &query).await
        }
        ["exec", namespace, name, container] | ["exec", namespace, name, _, container] => {
            let target = streaming::Target::Exec { container: (*container).to_owned() };
            streaming::serve(&context, request, namespace, name, target, &query).await
        }
        ["attach", namespace, name, container] | ["attach", namespace, name, _, container] => {
            let target = streaming::Target::Attach { container: (*container).to_owned() };
            streaming::serve(&context, request, namespace, name, target, &query).await
        }
        ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
            streaming::serve(&context, request, namespace, name, streaming::Target::PortForward, &query).await
        }
        ["run", namespace, name, container] | ["run", namespace, name, _, container] => {
            run(&context, namespace, name, container, &query).await
        }
        _ => answer(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(context: &Context) -> Response<Body> {
    let items: Vec<_> = context.pods.snapshots().into_iter().filter_map(|snapshot| snapshot.pod).collect();
    json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

async fn run(
    context: &Context,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let id = match container_id(context, namespace, name, container) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let command: Vec<String> = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    match context.node.runtime.exec(&id, &command, std::time::Duration::from_secs(3600)).await {
        Ok((_, output)) => answer(StatusCode::OK, String::from_utf8_lossy(&output).into_owned()),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The runtime's id of a container, or the answer that says why there is none.
fn container_id(
    context: &Context,
    namespace: &str,
    name: &str,
    container: &str,
) -> Result<String, Box<Response<Body>>> {
    let Some(snapshot) = context.pods.find(namespace, name) else {
        return Err(Box::new(answer(StatusCode::NOT_FOUND, "pod does not exist")));
    };
    match snapshot.runtime.latest(container) {
        Some(record) => Ok(record.id.clone()),
        None => {
            let text = format!("container not found (\"{container}\")");
            Err(Box::new(answer(StatusCode::NOT_FOUND, text)))
        }
    }
}

/// A query string.
struct Query(HashMap<String, Vec<String>>);

impl Query {
    fn parse(text: &str) -> Query {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(key)).or_default().push(decode(&value.replace('+', " ")));
        }
        Query(values)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.first().map(String::as_str)
    }

    fn all(&self, key: &str) -> Vec<String> {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// Whether one of the names (the kubelet's own, and that of the API's options) is set.
    fn set(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "t")))
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo%20a%2Bb+c&input=1&tty=");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a+b c"]);
        assert!(query.set(&["stdin", "input"]));
        assert!(!query.set(&["tty"]));
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
