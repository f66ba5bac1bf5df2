//! URLs of the API: `/api/v1/...` for the core group, `/apis/<group>/<version>/...` for the others, and the query.

use std::borrow::Cow;
use std::fmt::Write;

/// Where the objects of one kind live: group, version and plural name. The typed calls derive it from the type; the
/// dynamic ones are given it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// API version, e.g. `v1`.
    pub version: Cow<'static, str>,
    /// Plural name in lower case, e.g. `deployments`.
    pub plural: Cow<'static, str>,
}

impl Endpoint {
    /// The endpoint of a kind known at compile time.
    pub fn of<K: crate::Resource>() -> Endpoint {
        Endpoint {
            group: Cow::Borrowed(K::GROUP),
            version: Cow::Borrowed(K::VERSION),
            plural: Cow::Borrowed(K::URL_PATH_SEGMENT),
        }
    }

    /// The endpoint of a kind known at run time.
    pub fn new(
        group: impl Into<Cow<'static, str>>,
        version: impl Into<Cow<'static, str>>,
        plural: impl Into<Cow<'static, str>>,
    ) -> Endpoint {
        Endpoint { group: group.into(), version: version.into(), plural: plural.into() }
    }

    /// `apiVersion` as objects carry it: `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection, an object, or a subresource of it.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = String::with_capacity(96);
        if self.group.is_empty() {
            path.push_str("/api/");
        } else {
            path.push_str("/apis/");
            path.push_str(&self.group);
            path.push('/');
        }
        path.push_str(&self.version);
        if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
            path.push_str("/namespaces/");
            encode(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        for part in [name, subresource].into_iter().flatten() {
            path.push('/');
            encode(&mut path, part);
        }
        path
    }
}

/// Appends `value` with everything but RFC 3986's unreserved characters percent-encoded.
pub(crate) fn encode(out: &mut String, value: &str) {
    for &byte in value.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte as char);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// A query string under construction.
#[derive(Default)]
pub(crate) struct Query(String);

impl Query {
    pub(crate) fn push(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        encode(&mut self.0, key);
        self.0.push('=');
        encode(&mut self.0, value);
    }

    pub(crate) fn push_some(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(key, value);
        }
    }

    pub(crate) fn append_to(self, mut path: String) -> String {
        path.push_str(&self.0);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let pods = Endpoint::new("", "v1", "pods");
        let deployments = Endpoint::new("apps", "v1", "deployments");
        for (got, want) in [
            (pods.path(None, None, None), "/api/v1/pods"),
            (pods.path(Some("a"), Some("b"), Some("binding")), "/api/v1/namespaces/a/pods/b/binding"),
            (deployments.path(Some("a"), None, None), "/apis/apps/v1/namespaces/a/deployments"),
            (deployments.path(None, Some("system:a/b"), None), "/apis/apps/v1/deployments/system%3Aa%2Fb"),
        ] {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn query_is_encoded() {
        let mut query = Query::default();
        query.push("labelSelector", "a=b,c in (d)");
        query.push_some("limit", Some("5"));
        assert_eq!(query.append_to("/x".into()), "/x?labelSelector=a%3Db%2Cc%20in%20%28d%29&limit=5");
    }
}
