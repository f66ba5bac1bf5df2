//! Calls a webhook: where it is, how it is trusted, how long it may take.
//! Reads Services and EndpointSlices; goes to any of the ready endpoints, and to another where one cannot be reached.
//! Connections are kept for the next call.
//! Not here: what is said (`review`, and `registry::conversion` for CustomResourceDefinitions).
//! Upstream: apiserver `pkg/util/webhook/client.go`, `pkg/util/proxy` (resolving Services).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::types::admissionregistration::v1::WebhookClientConfig;
use api::{GroupResource, Object, Status};
use bytes::{Bytes, BytesMut};
use client::{Config, HttpsTransport, Identity, Transport, TransportError};
use foundation::{SharedClock, SharedRandomness};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cluster::ClusterState;

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How many servers connections are kept to.
const KEPT: usize = 64;
/// How many endpoints of a Service are tried for one call.
const TRIED: usize = 3;

/// Why a webhook gives no answer that lets the request go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be called, or its answer not be understood: why, and the status code for it.
    Calling(String, u16),
    /// It refuses.
    Denied(Box<Status>),
    /// What it is to be asked, or what it wants changed, cannot be worked with here.
    Internal(Box<Status>),
}

impl Failure {
    /// A failure of this server's, or of what it has to work with.
    pub(in crate::admission) fn internal(status: Status) -> Self {
        Self::Internal(Box::new(status))
    }
}

/// Why a call gave nothing, and the status code for it: what was answered, or upstream's for what cannot be reached.
struct Unanswered {
    why: String,
    code: u16,
}

/// Upstream's code for a webhook that cannot be reached, or understood.
pub(super) const UNAVAILABLE: u16 = 503;

/// Where a webhook is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    url: Option<String>,
    service: Option<ServiceReference>,
    authority: Vec<u8>,
}

#[derive(Clone, Debug)]
struct ServiceReference {
    namespace: String,
    name: String,
    port: u16,
    path: String,
}

impl Client {
    /// Out of a webhook's configuration.
    pub fn new(config: &WebhookClientConfig) -> Self {
        let service = config.service.as_ref().map(|service| ServiceReference {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: service.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            path: service.path.clone().unwrap_or_default(),
        });
        let authority = config.ca_bundle.as_ref().map(|bundle| bundle.0.clone()).unwrap_or_default();
        Self { url: config.url.clone(), service, authority }
    }

    /// `host:port` of an address, `name.namespace.svc:port` of a Service: what identities are named by.
    pub fn target(&self) -> String {
        match (&self.url, &self.service) {
            (Some(url), _) => {
                let rest = url.split_once("://").map_or("", |(_, rest)| rest);
                rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
            }
            (None, Some(service)) => format!("{}.{}.svc:{}", service.name, service.namespace, service.port),
            (None, None) => String::new(),
        }
    }

    /// The address as messages tell it, without query.
    fn address(&self) -> String {
        match (&self.url, &self.service) {
            (Some(url), _) => url.clone(),
            (None, Some(service)) => {
                let path = service.path.trim_start_matches('/');
                format!("https://{}.{}.svc:{}/{path}", service.name, service.namespace, service.port)
            }
            (None, None) => String::new(),
        }
    }
}

/// A server as connections to it are told apart.
#[derive(PartialEq, Eq, Hash)]
struct Peer {
    /// `https://host:port`
    server: String,
    /// The name in its certificate.
    name: String,
    authority: Vec<u8>,
    /// Who we are to it.
    identity: Identity,
}

/// Calls webhooks.
pub(crate) struct Caller {
    cluster: Arc<dyn ClusterState>,
    clock: SharedClock,
    randomness: SharedRandomness,
    transports: Mutex<HashMap<Peer, Arc<HttpsTransport>>>,
}

impl Caller {
    /// A caller that finds Services in `cluster`.
    pub fn new(cluster: Arc<dyn ClusterState>, clock: SharedClock, randomness: SharedRandomness) -> Self {
        Self { cluster, clock, randomness, transports: Mutex::default() }
    }

    /// The time since some moment, for whoever measures calls.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Posts `body` as `identity` and gives the answer's body; errors are worded as upstream's for admission.
    pub fn post<'a>(
        &'a self,
        to: &'a Client,
        identity: &'a Identity,
        body: &'a Value,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, Failure>> {
        Box::pin(async move {
            let answer = self.answered(to, identity, body, timeout).await;
            answer.map_err(|Unanswered { why, code }| {
                Failure::Calling(format!("failed to call webhook: {why}"), code)
            })
        })
    }

    /// The same as nobody, with errors that are only the reason.
    pub fn ask<'a>(
        &'a self,
        to: &'a Client,
        body: &'a Value,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            self.answered(to, &Identity::None, body, timeout).await.map_err(|unanswered| unanswered.why)
        })
    }

    async fn answered(
        &self,
        to: &Client,
        identity: &Identity,
        body: &Value,
        timeout: Duration,
    ) -> Result<Bytes, Unanswered> {
        let address = to.address();
        let query = if address.contains('?') { '&' } else { '?' };
        let url = format!("{address}{query}timeout={}s", timeout.as_secs());
        let answer = tokio::select! {
            answer = self.exchange(to, identity, &url, body) => answer,
            () = self.clock.sleep(timeout) => Err("context deadline exceeded".to_owned()),
        };
        match answer {
            Ok((200..=299, body)) => Ok(body),
            Ok((code, body)) => Err(Unanswered { why: refused(code, &body), code }),
            Err(what) => Err(Unanswered { why: format!("Post {url:?}: {what}"), code: UNAVAILABLE }),
        }
    }

    async fn exchange(
        &self,
        to: &Client,
        identity: &Identity,
        url: &str,
        body: &Value,
    ) -> Result<(u16, Bytes), String> {
        let (servers, name) = self.locate(to).await?;
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let path = rest.find('/').map_or("/", |slash| &rest[slash..]);
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let body = Bytes::from(body.to_string());
        let mut span = crate::traces::calling(&http::Method::POST, url);
        let request = || {
            let mut request = http::Request::post(path)
                .header(http::header::HOST, host)
                .header(http::header::CONTENT_TYPE, "application/json")
                .header(http::header::ACCEPT, "application/json, */*")
                .header(http::header::USER_AGENT, "kube-apiserver-admission")
                .body(body.clone())
                .map_err(|error| error.to_string())?;
            span.inject(request.headers_mut());
            Ok::<_, String>(request)
        };
        let mut sent = Err("no address".to_owned());
        for server in servers {
            let transport = self.transport(server, name.clone(), &to.authority, identity)?;
            sent = match transport.send(request()?).await {
                Ok(response) => Ok(response),
                // It has heard nothing: another may.
                Err(error @ TransportError::Connect { .. }) => Err(describe(&error)),
                Err(error) => return Err(describe(&error)),
            };
            if sent.is_ok() {
                break;
            }
        }
        let response = sent?;
        let code = response.status().as_u16();
        span.answered(code);
        let (mut body, mut read) = (response.into_body(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > MAX_ANSWER {
                return Err("the answer is too large".to_owned());
            }
            read.extend_from_slice(&data);
        }
        Ok((code, read.freeze()))
    }

    fn transport(
        &self,
        server: String,
        name: String,
        authority: &[u8],
        identity: &Identity,
    ) -> Result<Arc<HttpsTransport>, String> {
        let mut transports = self.transports.lock();
        let peer = Peer { server, name, authority: authority.to_vec(), identity: identity.clone() };
        if let Some(known) = transports.get(&peer) {
            return Ok(known.clone());
        }
        let config = Config {
            server: peer.server.clone(),
            ca_pem: Some(peer.authority.clone()),
            tls_server_name: Some(peer.name.clone()),
            identity: peer.identity.clone(),
            ..Config::default()
        };
        let made = Arc::new(HttpsTransport::new(&config).map_err(|error| error.to_string())?);
        if transports.len() >= KEPT {
            transports.clear();
        }
        transports.insert(peer, made.clone());
        Ok(made)
    }

    /// `https://host:port` of those to dial, in turn, and the name that the certificate must have.
    async fn locate(&self, to: &Client) -> Result<(Vec<String>, String), String> {
        if let Some(url) = &to.url {
            let rest = url.strip_prefix("https://").ok_or("unsupported protocol scheme")?;
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                Some((address, _)) => address,
                None => host.rsplit_once(':').map_or(host, |(name, _)| name),
            };
            return Ok((vec![format!("https://{host}")], name.to_owned()));
        }
        let service = to.service.as_ref().ok_or("a webhook has neither service nor url")?;
        let hosts = self.resolve(service).await?;
        let servers = hosts.into_iter().map(|host| format!("https://{host}")).collect();
        Ok((servers, format!("{}.{}.svc", service.name, service.namespace)))
    }

    /// Addresses behind the Service: endpoints that are ready, beginning with any of them, or the cluster IP.
    async fn resolve(&self, reference: &ServiceReference) -> Result<Vec<String>, String> {
        let ServiceReference { namespace, name, port, .. } = reference;
        let services = GroupResource::new("", "services");
        let found = self.cluster.cached(&services, namespace, name).await.map_err(|error| error.message)?;
        let service: Value = found
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| format!("service {name:?} not found"))?;
        let host = |address: &str, port: u64| match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" {
            return Ok(vec![host(spec["externalName"].as_str().unwrap_or_default(), u64::from(*port))]);
        }
        let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let wanted = ports.iter().find(|one| one["port"] == *port);
        let wanted = wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let wanted = wanted["name"].as_str().unwrap_or_default();
        let mut endpoints = self.endpoints(namespace, name, wanted).await?;
        if !endpoints.is_empty() {
            // Below their number, which fits.
            let first = self.randomness.below(endpoints.len() as u64) as usize;
            endpoints.rotate_left(first);
            endpoints.truncate(TRIED);
            return Ok(endpoints.iter().map(|(address, port)| host(address, *port)).collect());
        }
        match spec["clusterIP"].as_str() {
            Some(address) if !matches!(address, "" | "None") => Ok(vec![host(address, u64::from(*port))]),
            _ => Err(format!("no endpoints available for service {name:?}")),
        }
    }

    /// Addresses and ports of the ready endpoints of a Service.
    async fn endpoints(&self, namespace: &str, name: &str, port: &str) -> Result<Vec<(String, u64)>, String> {
        let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
        let listing = self.cluster.list(&slices, namespace).await.map_err(|error| error.message)?;
        let mut found = Vec::new();
        // Most slices of a namespace are others' and need not be parsed.
        let label = format!("\"kubernetes.io/service-name\":\"{name}\"");
        let named = |bytes: &&Bytes| std::str::from_utf8(bytes).is_ok_and(|text| text.contains(&label));
        for bytes in listing.items.iter().filter(named) {
            let Ok(slice) = serde_json::from_slice(bytes).map(Object) else { continue };
            if slice.labels().get("kubernetes.io/service-name").is_none_or(|service| service != name) {
                continue;
            }
            let ports = slice.0["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
            let Some(number) = ports
                .iter()
                .find(|one| one["name"].as_str().unwrap_or_default() == port)
                .and_then(|p| p["port"].as_u64())
            else {
                continue;
            };
            let endpoints = slice.0["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ready = endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] != false);
            let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str());
            found.extend(addresses.map(|address| (address.to_owned(), number)));
        }
        Ok(found)
    }
}

/// A transport's error in the words of Go's.
fn describe(error: &TransportError) -> String {
    let (server, text) = match error {
        TransportError::Connect { server, source } => {
            (server.trim_start_matches("https://"), source.to_string())
        }
        other => return other.to_string(),
    };
    if text.contains("UnknownIssuer") {
        return "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned();
    }
    if text.contains("invalid peer certificate") {
        let reason = text.rsplit(": ").next().unwrap_or_default();
        return format!("tls: failed to verify certificate: x509: {reason}");
    }
    if text.contains("Connection refused") {
        return format!("dial tcp {server}: connect: connection refused");
    }
    format!("dial tcp {server}: {text}")
}

/// What an answer that is no success says.
fn refused(code: u16, body: &[u8]) -> String {
    if let Ok(status) = serde_json::from_slice::<Value>(body)
        && status["kind"] == "Status"
        && let Some(message) = status["message"].as_str()
    {
        return message.to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(2_048)]).trim().to_owned();
    match code {
        404 => "the server could not find the requested resource".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "unknown".to_owned(),
        500..=599 => {
            let text = if text.is_empty() { "unknown".to_owned() } else { text };
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        _ => format!("the server rejected our request for an unknown reason ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_go_to_all_ready_endpoints_and_from_one_to_the_next() {
        use crate::authz::fake::FakeCluster;
        use foundation::{ManualClock, SeededRandomness};
        use serde_json::json;
        let cluster = FakeCluster::new();
        cluster.put(
            "services",
            json!({"metadata": {"namespace": "ns", "name": "svc"}, "spec": {"ports": [{"port": 443}]}}),
        );
        let slice = |name: &str, service: &str, addresses: &[&str]| {
            let endpoints: Vec<Value> = addresses
                .iter()
                .map(|address| json!({"addresses": [address], "conditions": {"ready": *address != "10.0.0.9"}}))
                .collect();
            json!({"metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"port": 8443}], "endpoints": endpoints})
        };
        let slices = "endpointslices.discovery.k8s.io";
        cluster.put(slices, slice("a", "svc", &["10.0.0.1", "10.0.0.9"]));
        cluster.put(slices, slice("b", "svc", &["10.0.0.2", "10.0.0.3"]));
        cluster.put(slices, slice("c", "other", &["10.0.0.8"]));
        let caller =
            Caller::new(cluster, Arc::new(ManualClock::default()), Arc::new(SeededRandomness::new(1)));
        let service =
            ServiceReference { namespace: "ns".into(), name: "svc".into(), port: 443, path: String::new() };
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut found = caller.resolve(&service).await.unwrap();
            first.insert(found[0].clone());
            found.sort();
            assert_eq!(found, ["10.0.0.1:8443", "10.0.0.2:8443", "10.0.0.3:8443"]);
        }
        assert_eq!(first.len(), 3, "all of them are called: {first:?}");
    }

    #[test]
    fn addresses_and_refusals_are_worded_as_upstream() {
        let service =
            ServiceReference { namespace: "ns".into(), name: "svc".into(), port: 443, path: "/a".into() };
        let client = Client { service: Some(service), ..Client::default() };
        assert_eq!(client.address(), "https://svc.ns.svc:443/a");
        assert_eq!(refused(404, b""), "the server could not find the requested resource");
        let broken = "an error on the server (\"oops\") has prevented the request from succeeding";
        assert_eq!(refused(500, b"oops\n"), broken);
        assert_eq!(refused(400, br#"{"kind":"Status","message":"no"}"#), "no");
    }
}
