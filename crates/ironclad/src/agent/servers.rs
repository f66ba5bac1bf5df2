//! Where the cluster's servers are: learnt from the endpoints of the `kubernetes` Service, and kept for the next start.
//!
//! Reads and writes `<data-dir>/agent/servers.json`; reads the EndpointSlices of `default/kubernetes`. Not here: which of
//! them a request goes to (`client::ManyServers`), who keeps the endpoints (each API server its own).

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use api::types::discovery::v1::EndpointSlice;
use client::{Informers, ListOptions, ManyServers, ManyServersOptions};
use foundation::Tasks;

use super::{Context, Joined, certificates};

/// What is known at the start.
pub(super) struct Known {
    path: PathBuf,
    learnt: Vec<String>,
    named: Vec<String>,
}

impl Known {
    /// Reads the servers of the last run; `named` are those of the settings.
    ///
    /// # Errors
    /// A file that cannot be read; neither a file nor a setting.
    pub(super) fn open(dir: &Path, named: &[String]) -> anyhow::Result<Known> {
        let path = dir.join("servers.json");
        let learnt: Vec<String> = match fs::read(&path) {
            // A damaged file is as good as none where somebody has named a server.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        ensure!(
            !(learnt.is_empty() && named.is_empty()),
            "no server is known: give --server, for instance --server https://10.0.0.1:6443"
        );
        Ok(Known { path, learnt, named: named.to_vec() })
    }

    /// The way to all of them, as the node.
    pub(super) fn transport(&self, context: &Context, joined: &Joined) -> anyhow::Result<ManyServers> {
        let options = ManyServersOptions {
            servers: self.learnt.clone(),
            last_resort: self.named.clone(),
            ca_pem: joined.authority_pem.clone().into_bytes(),
            identity: certificates::identity(&joined.credential),
            clock: context.clock.clone(),
            randomness: context.randomness.clone(),
        };
        ManyServers::new(options).context("the servers cannot be used")
    }

    /// Tells the transport of each change, and keeps what is known.
    pub(super) fn follow(self, transport: Arc<ManyServers>, informers: &Informers, tasks: &Tasks) {
        let select = ListOptions::labels("kubernetes.io/service-name=kubernetes".to_owned());
        let slices = informers.namespaced::<EndpointSlice>("default", select);
        let mut changes = slices.subscribe();
        tasks.spawn_until_cancelled("servers", async move {
            let Known { path, mut learnt, named } = self;
            loop {
                changes.recv().await;
                let found = servers_of(slices.list().iter().map(|slice| &**slice), &named);
                if found.is_empty() || found == learnt {
                    continue;
                }
                tracing::info!(servers = found.join(", "), "the API servers are");
                if let Err(error) = transport.set_servers(&found) {
                    tracing::error!(%error, "the API servers that were learnt cannot be used");
                    continue;
                }
                if let Err(error) = write(&path, &found) {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the API servers are not kept for the next start"
                    );
                }
                learnt = found;
            }
        });
    }
}

/// The URLs of the servers in the slices, in order. A server that only knows itself by a loopback address cannot be
/// reached by it, unless that is how this node was told to reach it.
fn servers_of<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, named: &[String]) -> Vec<String> {
    let local = named.iter().any(|url| is_loopback(url));
    let mut servers = Vec::new();
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let port = ports.iter().find(|port| port.name.as_deref() == Some("https")).or(ports.first());
        let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            for ip in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                if ready && (local || !ip.is_loopback()) {
                    servers.push(format!("https://{}", SocketAddr::new(ip, port)));
                }
            }
        }
    }
    servers.sort_unstable();
    servers.dedup();
    servers
}

fn is_loopback(url: &str) -> bool {
    let uri = url.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Whole or not at all: a start in between must not find half of it.
fn write(path: &Path, servers: &[String]) -> anyhow::Result<()> {
    let fresh = path.with_extension("json.new");
    let text = serde_json::to_vec_pretty(servers)?;
    fs::write(&fresh, text)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_the_endpoints_that_can_be_reached() {
        let slice = |addresses: &[&str], ready: bool, ports: serde_json::Value| -> EndpointSlice {
            let endpoints: Vec<_> = addresses
                .iter()
                .map(|address| json!({"addresses": [address], "conditions": {"ready": ready}}))
                .collect();
            serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints, "ports": ports}))
                .unwrap()
        };
        let https = || json!([{"name": "metrics", "port": 1}, {"name": "https", "port": 6443}]);
        let elsewhere = ["https://10.0.0.1:6443".to_owned()];
        for (what, slices, named, want) in [
            (
                "in order, once",
                vec![slice(&["10.0.0.2", "10.0.0.1"], true, https()), slice(&["10.0.0.1"], true, https())],
                &elsewhere[..],
                vec!["https://10.0.0.1:6443", "https://10.0.0.2:6443"],
            ),
            ("not ready", vec![slice(&["10.0.0.2"], false, https())], &elsewhere, vec![]),
            (
                "another port",
                vec![slice(&["10.0.0.2"], true, json!([{"port": 7443}]))],
                &elsewhere,
                vec!["https://10.0.0.2:7443"],
            ),
            ("no port", vec![slice(&["10.0.0.2"], true, json!([]))], &elsewhere, vec![]),
            ("only from there", vec![slice(&["127.0.0.1"], true, https())], &elsewhere, vec![]),
            (
                "from here",
                vec![slice(&["127.0.0.1"], true, https())],
                &["https://localhost:6443".to_owned()],
                vec!["https://127.0.0.1:6443"],
            ),
            ("six", vec![slice(&["fd00::1"], true, https())], &elsewhere, vec!["https://[fd00::1]:6443"]),
        ] {
            assert_eq!(servers_of(slices.iter(), named), want, "{what}");
        }
    }

    #[test]
    fn what_was_learnt_is_there_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let named = ["https://10.0.0.1:6443".to_owned()];
        assert!(Known::open(directory.path(), &[]).is_err(), "nobody knows a server");
        assert_eq!(Known::open(directory.path(), &named).unwrap().learnt, [""; 0]);
        let learnt = ["https://10.0.0.2:6443".to_owned(), "https://10.0.0.3:6443".to_owned()];
        write(&directory.path().join("servers.json"), &learnt).unwrap();
        assert_eq!(Known::open(directory.path(), &[]).unwrap().learnt, learnt);
        fs::write(directory.path().join("servers.json"), "[\"htt").unwrap();
        assert_eq!(Known::open(directory.path(), &named).unwrap().learnt, [""; 0]);
    }
}
