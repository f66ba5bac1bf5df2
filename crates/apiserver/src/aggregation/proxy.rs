//! Passing a request on to the server of its group, in the name of whoever asked.
//!
//! Upstream: kube-aggregator/pkg/apiserver/handler_proxy.go, client-go/transport/round_trippers.go
//! (SetAuthProxyHeaders).

use std::sync::Arc;

use api::Status;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use hyper::upgrade::OnUpgrade;

use super::{Remote, connect};
use crate::proxy::{self, Destination, Reach};
use crate::request::{RequestInfo, User};
use crate::response::{self, Response};
use crate::server::Server;
use crate::traces;

/// Serves the request by `remote`, with `path` (and query) in place of its own. Its body goes through piece by piece: how
/// much of it there may be is the other server's to say.
pub(crate) async fn serve(
    server: &Arc<Server>,
    remote: &Remote,
    user: &User,
    mut head: Parts,
    body: client::Body,
    path: &str,
) -> Response {
    if !remote.available {
        return response::text(503, "service unavailable\n");
    }
    let tls = match &remote.tls {
        Ok(tls) => tls.clone(),
        Err(problem) => return response::text(500, format!("{problem}\n")),
    };
    let Some(to) = destination(server, remote, tls).await else {
        return response::text(503, "service unavailable\n");
    };
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let mut headers = proxy::outgoing(&head.headers, upgrade.is_some());
    if let Err(status) = introduce(&mut headers, user) {
        return response::failure(&status);
    }
    let url = format!("https://{}:{}{path}", to.host, to.port);
    let mut span = traces::calling(&head.method, &url);
    span.inject(&mut headers);
    let mut request = Request::builder().method(head.method).uri(path);
    if let Some(into) = request.headers_mut() {
        *into = headers;
    }
    let upgrades = upgrade.is_some();
    let passed = match request.body(body) {
        Ok(request) => proxy::pass_on(server, &to, request, upgrade, None)
            .await
            .map_err(|why| if upgrades { why.dialing() } else { why.reaching() }),
        Err(error) => Err(Status::bad_request(error.to_string())),
    };
    let response = passed.unwrap_or_else(|status| response::text(503, format!("{}\n", status.message)));
    span.answered(response.status().as_u16());
    response
}

/// Refuses what the other server could read as another request than the one that was authorized: it decodes a path
/// before it splits it, and knows reads by their method.
///
/// # Errors
/// 404 and 405.
pub(crate) fn check(method: &Method, info: &RequestInfo) -> Result<(), Status> {
    let path = info.path.to_ascii_lowercase();
    let misread =
        |segment: &str| segment.contains("%2f") || matches!(segment.replace("%2e", ".").as_str(), "." | "..");
    if path.contains("//") || path.split('/').any(misread) {
        return Err(Status::page_not_found());
    }
    if matches!(info.verb.as_str(), "watch" | "list") && !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    Ok(())
}

/// Where to find one of those who serve it.
pub(super) async fn destination(
    server: &Server,
    remote: &Remote,
    tls: Arc<rustls::ClientConfig>,
) -> Option<Destination> {
    let (namespace, name, port) = (remote.service.0.as_str(), remote.service.1.as_str(), remote.service.2);
    let place = connect::place(server, namespace, name).await.ok()?;
    let (host, port) =
        place.resolve((namespace, name, port), |count| server.randomness.u64() % count).ok()?;
    // Its certificate is the service's, whichever endpoint is asked.
    let server_name = Some(format!("{name}.{namespace}.svc"));
    Some(Destination { host, port, tls: Some(tls), server_name, reach: Reach::Anywhere })
}

/// Says who asks, and nothing that the caller has said about that.
///
/// # Errors
/// 500 where a header cannot carry it.
pub(super) fn introduce(headers: &mut HeaderMap, user: &User) -> Result<(), Status> {
    let said: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in said {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        // Bytes, not visible ASCII only: whoever is left out of them is somebody else over there.
        match (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            (Ok(name), Ok(value)) => {
                headers.append(name, value);
                Ok(())
            }
            _ => Err(Status::internal(format!("{name} {value:?} cannot be told to another server"))),
        }
    };
    add("x-remote-user", &user.name)?;
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid)?;
    }
    for group in &user.groups {
        add("x-remote-group", group)?;
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape(key));
        for value in values {
            add(&name, value)?;
        }
    }
    Ok(())
}

/// A key as a part of a header's name: what cannot be there is percent-encoded.
fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.to_ascii_lowercase().bytes() {
        match byte {
            b'a'..=b'z'
            | b'0'..=b'9'
            | b'!'
            | b'#'
            | b'$'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_as_something_else_is_refused() {
        for (method, path, refused) in [
            ("POST", "/apis/g/v1/namespaces/n/things", None),
            ("PUT", "/apis/g/v1/namespaces/n/things/x%20y", None),
            ("GET", "/apis/g/v1/watch/namespaces/n/things", None),
            ("POST", "/apis/g/v1/namespaces/n/things/x%2Fexec", Some(404)),
            ("POST", "/apis/g/v1/namespaces/n/things/%2e%2E/x", Some(404)),
            ("GET", "/apis/g/v1/namespaces/./things", Some(404)),
            ("GET", "/apis/g/v1//namespaces/n/things", Some(404)),
            ("POST", "/apis/g/v1/watch/namespaces/n/things", Some(405)),
            ("DELETE", "/apis/g/v1/watch/namespaces/n/things/x", Some(405)),
        ] {
            let method: Method = method.parse().unwrap();
            let answer = check(&method, &RequestInfo::parse(&method, path, None));
            assert_eq!(answer.err().map(|status| status.code), refused, "{method} {path}");
        }
    }

    #[test]
    fn the_caller_is_introduced_and_cannot_introduce_itself() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        headers.insert("x-remote-extra-scopes", HeaderValue::from_static("all"));
        let mut user = User::new("bob", &["dev", "ops"]);
        user.extra.insert("example.com/Key".into(), vec!["a".into(), "b".into()]);
        user.name = "böb".into();
        introduce(&mut headers, &user).unwrap();
        assert_eq!(headers["x-remote-user"].as_bytes(), "böb".as_bytes());
        assert_eq!(headers.get_all("x-remote-group").iter().collect::<Vec<_>>(), ["dev", "ops"]);
        assert_eq!(headers.get_all("x-remote-extra-example.com%2fkey").iter().count(), 2);
        assert!(!headers.contains_key("x-remote-extra-scopes"));
        assert_eq!(introduce(&mut headers, &User::new("a\nb", &[])).unwrap_err().code, 500);
    }
}
