//! Nodes: the way to their kubelets, and `nodes/proxy`.
//! Upstream: pkg/registry/core/node/{rest,strategy}.go, pkg/kubelet/client.

use std::sync::Arc;

use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;

use crate::engine::Call;
use crate::proxy::{self, Destination};
use crate::registry::{Rest, Subresource};
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
        let (_, name, port) = split(&call.info.name);
        let mut to = kubelet(&call, name).await?;
        if !port.is_empty() {
            to.port = port
                .parse()
                .map_err(|_| Status::bad_request(format!("invalid node request \"{name}:{port}\"")))?;
        }
        let path = proxied_path(&call);
        proxy::forward(call, to, &path).await
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
    Ok(Destination { host, port, tls: Some(tls) })
}

/// The first address of the most preferred type.
fn address(node: &Object) -> Option<String> {
    let addresses = node.0.pointer("/status/addresses")?.as_array()?;
    ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|wanted| {
        let found = addresses.iter().find(|address| address["type"] == **wanted)?;
        Some(found["address"].as_str()?.to_owned())
    })
}

/// `[scheme:]name[:port]` in its parts, empty where not given.
pub(super) fn split(text: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
        _ => ("", text, ""),
    }
}

/// What comes after `…/proxy` in the call's path, with its query.
pub(super) fn proxied_path(call: &Call) -> String {
    let path = &call.info.path;
    // The path is still encoded, so it is cut, not put together from decoded parts.
    let marker = "/proxy";
    let after = match path.find(&format!("{marker}/")) {
        Some(at) => &path[at + marker.len()..],
        None => "/",
    };
    if call.raw_query.is_empty() { after.to_owned() } else { format!("{after}?{}", call.raw_query) }
}

/// TLS to whoever answers: what pods and services show is their own affair (as upstream's proxy).
pub(super) fn anyone() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
            assert_eq!(split(text), parts);
        }
    }
}
