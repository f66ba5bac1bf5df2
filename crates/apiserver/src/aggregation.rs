//! Aggregation: API groups that other servers serve, as if this one did.
//!
//! An APIService with a service makes a [`Remote`]; [`availability`] checks each and says so in its conditions;
//! requests for its group and version go there by [`proxy`], with the caller's name in headers that the other server
//! believes because of this server's front-proxy certificate; [`discovery`] tells of its resources among the own, and `openapi`
//! of its document of OpenAPI v2.
//! Groups that this server serves itself, custom ones too, have APIServices without a service: [`local`].
//! Not here: who may ask (`filters` have decided before).
//! Upstream: staging/src/k8s.io/kube-aggregator, pkg/controlplane/apiserver/aggregator.go.

pub(crate) mod availability;
mod connect;
pub(crate) mod discovery;
pub mod local;
mod openapi;
pub(crate) mod proxy;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use serde_json::Value;

use crate::request::RequestInfo;

/// What the server shows to others, and tells them about itself.
#[derive(Clone, Default)]
pub struct Options {
    /// The front-proxy certificate. `None`: other servers are asked without one, and will not believe who asks.
    pub identity: Option<Arc<dyn ResolvesClientCert>>,
    /// What other servers need to know to check callers by themselves; `None`: they are not told.
    pub announcement: Option<Announcement>,
}

/// The content of the ConfigMap `kube-system/extension-apiserver-authentication`.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The authorities of client certificates, PEM.
    pub client_authorities: String,
    /// The authorities of the front-proxy certificate, PEM.
    pub front_proxy_authorities: String,
    /// The common names that certificate may have.
    pub allowed_names: Vec<String>,
}

/// A group and version that another server serves.
#[derive(Clone)]
pub struct Remote {
    /// The APIService's name.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// Where: namespace, name and port of a Service.
    pub service: (String, String, u16),
    /// Its place among groups.
    pub group_priority: i64,
    /// Its place among the group's versions.
    pub version_priority: i64,
    /// How to speak TLS with it, or why that cannot be.
    pub tls: Result<Arc<rustls::ClientConfig>, String>,
    /// Whether the last check found it in order.
    pub available: bool,
    /// Its APIResourceList, as last seen.
    pub resources: Option<Arc<Value>>,
    /// Where its OpenAPI v3 document is, as last seen.
    pub openapi: Option<String>,
}

/// The remote groups and versions at one moment.
#[derive(Default)]
pub struct Routes(HashMap<(String, String), Arc<Remote>>);

impl Routes {
    /// Those of a group, the preferred version first.
    fn of_group<'a>(&'a self, group: &'a str) -> Vec<&'a Arc<Remote>> {
        let mut found: Vec<_> = self.0.values().filter(|remote| remote.group == group).collect();
        found.sort_by_key(|remote| (-remote.version_priority, remote.version.clone()));
        found
    }

    /// All of them, in no order.
    fn all(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.0.values()
    }
}

/// The remote groups of a server.
pub struct Aggregator {
    options: Options,
    routes: ArcSwap<Routes>,
    parts: openapi::Parts,
}

impl Aggregator {
    /// Without any remote group yet.
    pub fn new(options: Options) -> Self {
        Self { options, routes: ArcSwap::default(), parts: openapi::Parts::default() }
    }

    /// Who serves the request, if it is another server.
    pub fn find(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let routes = self.routes.load();
        if routes.0.is_empty() {
            return None;
        }
        let (group, version) = if info.is_resource {
            (info.group.as_str(), info.version.as_str())
        } else {
            let mut parts = info.path.strip_prefix("/apis/")?.split('/');
            (parts.next()?, parts.next().filter(|version| !version.is_empty())?)
        };
        routes.0.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// The OpenAPI v3 documents of other servers: what they are of, and where they are.
    pub fn documents(&self) -> Vec<(String, String)> {
        let routes = self.routes.load();
        let mut found: Vec<(String, String)> = routes
            .all()
            .filter_map(|remote| {
                Some((format!("apis/{}/{}", remote.group, remote.version), remote.openapi.clone()?))
            })
            .collect();
        found.sort();
        found
    }

    /// What other servers say of themselves by OpenAPI v2, to be added to the own document in this order, and a number
    /// that changes whenever that does.
    pub fn parts(&self) -> (u64, Vec<bytes::Bytes>) {
        self.parts.told()
    }

    /// Who serves a group and version, if it is another server.
    pub fn get(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        self.routes.load().0.get(&(group.to_owned(), version.to_owned())).cloned()
    }
}
