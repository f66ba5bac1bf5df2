//! Who asks for what: the identity of a caller and the meaning of a request's method and path.
//!
//! Reads the method, the path and the query. Knows nothing of kinds: whether a resource exists is found
//! later, by the registry.
//! Not here: authentication (`authn`), decisions (`authz`), decoding of bodies (`engine`).
//! Upstream: staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go, pkg/authentication/user.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent::decode;

/// The identity on whose behalf a request runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Unique among active users, for example `system:node:n1`.
    pub name: String,
    /// Survives renames; empty where the authenticator knows none.
    pub uid: String,
    /// Groups, `system:authenticated` included once authentication has run.
    pub groups: Vec<String>,
    /// Whatever else the authenticator learned, for example `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user of requests without credentials.
    pub const ANONYMOUS: &'static str = "system:anonymous";
    /// The group of everyone who has shown credentials.
    pub const AUTHENTICATED: &'static str = "system:authenticated";
    /// The group of everyone who has not.
    pub const UNAUTHENTICATED: &'static str = "system:unauthenticated";
    /// The group for which RBAC is not asked.
    pub const MASTERS: &'static str = "system:masters";

    /// A user with `name` in `groups`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Whether the user is a member of `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a request means, read from its method, path and query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// True for `/api/v1/…` and `/apis/<group>/<version>/…`.
    pub is_resource: bool,
    /// The percent-encoded path as sent.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths that
    /// are no resource the HTTP method in lower case.
    pub verb: String,
    /// `api` or `apis`; empty for paths that are no resource.
    pub prefix: String,
    /// The API group; empty for core.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace; empty for cluster-scoped resources and for requests across all namespaces.
    pub namespace: String,
    /// The plural name, for example `pods`.
    pub resource: String,
    /// The subresource, for example `status`; empty for none.
    pub subresource: String,
    /// The object's name; empty for collections (and for create).
    pub name: String,
    /// The segments from the resource on, decoded: `pods`, `x`, `proxy`, `a`, `b`.
    pub parts: Vec<String>,
}

impl RequestInfo {
    /// Reads `method`, `path` (percent-encoded) and `query`.
    pub fn parse(method: &http::Method, path: &str, query: Option<&str>) -> Self {
        let mut info =
            Self { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let segments: Vec<String> =
            path.split('/').filter(|s| !s.is_empty()).map(|s| decode(s).into_owned()).collect();
        let mut rest = segments.as_slice();
        match rest.first().map(String::as_str) {
            Some("api") if rest.len() >= 3 => {
                info.prefix = "api".into();
                info.version = rest[1].clone();
                rest = &rest[2..];
            }
            Some("apis") if rest.len() >= 4 => {
                info.prefix = "apis".into();
                info.group = rest[1].clone();
                info.version = rest[2].clone();
                rest = &rest[3..];
            }
            _ => return info,
        }
        info.is_resource = true;
        let mut verb = match info.verb.as_str() {
            "post" => "create",
            "get" | "head" => "get",
            "put" => "update",
            "patch" => "patch",
            "delete" => "delete",
            _ => "",
        };
        // The deprecated form /api/v1/watch/…: a watch by path instead of by query.
        if rest.first().is_some_and(|s| s == "watch" || s == "proxy") {
            if rest.len() < 2 {
                info.verb = verb.to_owned();
                return info;
            }
            verb = if rest[0] == "watch" { "watch" } else { "proxy" };
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" {
            if let Some(namespace) = rest.get(1) {
                info.namespace = namespace.clone();
                // /namespaces/<ns>/status and /finalize are subresources of the namespace itself.
                if rest.len() > 2 && !matches!(rest[2].as_str(), "status" | "finalize") {
                    rest = &rest[2..];
                }
            }
        }
        info.parts = rest.to_vec();
        if let Some(resource) = rest.first() {
            info.resource = resource.clone();
        }
        if let Some(name) = rest.get(1) {
            info.name = name.clone();
        }
        if let Some(subresource) = rest.get(2) {
            info.subresource = subresource.clone();
        }
        // A request for several objects is no get; a watch may still name one by field selector.
        if info.name.is_empty() && verb == "get" {
            let query = Query::parse(query);
            verb = if query.flag("watch") { "watch" } else { "list" };
            if let Some(name) = query.get("fieldSelector").and_then(single_name) {
                info.name = name;
            }
        }
        if info.name.is_empty() && verb == "delete" {
            verb = "deletecollection";
        }
        info.verb = verb.to_owned();
        info
    }

    /// Whether the verb cannot change anything.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }

    /// Whether the request may last as long as the client likes (no deadline, not counted in flight).
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || matches!(self.subresource.as_str(), "proxy" | "attach" | "exec" | "log" | "portforward")
    }
}

/// The name out of a field selector that is exactly `metadata.name=<name>`.
fn single_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|requirement| {
        let (field, value) = requirement.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (field == "metadata.name" && !value.is_empty() && !value.contains('/')).then(|| value.to_owned())
    })
}

/// What an authorizer decides on.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// Who asks.
    pub user: User,
    /// What is asked. `info.resource` etc. are empty and `info.path` is set for non-resource requests.
    pub info: RequestInfo,
    /// The requirements of the field selector of a list, watch or deletecollection, as sent.
    pub field_selector: Option<String>,
    /// The label selector of the same, as sent.
    pub label_selector: Option<String>,
}

impl Attributes {
    /// Attributes of `user` asking for `info`, without selectors.
    pub fn new(user: User, info: RequestInfo) -> Self {
        Self { user, info, field_selector: None, label_selector: None }
    }
}

/// The decoded parameters of a query string, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and percent-decodes `query`. What cannot be decoded stays as it is.
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode_form(key), decode_form(value))
                })
                .collect(),
        )
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The pairs in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether `key` is there and neither `false` nor `0` (upstream's conversion of query values to bool).
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v, "0" | "false"))
    }
}

fn decode_form(text: &str) -> String {
    if text.contains('+') { decode(&text.replace('+', " ")).into_owned() } else { decode(text).into_owned() }
}

pub(crate) mod percent {
    use super::Cow;

    /// Percent-decodes `text`; returns it unchanged where an escape or the result is malformed.
    pub(crate) fn decode(text: &str) -> Cow<'_, str> {
        if !text.contains('%') {
            return Cow::Borrowed(text);
        }
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let escaped = (bytes[at] == b'%')
                .then(|| bytes.get(at + 1..at + 3))
                .flatten()
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match escaped {
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
        String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_upstreams_meaning() {
        // method, path, query, then verb, group, version, namespace, resource, subresource, name
        #[rustfmt::skip]
        let table = [
            ("GET", "/api/v1/namespaces", "", ["list", "", "v1", "", "namespaces", "", ""]),
            ("GET", "/api/v1/namespaces/a", "", ["get", "", "v1", "a", "namespaces", "", "a"]),
            ("PUT", "/api/v1/namespaces/a/finalize", "", ["update", "", "v1", "a", "namespaces", "finalize", "a"]),
            ("GET", "/api/v1/namespaces/a/pods", "", ["list", "", "v1", "a", "pods", "", ""]),
            ("GET", "/api/v1/namespaces/a/pods", "watch=true", ["watch", "", "v1", "a", "pods", "", ""]),
            ("GET", "/api/v1/namespaces/a/pods", "watch=false", ["list", "", "v1", "a", "pods", "", ""]),
            ("GET", "/api/v1/pods", "watch=1&fieldSelector=metadata.name%3Dx", ["watch", "", "v1", "", "pods", "", "x"]),
            ("GET", "/api/v1/watch/namespaces/a/pods", "", ["watch", "", "v1", "a", "pods", "", ""]),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", "", ["create", "apps", "v1", "a", "deployments", "", ""]),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "", ["patch", "apps", "v1", "a", "deployments", "scale", "d"]),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "", ["deletecollection", "apps", "v1", "a", "deployments", "", ""]),
            ("DELETE", "/api/v1/nodes/n", "", ["delete", "", "v1", "", "nodes", "", "n"]),
            ("GET", "/api/v1/namespaces/a/pods/p/log", "", ["get", "", "v1", "a", "pods", "log", "p"]),
        ];
        for (method, path, query, want) in table {
            let method = method.parse().unwrap();
            let info = RequestInfo::parse(&method, path, Some(query));
            assert!(info.is_resource, "{path}");
            let got = [
                &info.verb,
                &info.group,
                &info.version,
                &info.namespace,
                &info.resource,
                &info.subresource,
                &info.name,
            ];
            assert_eq!(got, want.map(str::to_owned).each_ref(), "{method} {path}?{query}");
        }
        for path in ["/", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/version"] {
            let info = RequestInfo::parse(&http::Method::GET, path, None);
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("a=b%20c&command=sh&command=-c&f=x+y&bad=%zz"));
        assert_eq!(query.get("a"), Some("b c"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c"]);
        assert_eq!(query.get("f"), Some("x y"));
        assert_eq!(query.get("bad"), Some("%zz"));
    }
}
