//! The cluster DNS: the server on this node, and the Service `kube-dns` that leads to it.
//!
//! Writes the Service and this node's EndpointSlice in `kube-system`; `slices` keeps the slices of several servers right.
//! Not here: the server itself (the `dns` crate).

mod slices;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use api::types::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use client::{Client, Patch};
use foundation::Tasks;
use serde_json::{Value, json};

use super::{Api, Context, SERVICE_ACCOUNT_GROUPS, service_account};

/// Port of the server on the node: 53 may belong to the host's own resolver.
const PORT: u16 = 10053;
const NAMESPACE: &str = "kube-system";
/// What charts and dashboards look for.
const NAME: &str = "kube-dns";

/// Starts the server and makes sure that its Service leads here.
pub async fn start(context: &Context, api: &Api, tasks: &Tasks) -> anyhow::Result<()> {
    let address = SocketAddr::new(context.node.ip, PORT);
    let options = dns::Options {
        address,
        domain: context.config.cluster_domain.clone(),
        resolvers: dns::forward::resolvers_of(Path::new("/etc/resolv.conf"), address),
        clients: clients(context, api),
    };
    dns::start(&options, &api.informers, tasks, context.clock.clone())
        .await
        .context("the DNS cannot start")?;
    let client = api.client(&service_account("coredns"), &SERVICE_ACCOUNT_GROUPS);
    let nodes = api.informers.informer::<Node>();
    publish(context, &client).await.context("the DNS cannot be published as a Service")?;
    let slices = api.informers.informer::<EndpointSlice>();
    tasks.spawn_until_cancelled("dns-slices", slices::keep(context.node.name.clone(), nodes, slices, client));
    Ok(())
}

/// Pods, and the nodes themselves, by whose addresses their own processes and what is masqueraded come.
fn clients(context: &Context, api: &Api) -> dns::Clients {
    let pods = context.config.cluster_cidr;
    let own = context.node.ip;
    let nodes = api.informers.informer::<Node>();
    let of_a_node = move |address: &str| {
        let mut addresses = Vec::new();
        for node in nodes.list() {
            let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            addresses.extend(status.map(|known| known.address.clone()));
        }
        addresses.iter().any(|known| known == address)
    };
    dns::Clients(Arc::new(move |ip| match ip {
        IpAddr::V4(v4) if pods.contains(v4) => true,
        ip => ip.is_loopback() || ip == own || of_a_node(&ip.to_string()),
    }))
}

async fn publish(context: &Context, client: &Client) -> anyhow::Result<()> {
    let ports = |target: bool| -> Value {
        let port = if target { PORT } else { 53 };
        json!([{"name": "dns", "port": port, "protocol": "UDP"}, {"name": "dns-tcp", "port": port, "protocol": "TCP"}])
    };
    let service: Service = api::json::typed(&json!({
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
            "k8s-app": NAME, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"clusterIP": context.config.cluster_dns(), "ports": ports(false)},
    }))?;
    // Looked for first: creating a Service asks for its address before it asks for its name.
    match client.get::<Service>(Some(NAMESPACE), NAME).await {
        Err(error) if error.is_not_found() => drop(client.create(Some(NAMESPACE), &service).await?),
        other => drop(other?),
    }
    let name = slices::name_of(&context.node.name);
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {
            "kubernetes.io/service-name": NAME,
            // Tells the endpointslice controller that the slice is not its own.
            "endpointslice.kubernetes.io/managed-by": "ironclad-dns"}},
        "addressType": "IPv4", "ports": ports(true),
        "endpoints": [{"addresses": [context.node.ip], "conditions": {"ready": true}, "nodeName": context.node.name}],
    });
    let fresh: EndpointSlice = api::json::typed(&slice)?;
    match client.create(Some(NAMESPACE), &fresh).await {
        Err(error) if error.is_already_exists() => {
            if let Some(object) = slice.as_object_mut() {
                // The kind of address cannot change, and does not.
                object.remove("addressType");
            }
            client.patch::<EndpointSlice>(Some(NAMESPACE), &name, &Patch::Merge(slice)).await?;
        }
        other => drop(other?),
    }
    Ok(())
}
