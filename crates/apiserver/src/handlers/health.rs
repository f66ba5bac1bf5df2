//! `/healthz`, `/livez`, `/readyz`: each check by name, all of them, in detail with `verbose`.
//! Upstream: apiserver/pkg/server/healthz.

use std::fmt::Write;

use crate::request::Query;
use crate::response::{self, Response};
use crate::server::Server;

pub(super) fn serve(server: &Server, endpoint: &str, check: Option<&str>, query: &Query) -> Response {
    let mut entries = server.checks.report().entries;
    // A server that is shutting down is alive, but wants no new requests.
    if endpoint != "livez" {
        let draining = server.draining.is_cancelled();
        let shutdown = if draining { Err("process is shutting down".to_owned()) } else { Ok(()) };
        entries.push(("shutdown".to_owned(), shutdown));
    }
    if let Some(check) = check {
        return match entries.into_iter().find(|(name, _)| name == check) {
            None => response::text(404, "404 page not found\n"),
            Some((_, Ok(()))) => response::text(200, "ok"),
            Some((_, Err(error))) => response::text(500, format!("internal server error: {error}\n")),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").flat_map(|list| list.split(',')).collect();
    let mut out = String::new();
    let mut failed = Vec::new();
    for (name, result) in &entries {
        // Writing to a String cannot fail.
        let _ = match result {
            _ if excluded.contains(&name.as_str()) => writeln!(out, "[+]{name} excluded: ok"),
            Ok(()) => writeln!(out, "[+]{name} ok"),
            Err(error) => {
                failed.push(name.as_str());
                tracing::warn!(check = name, error, "health check failed");
                writeln!(out, "[-]{name} failed: reason withheld")
            }
        };
    }
    if !failed.is_empty() {
        return response::text(500, format!("{out}{endpoint} check failed\n"));
    }
    if query.get("verbose").is_some() {
        return response::text(200, format!("{out}{endpoint} check passed\n"));
    }
    response::text(200, "ok")
}
