//! The pages beside the API: `/health`, `/livez`, `/readyz`, `/metrics`, `/version`, by HTTP/1.1 and HTTP/2.
//!
//! Reads the store. A store that refuses writes is not well where the answer is to be the newest, unless its disk is only
//! full, which etcd tells by `/health` alone; one that refuses them until it is opened anew is never well. Corrupt files
//! are found when the store is opened, and keep it from being opened: `data_corruption` fails where the store has ended.
//! Not here: what is counted (`metrics`), the listeners (`serve`).
//! Upstream: etcd's `server/etcdserver/api/etcdhttp/{health,metrics,version}.go`, of 3.5.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use store::{Range, Status};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Server, VERSION};

/// How long a check may take: etcd's patience with a request, of its defaults.
const PATIENCE: Duration = Duration::from_secs(7);
/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";

/// What a page of checks looks at, in the order in which it tells of them.
const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }
}

/// Answers the pages on a connection of HTTP/1.1 until the client goes away.
pub(crate) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send, server: &Server) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        Ok::<_, Infallible>(answer(server, &request.into_parts().0.into()).await.map(Full::new))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    if let Err(error) = builder.serve_connection(TokioIo::new(io), service).await {
        tracing::debug!(%error, "a connection to the pages failed");
    }
}

/// What is asked for.
pub(crate) struct Asked {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
}

impl From<http::request::Parts> for Asked {
    fn from(head: http::request::Parts) -> Self {
        let query = head.uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (key.to_owned(), value.to_owned())
        };
        Self { method: head.method, path: head.uri.path().to_owned(), query: query.map(pair).collect() }
    }
}

impl Asked {
    fn has(&self, key: &str, value: &str) -> bool {
        self.query.iter().any(|pair| (pair.0.as_str(), pair.1.as_str()) == (key, value))
    }
}

/// Answers one page.
pub(crate) async fn answer(server: &Server, asked: &Asked) -> Response<Bytes> {
    let path = asked.path.as_str();
    if path == "/metrics" {
        return page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", server.metrics_page().await);
    }
    let checks = path.strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, "")));
    let checks = match checks {
        Some(("livez", check)) => chosen("livez", LIVEZ, check),
        Some(("readyz", check)) => chosen("readyz", READYZ, check),
        _ => None,
    };
    if checks.is_none() && !matches!(path, "/health" | "/version") {
        return refused(StatusCode::NOT_FOUND, "404 page not found");
    }
    if asked.method != Method::GET {
        let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match checks {
        Some((page, checks)) => server.checks(asked, page, checks).await,
        None if path == "/health" => server.health(asked).await,
        None => {
            let versions = format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{VERSION}"}}"#);
            page(StatusCode::OK, "application/json", versions)
        }
    }
}

/// The checks that a path asks for: all of them, or the one that it names.
fn chosen(page: &'static str, all: &'static [Check], name: &str) -> Option<(&'static str, &'static [Check])> {
    if name.is_empty() {
        return Some((page, all));
    }
    let index = all.iter().position(|check| check.name() == name)?;
    Some((page, &all[index..=index]))
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A text that is for people, whatever it looks like.
fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = page(status, TEXT, text);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn refused(status: StatusCode, text: &str) -> Response<Bytes> {
    plain(status, format!("{text}\n"))
}

/// Why a store that refuses writes is not well. An etcd whose disk refuses for another reason than room would not run.
fn alarm(status: Status, serializable: bool) -> Option<String> {
    let is_ill = status.is_lost() || (!serializable && !status.is_full());
    status.alarm.filter(|_| is_ill)
}

impl Server {
    async fn health(&self, asked: &Asked) -> Response<Bytes> {
        let serializable = asked.has("serializable", "true");
        let ill = self.illness(asked.has("exclude", "NOSPACE"), serializable).await.err();
        self.metrics.health(ill.is_none());
        let health = if ill.is_none() { "true" } else { "false" };
        let reason = ill.unwrap_or_default();
        if !reason.is_empty() {
            tracing::warn!(reason, "/health is not well");
        }
        let quoted = reason.replace('\\', "\\\\").replace('"', "\\\"").replace(char::is_control, " ");
        let text = format!(r#"{{"health":"{health}","reason":"{quoted}"}}"#);
        match health {
            "true" => page(StatusCode::OK, TEXT, text),
            _ => refused(StatusCode::SERVICE_UNAVAILABLE, &text),
        }
    }

    /// What ails the server, if anything does.
    async fn illness(&self, space_excluded: bool, serializable: bool) -> Result<(), String> {
        let status = self.store.status().await.map_err(|error| format!("STATUS ERROR:{error}"))?;
        if status.is_full() && !space_excluded {
            return Err("ALARM NOSPACE".to_owned());
        }
        let leader = self.options.members.as_ref().map(|members| members.standing().leader);
        if !serializable && leader == Some(0) {
            return Err("RAFT NO LEADER".to_owned());
        }
        if let Some(alarm) = alarm(status, serializable) {
            return Err(format!("ALARM {alarm}"));
        }
        self.can_read(serializable).await.map_err(|why| format!("RANGE ERROR:{why}"))
    }

    async fn can_read(&self, serializable: bool) -> Result<(), String> {
        let range = Range { start: Bytes::from_static(b"\0"), limit: 1, uncounted: true, ..Range::default() };
        let range = if serializable { range.serializable() } else { range };
        tokio::select! {
            found = self.store.range(range) => {
                found.map(drop).map_err(|error| crate::refusal::status(error).message().to_owned())
            }
            () = self.clock.sleep(PATIENCE) => Err("context deadline exceeded".to_owned()),
        }
    }

    async fn checks(&self, asked: &Asked, page: &'static str, checks: &[Check]) -> Response<Bytes> {
        let (mut told, mut is_well) = (String::new(), true);
        // One that is asked for by its own path cannot be left out.
        let excluded = |check: &Check| checks.len() > 1 && asked.has("exclude", check.name());
        for check in checks.iter().filter(|check| !excluded(check)) {
            let name = check.name();
            let found = self.check(*check).await;
            self.metrics.checked(page, name, found.is_ok());
            match found {
                Ok(()) => told += &format!("[+]{name} ok\n"),
                Err(why) => {
                    tracing::warn!(page, check = name, why, "a check of the etcd API failed");
                    told += &format!("[-]{name} failed: {why}\n");
                    is_well = false;
                }
            }
        }
        if !is_well {
            return refused(StatusCode::SERVICE_UNAVAILABLE, &told);
        }
        if !asked.query.iter().any(|(key, _)| key == "verbose") {
            told.clear();
        }
        plain(StatusCode::OK, told + "ok\n")
    }

    async fn check(&self, check: Check) -> Result<(), String> {
        match check {
            Check::SerializableRead | Check::LinearizableRead => {
                let serializable = check == Check::SerializableRead;
                let status = self.store.status().await.map_err(|error| error.to_string())?;
                match alarm(status, serializable) {
                    Some(alarm) => Err(alarm),
                    None => self.can_read(serializable).await,
                }
            }
            Check::DataCorruption => self.store.status().await.map(drop).map_err(|error| error.to_string()),
            Check::NonLearner => {
                let members = self.options.members.as_ref();
                match members.is_some_and(|members| members.standing().is_learner()) {
                    true => Err("not supported for learner".to_owned()),
                    false => Ok(()),
                }
            }
        }
    }
}
