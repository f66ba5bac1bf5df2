//! `/healthz`, `/livez`, `/readyz`: each check by name, all of them, in detail with `verbose`.
//!
//! What is not as it should be though everything passes (the store's disk is slow, or full) is told in detail.
//! How each came out is kept for `/metrics/slis` (`slis`).
//! A step of the start that is done is a check of its own, under upstream's name for it ([`hooks`]): tools wait for some.
//! Upstream: apiserver/pkg/server/{healthz,hooks.go}.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use api::field::quote;

use super::slis;
use crate::request::Query;
use crate::response::{self, Response};
use crate::server::Server;

/// What is done once the objects are there that every cluster has.
pub(crate) const BOOTSTRAP: &[&str] = &[
    "start-system-namespaces-controller",
    "bootstrap-controller",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
    "start-cluster-authentication-info-controller",
    "start-legacy-token-tracking-controller",
];
/// What is done once flow control is configured.
pub(crate) const FAIRNESS: &[&str] = &[
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-filter",
    "priority-and-fairness-config-producer",
];
/// What is done once custom resources are served.
pub(crate) const DEFINITIONS: &[&str] =
    &["start-apiextensions-informers", "start-apiextensions-controllers", "crd-informer-synced"];
/// What is done once APIServices are followed.
pub(crate) const AGGREGATION: &[&str] = &[
    "apiservice-registration-controller",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-discovery-controller",
    "apiservice-openapi-controller",
    "apiservice-openapiv3-controller",
    "kube-apiserver-autoregistration",
];

/// Whether the plugins that keep keys answer. A server whose plugin fails is alive all the same.
pub const KMS: &str = "kms-providers";

/// These steps of the start are done.
pub(crate) fn hooks(server: &Server, names: &[&str]) {
    for name in names {
        server.checks.register(format!("poststarthook/{name}"), || Ok(()));
    }
}

/// The paths of the single checks of an endpoint.
pub(super) fn paths(server: &Server, endpoint: &str) -> Vec<String> {
    entries(server, endpoint).into_iter().map(|(name, _)| format!("/{endpoint}/{name}")).collect()
}

fn entries(server: &Server, endpoint: &str) -> Vec<(String, Result<(), String>)> {
    let mut entries = server.checks.report().entries;
    if endpoint == "readyz" {
        let synced = entries.iter().find(|(name, _)| name == "watch-cache").map(|(_, result)| result.clone());
        let store = entries.iter().find(|(name, _)| name == "etcd").map(|(_, result)| result.clone());
        entries.extend(synced.map(|result| ("informer-sync".to_owned(), result)));
        entries.extend(store.map(|result| ("etcd-readiness".to_owned(), result)));
    }
    // A server that is shutting down is alive, but wants no new requests.
    if endpoint == "livez" {
        entries.retain(|(name, _)| name != KMS);
    } else {
        let stopping = server.stopping.load(Ordering::Relaxed) || server.draining.is_cancelled();
        let shutdown = if stopping { Err("process is shutting down".to_owned()) } else { Ok(()) };
        entries.push(("shutdown".to_owned(), shutdown));
    }
    entries
}

pub(super) async fn serve(server: &Server, endpoint: &str, check: Option<&str>, query: &Query) -> Response {
    let entries = entries(server, endpoint);
    if let Some(check) = check {
        return match entries.into_iter().find(|(name, _)| name == check) {
            None => response::text(404, "404 page not found\n"),
            Some((_, Ok(()))) => response::text(200, "ok"),
            Some((_, Err(error))) => response::text(500, format!("internal server error: {error}\n")),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut out = String::new();
    let mut failed = Vec::new();
    for (name, result) in &entries {
        if !excluded.contains(&name.as_str()) {
            slis::observed(name, endpoint, result.is_ok());
        }
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
    let mut unknown: Vec<String> = excluded
        .iter()
        .filter(|excluded| !entries.iter().any(|(name, _)| name == *excluded))
        .map(|excluded| quote(excluded))
        .collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        let _ = writeln!(out, "warn: some health checks cannot be excluded: no matches for {unknown}");
    }
    if !failed.is_empty() {
        return response::text(500, format!("{out}{endpoint} check failed\n"));
    }
    if query.get("verbose").is_some() {
        for warning in server.storage.store.warnings().await.unwrap_or_default() {
            let _ = writeln!(out, "warn: etcd: {warning}");
        }
        return response::text(200, format!("{out}{endpoint} check passed\n"));
    }
    response::text(200, "ok")
}
