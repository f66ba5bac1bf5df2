//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, the OIDC documents.
//!
//! Not here: resources (`engine`), the filters before them.

mod discovery;
pub(crate) mod health;
pub mod openapi;
mod pages;
mod slis;

use std::sync::Arc;

use api::Status;
use http::Method;
use serde_json::{Value, json};

use crate::negotiation::{self, Offer};
use crate::request::{Query, RequestInfo, User};
use crate::response::{self, Response};
use crate::server::Server;

/// The version of Kubernetes that is served.
pub const VERSION: &str = "v1.37.0";

/// What it is built for.
pub const PLATFORM: &str = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };

/// The media type of metrics as text.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves an authorized request for a path that is no resource.
pub async fn serve(
    server: &Arc<Server>,
    head: &http::request::Parts,
    query: &Query,
    info: &RequestInfo,
    user: &User,
) -> Result<Response, Status> {
    if let Some(page) = server.options.pages.as_ref().filter(|page| page.has(&info.path)) {
        return page.answer(&head.method, &info.path).await;
    }
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let path: Vec<&str> = info.path.split('/').filter(|segment| !segment.is_empty()).collect();
    match path.as_slice() {
        [] => object(head, query, &json!({"paths": paths(server)})),
        ["healthz" | "livez" | "readyz", checks @ ..] => {
            let check = (!checks.is_empty()).then(|| checks.join("/"));
            Ok(health::serve(server, path[0], check.as_deref(), query).await)
        }
        ["statusz"] => pages::statusz(server, head, query, &paths(server)),
        ["flagz"] => pages::flagz(server, head, query),
        ["debug", "api_priority_and_fairness", dump] if server.fairness.enabled() => match *dump {
            "dump_priority_levels" => Ok(response::text(200, server.fairness.dump_levels())),
            "dump_queues" => Ok(response::text(200, server.fairness.dump_queues())),
            "dump_requests" => {
                let details = query.get("includeRequestDetails").is_some_and(|value| !value.is_empty());
                Ok(response::text(200, server.fairness.dump_requests(details)))
            }
            _ => nothing(server, &info.path),
        },
        ["version"] => object(head, query, &version()),
        ["metrics"] => {
            server.metrics.count_objects(server).await;
            server.fairness.measure();
            // The kubelet has a page of its own.
            let text = foundation::metrics::registry().render_where(|name| !name.starts_with("kubelet_"));
            Ok(response::bytes(200, METRICS, text))
        }
        ["metrics", "slis"] => Ok(response::bytes(200, METRICS, slis::page())),
        ["api"] | ["apis"] => discovery::root(server, head, query, path[0]),
        ["apis", group] => match discovery::group(server, head, query, group) {
            Err(status) if status.is_not_found() => nothing(server, &info.path),
            answer => answer,
        },
        ["api", version] => discovery::version(server, head, query, "", version),
        ["apis", group, version] => match discovery::version(server, head, query, group, version) {
            Err(status) if status.is_not_found() => nothing(server, &info.path),
            answer => answer,
        },
        [".well-known", "openid-configuration"] => {
            keys(server, |keys| response::json(200, &keys.discovery()))
        }
        ["openid", "v1", "jwks"] => keys(server, |keys| {
            response::bytes(200, "application/jwk-set+json", crate::encoding::to_json(&keys.jwks()))
        }),
        ["openapi", "v2"] => openapi::v2(server, head).await,
        ["openapi", "v3"] => openapi::v3_index(server, head).await,
        ["openapi", "v3", "apis", group, version] if server.aggregator.get(group, version).is_some() => {
            openapi::remote(server, head, user, group, version).await
        }
        ["openapi", "v3", at @ ..] => openapi::v3(server, head, query, at).await,
        _ => nothing(server, &info.path),
    }
}

/// The answer to a path that nothing serves. Built-in groups have all that is below them, and say so in the API's form. The
/// rest is nobody's, and ends in the words of Go's own server.
pub(crate) fn nothing(server: &Server, path: &str) -> Result<Response, Status> {
    let mut parts = path.split('/').skip(1);
    let is_built_in = match (parts.next(), parts.next()) {
        (Some("api"), _) => true,
        (Some("apis"), Some(name)) => {
            let table = server.registry.table();
            let group = table.groups().iter().find(|group| group.name == name);
            let mut resources = group.into_iter().flat_map(|group| &group.versions).flat_map(|(_, all)| all);
            resources.any(|resource| !resource.is_custom())
        }
        _ => false,
    };
    if is_built_in { Err(Status::page_not_found()) } else { Ok(response::text(404, "404 page not found\n")) }
}

/// What is said about the keys that ServiceAccount tokens are signed with, where there are any.
fn keys(
    server: &Server,
    say: impl FnOnce(&crate::authn::token::Keys) -> Response,
) -> Result<Response, Status> {
    server.authentication.issuer.as_ref().map(|issuer| say(issuer.keys())).ok_or_else(Status::page_not_found)
}

/// A response with `value` as the client wants it.
fn object(head: &http::request::Parts, query: &Query, value: &Value) -> Result<Response, Status> {
    let offer = Offer { transforms: false, protobuf: true, stream: false };
    let accepted = negotiation::negotiate(&head.headers, query, offer)?;
    Ok(crate::output::value_response(accepted, 200, value))
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "37",
        "emulationMajor": "1",
        "emulationMinor": "37",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "36",
        "gitVersion": format!("{VERSION}+ironclad.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": PLATFORM,
    })
}

fn paths(server: &Server) -> Vec<String> {
    let table = server.registry.table();
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for group in table.groups() {
        let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
        if !group.name.is_empty() {
            paths.push(root.clone());
        }
        paths.extend(group.versions.iter().map(|(version, _)| format!("{root}/{version}")));
    }
    let pages = [
        "/flagz",
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/statusz",
        "/version",
    ];
    paths.extend(pages.map(str::to_owned));
    for endpoint in ["healthz", "livez", "readyz"] {
        paths.extend(health::paths(server, endpoint));
    }
    paths.sort();
    paths
}
