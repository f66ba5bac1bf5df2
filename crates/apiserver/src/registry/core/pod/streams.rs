//! `pods/exec`, `attach`, `portforward` (to the pod's kubelet) and `proxy` (to the pod itself).
//!
//! The kubelet's paths and parameters are upstream's; what is streamed is not looked at.
//! Not here: `pods/log` (`log`), which shares what is known of the way to a kubelet.
//! Upstream: pkg/registry/core/pod/rest, pkg/registry/core/pod/strategy.go (LogLocation, streamLocation).

use api::{GroupVersionKind, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::super::node;
use crate::admission::Operation;
use crate::engine::{Call, WriteOptions};
use crate::proxy::{self, Destination, Reach};
use crate::registry::Subresource;
use crate::request::Query;
use crate::response::Response;

/// `pods/exec`.
pub(super) struct Exec;
/// `pods/attach`.
pub(super) struct Attach;
/// `pods/portforward`.
pub(super) struct PortForward;
/// `pods/proxy`.
pub(super) struct Proxy;

#[async_trait]
impl Subresource for Exec {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        stream(call, "exec", "PodExecOptions").await
    }
}

#[async_trait]
impl Subresource for Attach {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        stream(call, "attach", "PodAttachOptions").await
    }
}

async fn stream(call: Call, what: &str, kind: &str) -> Result<Response, Status> {
    connecting(&call, kind).await?;
    let pod = call.stored().await?.object;
    let container = container(&pod, call.query.get("container").unwrap_or_default())?;
    scheduled(&pod)?;
    // The kubelet's names for the streams differ from the API's.
    let query = parameters(&call.query, |name| match name {
        "stdin" => Some("input".to_owned()),
        "stdout" => Some("output".to_owned()),
        "stderr" => Some("error".to_owned()),
        "tty" | "command" => Some(name.to_owned()),
        _ => None,
    });
    let path = path(what, &pod, Some(&container), &query);
    to_kubelet(call, &pod, &path).await
}

#[async_trait]
impl Subresource for PortForward {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        connecting(&call, "PodPortForwardOptions").await?;
        let pod = call.stored().await?.object;
        scheduled(&pod)?;
        let query = parameters(&call.query, |name| match name {
            "ports" | "port" => Some("port".to_owned()),
            _ => None,
        });
        let path = path("portForward", &pod, None, &query);
        to_kubelet(call, &pod, &path).await
    }
}

#[async_trait]
impl Subresource for Proxy {
    async fn serve(&self, mut call: Call) -> Result<Response, Status> {
        node::proxyable(&call)?;
        let (scheme, name, port) = node::split(&call.info.name)
            .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", call.info.name)))?;
        let (scheme, name, port) = (scheme.to_owned(), name.to_owned(), port.to_owned());
        connect(&call, "PodProxyOptions").await?;
        call.info.name = name;
        let pod = call.stored().await?.object;
        let ip = pod.0.pointer("/status/podIP").and_then(Value::as_str).unwrap_or_default();
        if ip.is_empty() {
            return Err(Status::bad_request("address not allowed"));
        }
        let port = match port.as_str() {
            "" => first_port(&pod).unwrap_or(if scheme == "https" { 443 } else { 80 }),
            text => text
                .parse()
                .map_err(|_| Status::bad_request(format!("invalid pod request \"{}\"", call.info.name)))?,
        };
        let tls = (scheme == "https").then(node::anyone);
        let to = Destination { host: ip.to_owned(), port, tls, server_name: None, reach: Reach::Routable };
        node::show(call, to).await
    }
}

fn first_port(pod: &Object) -> Option<u16> {
    let containers = pod.0.pointer("/spec/containers")?.as_array()?;
    let port = containers.iter().find_map(|c| c["ports"].as_array()?.first()?["containerPort"].as_u64())?;
    u16::try_from(port).ok()
}

/// Whether the caller may open a stream. A WebSocket comes as GET, but what runs over it changes things: it takes
/// the permission that the POST of the other protocol takes.
async fn connecting(call: &Call, kind: &str) -> Result<(), Status> {
    if !matches!(call.info.verb.as_str(), "get" | "create") {
        return Err(call.method_not_allowed());
    }
    connect(call, kind).await?;
    call.authorize("create").await
}

/// Asks admission about the connection.
pub(in crate::registry::core) async fn connect(call: &Call, kind: &str) -> Result<(), Status> {
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for (name, value) in call.query.pairs() {
        match (name, &mut options[name]) {
            ("command", Value::Array(list)) => list.push(value.into()),
            ("command", slot) => *slot = json!([value]),
            ("stdin" | "stdout" | "stderr" | "tty", slot) => *slot = call.query.flag(name).into(),
            ("ports", slot) => {
                let port = value.parse::<i64>().map_or_else(|_| value.into(), serde_json::Value::from);
                match slot {
                    Value::Array(list) => list.push(port),
                    slot => *slot = json!([port]),
                }
            }
            // The first value, as what serves the connection takes it; and nobody says what kind this is.
            (_, slot @ Value::Null) => *slot = value.into(),
            _ => {}
        }
    }
    let mut object = Object(options);
    let plain = WriteOptions::default();
    let mut request = call.admission(Operation::Connect, &plain, Some(&mut object), None);
    request.kind = GroupVersionKind::new("", "v1", kind);
    // What is asked for is the object; nothing is written that could have options.
    request.options = Value::Null;
    call.server.admission.admit(&mut request).await?;
    call.server.admission.validate(&mut request).await
}

pub(super) fn node_name(pod: &Object) -> &str {
    pod.0.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default()
}

fn scheduled(pod: &Object) -> Result<(), Status> {
    if node_name(pod).is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    Ok(())
}

pub(super) async fn to_kubelet(call: Call, pod: &Object, path: &str) -> Result<Response, Status> {
    let to = node::kubelet(&call, node_name(pod)).await?;
    proxy::forward(call, to, path).await
}

/// The container asked for, or the only one there is.
pub(super) fn container(pod: &Object, asked: &str) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod.0.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if asked.is_empty() {
        if let [only] = main.as_slice() {
            return Ok((*only).to_owned());
        }
        return Err(Status::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            pod.name(),
            [init, main, ephemeral].concat().join(" ")
        )));
    }
    if [main, init, ephemeral].concat().contains(&asked) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {}", pod.name())))
}

pub(super) fn path(what: &str, pod: &Object, container: Option<&str>, query: &str) -> String {
    let mut path = format!("/{what}/{}/{}", pod.namespace().unwrap_or_default(), pod.name());
    if let Some(container) = container {
        path.push('/');
        path.push_str(container);
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// The parameters that `rename` keeps, encoded again.
pub(super) fn parameters(query: &Query, rename: impl Fn(&str) -> Option<String>) -> String {
    let kept = query.pairs().filter_map(|(name, value)| Some(format!("{}={}", rename(name)?, encode(value))));
    kept.collect::<Vec<_>>().join("&")
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_the_one_asked_for_or_the_only_one() {
        let pod = |spec: Value| Object(json!({"metadata": {"name": "p"}, "spec": spec}));
        let one = pod(json!({"containers": [{"name": "a"}]}));
        let two =
            pod(json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}));
        let one_beside_init = pod(json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}));
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(container(&one_beside_init, "").unwrap(), "a");
        assert_eq!(container(&two, "i").unwrap(), "i");
        assert_eq!(
            container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [i a b]"
        );
        assert_eq!(container(&one, "x").unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn parameters_are_renamed_and_encoded() {
        let query = Query::parse(Some("stdin=true&command=sh&command=-c&command=a%26b%20c&container=x"));
        let kept = parameters(&query, |name| match name {
            "stdin" => Some("input".into()),
            "command" => Some("command".into()),
            _ => None,
        });
        assert_eq!(kept, "input=true&command=sh&command=-c&command=a%26b%20c");
    }
}
