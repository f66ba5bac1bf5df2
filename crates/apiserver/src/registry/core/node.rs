//! Nodes: the way to their kubelets, and `nodes/proxy`.
//! Upstream: pkg/registry/core/node/{rest,strategy}.go, pkg/kubelet/client.

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::pod::streams;
use crate::engine::Call;
use crate::proxy::{self, Destination, Reach};
use crate::registry::{Rest, Subresource};
use crate::request::RequestInfo;
use crate::response::Response;

/// `nodes`.
pub(in crate::registry) struct Nodes;

impl Rest for Nodes {
    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        (name == "proxy").then(|| Arc::new(NodeProxy) as Arc<dyn Subresource>)
    }
}

struct NodeProxy;

#[async_trait]
impl Subresource for NodeProxy {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        proxyable(&call)?;
        streams::connect(&call, "NodeProxyOptions").await?;
        let invalid = || Status::bad_request(format!("invalid node request {:?}", call.info.name));
        let (scheme, name, port) = split(&call.info.name).ok_or_else(invalid)?;
        let mut to = kubelet(&call, name).await?;
        if !port.is_empty() {
            let port = port.parse().map_err(|_| invalid())?;
            // Another port is another server: it is shown no credentials, and reached only where others reach it.
            if port != to.port {
                let tls = (scheme == "https").then(anyone);
                to = Destination { port, tls, reach: Reach::Routable, ..to };
            }
        }
        show(call, to).await
    }
}

/// The kubelet of a node: the address and port in the node's status.
pub(super) async fn kubelet(call: &Call, node: &str) -> Result<Destination, Status> {
    let Some(tls) = call.server.options.kubelet.clone() else {
        return Err(Status::service_unavailable("this API server has no credentials for kubelets"));
    };
    let object = call.server.cluster.get(&GroupResource::new("", "nodes"), "", node).await?;
    let host = address(&object).ok_or_else(|| {
        Status::internal(format!(
            "no preferred addresses found; known addresses: {}",
            object.0["status"]["addresses"]
        ))
    })?;
    let port = object.0.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(10_250);
    Ok(Destination { host, port, tls: Some(tls), server_name: None, reach: Reach::Anywhere })
}

/// The first address of the most preferred type.
fn address(node: &Object) -> Option<String> {
    let addresses = node.0.pointer("/status/addresses")?.as_array()?;
    ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|wanted| {
        let found = addresses.iter().find(|address| address["type"] == **wanted)?;
        Some(found["address"].as_str()?.to_owned())
    })
}

/// `[scheme:]name[:port]` in its parts, empty where not given; `None` if it is none.
pub(super) fn split(text: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    let split = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!split.1.is_empty()).then_some(split)
}

/// Whether the method is one that the proxies pass on.
pub(super) fn proxyable(call: &Call) -> Result<(), Status> {
    match call.method.as_str() {
        "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS" => Ok(()),
        _ => Err(call.method_not_allowed()),
    }
}

/// Passes the call on to what serves below `…/proxy`.
pub(super) async fn show(call: Call, to: Destination) -> Result<Response, Status> {
    let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
    let after = after_subresource(&call.info);
    // With one slash before it: two would name another host.
    let own = format!("/{}", call.info.path.trim_start_matches('/'));
    if after.is_empty() && !proxy::is_upgrade(&call) && matches!(call.method.as_str(), "GET" | "HEAD") {
        // Relative links lead below the last slash.
        let slash = format!("{own}/{query}");
        let slash = HeaderValue::try_from(slash).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut response = Response::new(client::empty_body());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        response.headers_mut().insert(header::LOCATION, slash);
        return Ok(response);
    }
    let path = if after.is_empty() { format!("/{query}") } else { format!("{after}{query}") };
    let prefix = own.strip_suffix(after).unwrap_or_default().to_owned();
    proxy::show(call, to, prefix, &path).await
}

/// What follows the subresource in the path, from the slash on. The path is still encoded, so it is cut after as
/// many segments as the resource takes: names may look like anything.
fn after_subresource(info: &RequestInfo) -> &str {
    const RESOURCE_NAME_SUBRESOURCE: usize = 3;
    let mut rest = info.path.as_str();
    let segments = rest.split('/').filter(|segment| !segment.is_empty()).count();
    let mut left = (segments + RESOURCE_NAME_SUBRESOURCE).saturating_sub(info.parts.len());
    while left > 0 {
        rest = rest.trim_start_matches('/');
        rest = &rest[rest.find('/').unwrap_or(rest.len())..];
        left -= 1;
    }
    rest
}

/// TLS to whoever answers: what pods and services show is their own affair (as upstream's proxy), and so is the version.
pub(super) fn anyone() -> Arc<rustls::ClientConfig> {
    let config = foundation::tls::client_of_others()
        .dangerous()
        .with_custom_certificate_verifier(client::trust::any_certificate())
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_scheme_and_port() {
        for (text, parts) in [
            ("n", ("", "n", "")),
            ("n:80", ("", "n", "80")),
            ("https:n:80", ("https", "n", "80")),
            ("https:n:", ("https", "n", "")),
        ] {
            assert_eq!(split(text), Some(parts));
        }
        for text in ["", ":80", "ftp:n:80", "a:b:c:d"] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn the_proxied_path_is_what_follows_the_subresource() {
        for (path, want) in [
            ("/api/v1/nodes/n/proxy", ""),
            ("/api/v1/nodes/n/proxy/", "/"),
            ("/api/v1/nodes/n/proxy/logs/a%2Fb/", "/logs/a%2Fb/"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/x", "/x"),
            ("/api/v1/namespaces/proxy/services/a/proxy/proxy/x", "/proxy/x"),
            ("//api/v1//nodes/n/proxy//x", "//x"),
        ] {
            assert_eq!(
                after_subresource(&RequestInfo::parse(&http::Method::GET, path, None)),
                want,
                "{path}"
            );
        }
    }
}
