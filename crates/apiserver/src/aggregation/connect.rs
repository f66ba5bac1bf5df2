//! Where another API server is, and how its TLS is trusted.
//!
//! A Service is followed to one of its ready endpoints, as with upstream's `--enable-aggregator-routing`: so neither
//! a service proxy nor a route to cluster IPs is needed on this machine.
//! Upstream: apiserver/pkg/util/proxy/proxy.go (ResolveEndpoint), kube-aggregator/pkg/controllers/status/remote.

use std::sync::Arc;

use api::types::core::v1::Service;
use api::types::discovery::v1::EndpointSlice;
use api::{GroupResource, Status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use serde_json::Value;

use super::Options;
use crate::server::Server;

/// Why a service cannot be reached: the reason and message of the condition.
pub(super) struct Unreachable {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Unreachable {
    pub(super) fn no(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    fn unknown(reason: &'static str, message: String) -> Self {
        Self { status: "Unknown", reason, message }
    }
}

/// What the cluster says about a service now.
pub(super) struct Place {
    service: Option<Service>,
    slices: Vec<EndpointSlice>,
    /// Changes whenever any of it does.
    pub(super) version: String,
}

/// Reads a service and its endpoints.
pub(super) async fn place(server: &Server, namespace: &str, name: &str) -> Result<Place, Status> {
    let services = GroupResource::new("", "services");
    let found = server.cluster.cached(&services, namespace, name).await?;
    let service: Option<Service> = found.and_then(|bytes| api::json::read(&bytes).ok());
    let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
    let listed = server.cluster.list(&slices, namespace).await?;
    // Most slices of a namespace are others' and need not be parsed.
    let label = format!("\"kubernetes.io/service-name\":\"{name}\"");
    let named = |bytes: &&bytes::Bytes| std::str::from_utf8(bytes).is_ok_and(|text| text.contains(&label));
    let candidates = listed.items.iter().filter(named);
    let slices = candidates.filter_map(|bytes| api::json::read::<EndpointSlice>(bytes).ok());
    let of_service = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_some_and(|owner| owner == name)
    };
    let slices: Vec<EndpointSlice> = slices.filter(of_service).collect();
    let mut version = String::new();
    let metadata =
        service.iter().map(|service| &service.metadata).chain(slices.iter().map(|slice| &slice.metadata));
    for metadata in metadata {
        version.push_str(metadata.resource_version.as_deref().unwrap_or_default());
        version.push(' ');
    }
    Ok(Place { service, slices, version })
}

impl Place {
    /// Host and port of one of those who serve `port` of the service; `pick` chooses among so many.
    pub(super) fn resolve(
        &self,
        (namespace, name, port): (&str, &str, u16),
        pick: impl Fn(u64) -> u64,
    ) -> Result<(String, u16), Unreachable> {
        let Some(service) = &self.service else {
            let message = format!("service/{name} in {namespace:?} is not present");
            return Err(Unreachable::no("ServiceNotFound", message));
        };
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return Ok((spec.external_name.unwrap_or_default(), port));
        }
        let ports = spec.ports.unwrap_or_default();
        let Some(wanted) = ports.iter().find(|known| known.port == i32::from(port)) else {
            let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
            return Err(Unreachable::no("ServicePortError", message));
        };
        let port_name = wanted.name.clone().unwrap_or_default();
        if self.slices.is_empty() {
            let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
            return Err(Unreachable::no("EndpointsNotFound", message));
        }
        let mut found = Vec::new();
        for slice in &self.slices {
            let named = |port: &&api::types::discovery::v1::EndpointPort| {
                port.name.as_deref().unwrap_or_default() == port_name
            };
            let port = slice.ports.iter().flatten().find(named).and_then(|port| port.port);
            let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
                if ready.unwrap_or(true) {
                    found.extend(endpoint.addresses.iter().map(|address| (address.clone(), port)));
                }
            }
        }
        if found.is_empty() {
            let message = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            return Err(Unreachable::no("MissingEndpoints", message));
        }
        // Below the number of those found.
        Ok(found.swap_remove(pick(found.len() as u64) as usize))
    }
}

/// The service could not be read.
pub(super) fn unreadable(namespace: &str, name: &str, error: &Status) -> Unreachable {
    let message = format!("service/{name} in {namespace:?} cannot be checked due to: {error}");
    Unreachable::unknown("ServiceAccessError", message)
}

/// The TLS of an APIService: what its spec trusts, and this server's identity.
pub(super) fn tls(spec: &Value, options: &Options) -> Result<Arc<ClientConfig>, String> {
    let bundle = spec["caBundle"].as_str().filter(|bundle| !bundle.is_empty());
    match (spec["insecureSkipTLSVerify"] == true, bundle) {
        (true, _) => Ok(unverified(options)),
        (false, None) => Ok(finish(
            foundation::tls::client_of_others().with_root_certificates(client::trust::system_authorities()),
            options,
        )),
        (false, Some(bundle)) => {
            let pem = STANDARD.decode(bundle).map_err(|error| format!("caBundle: {error}"))?;
            let roots = client::trust::authorities(&pem).map_err(|error| format!("caBundle: {error}"))?;
            let config = foundation::tls::client_of_others().with_root_certificates(roots);
            Ok(finish(config, options))
        }
    }
}

/// TLS that accepts any certificate: for checks whose answer nobody relies on, and where a spec asks for it.
pub(super) fn unverified(options: &Options) -> Arc<ClientConfig> {
    let config = foundation::tls::client_of_others()
        .dangerous()
        .with_custom_certificate_verifier(client::trust::any_certificate());
    finish(config, options)
}

fn finish(
    config: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    options: &Options,
) -> Arc<ClientConfig> {
    let mut config = match &options.identity {
        Some(identity) => config.with_client_cert_resolver(identity.clone()),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
