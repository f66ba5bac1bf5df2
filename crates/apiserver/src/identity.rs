//! The lease by which it is known which API servers there are: `kube-system/apiserver-<hash of the machine's name>`.
//!
//! Renews this server's lease while it serves, and deletes those that nobody renews. Reads and writes the store.
//! Not here: the endpoints of the `kubernetes` Service (`endpoints`), which go with a lease of the store.
//! Upstream: pkg/controlplane/apiserver/server.go, pkg/controlplane/controller/apiserverleasegc.

use std::sync::Arc;
use std::time::Duration;

use api::{GroupResource, Object, Status};
use jiff::{SignedDuration, Timestamp};
use ring::digest;
use serde_json::json;

use crate::authz::bootstrap::Reconciled;
use crate::bootstrap;
use crate::server::Server;

const NAMESPACE: &str = "kube-system";
/// The label that leases of API servers have, and its value.
const LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// How long a lease counts without being renewed, in seconds.
const LIFE: i64 = 3600;
const RENEW: Duration = Duration::from_secs(10);
/// How often what nobody renews is looked for.
const COLLECT: Duration = Duration::from_secs(3600);
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Renews the lease until the server stops.
pub(crate) fn start(server: &Arc<Server>) {
    let Some(hostname) = server.options.hostname.clone() else { return };
    let mut random = [0; 16];
    server.randomness.fill(&mut random);
    let uuid = uuid::Builder::from_random_bytes(random).into_uuid();
    let (server, holder) = (server.clone(), format!("{}_{uuid}", name(&hostname)));
    server.tasks.clone().spawn_until_cancelled("identity", async move {
        let acquired = server.clock.now();
        let mut collected = None;
        loop {
            let now = server.clock.now();
            let lease = lease(&hostname, &holder, acquired, now);
            if let Err(error) = bootstrap::put_right(&server, lease, renew).await {
                tracing::warn!(%error, "this server's lease is not renewed");
            }
            let monotonic = server.clock.monotonic();
            if collected.is_none_or(|last| monotonic.saturating_sub(last) >= COLLECT) {
                collected = Some(monotonic);
                if let Err(error) = collect(&server, now).await {
                    tracing::warn!(%error, "leases of servers that are gone are not deleted");
                }
            }
            server.clock.sleep(RENEW).await;
        }
    });
}

/// The name of a machine's lease.
fn name(hostname: &str) -> String {
    let hash = digest::digest(&digest::SHA256, hostname.as_bytes());
    let mut text = String::from("apiserver-");
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in &hash.as_ref()[..16] {
        (bits, held) = (bits << 8 | u32::from(*byte), held + 8);
        while held >= 5 {
            held -= 5;
            // Below 32.
            text.push(char::from(BASE32[(bits >> held & 31) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(char::from(BASE32[(bits << (5 - held) & 31) as usize]));
    }
    text
}

fn lease(hostname: &str, holder: &str, acquired: Timestamp, now: Timestamp) -> Object {
    let micros = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    Object(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name(hostname), "namespace": NAMESPACE,
            "labels": {LABEL.0: LABEL.1, "kubernetes.io/hostname": hostname},
        },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": LIFE,
            "acquireTime": micros(acquired), "renewTime": micros(now),
        },
    }))
}

/// What becomes of the stored lease: this server's, whoever held it.
fn renew(stored: &Object, wanted: &Object) -> Reconciled {
    let mut next = stored.clone();
    next.0["spec"] = wanted.0["spec"].clone();
    for (label, value) in wanted.labels() {
        next.0["metadata"]["labels"][label] = value.into();
    }
    Reconciled::Update(next)
}

/// Whether nobody has renewed a lease of an API server for as long as it counts.
fn is_expired(lease: &Object, now: Timestamp) -> bool {
    let ours = lease.0["metadata"]["labels"][LABEL.0] == LABEL.1;
    let spec = &lease.0["spec"];
    let renewed = spec["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let life = SignedDuration::from_secs(spec["leaseDurationSeconds"].as_i64().unwrap_or_default());
    // What lies beyond all times has not ended.
    ours && renewed.is_none_or(|renewed| renewed.checked_add(life).is_ok_and(|end| end < now))
}

async fn collect(server: &Server, now: Timestamp) -> Result<(), Status> {
    let leases = GroupResource::new("coordination.k8s.io", "leases");
    let listed = server.cluster.list(&leases, NAMESPACE).await?;
    let resource = server.registry.table().preferred(&leases).cloned();
    let Some(resource) = resource else { return Ok(()) };
    let leases = listed.items.iter().filter_map(|item| serde_json::from_slice(item).ok()).map(Object);
    for lease in leases.filter(|lease| is_expired(lease, now)) {
        // One that was renewed in between stays.
        let Ok(revision) = lease.resource_version().parse() else { continue };
        server.storage.delete(&resource, NAMESPACE, lease.name(), revision).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_hash_of_the_machines() {
        // printf node-1 | sha256sum | cut -c1-32 | xxd -r -p | base32 | tr A-Z a-z
        assert_eq!(name("node-1").len(), "apiserver-".len() + 26);
        assert_ne!(name("node-1"), name("node-2"));
        // The hash of nothing begins with e3b0c442 98fc1c14 9afbf4c8 996fb924.
        assert_eq!(name(""), "apiserver-4oymiquy7qobjgx36tejs35zeq");
    }

    #[test]
    fn what_nobody_renews_ends() {
        let at = |time: &str| time.parse::<Timestamp>().unwrap();
        let start = at("2026-01-01T00:00:00Z");
        let lease = lease("n", "h", start, start);
        assert_eq!(lease.0["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z");
        assert!(!is_expired(&lease, at("2026-01-01T01:00:00Z")));
        assert!(is_expired(&lease, at("2026-01-01T01:00:01Z")));
        let mut late = lease.clone();
        late.0["spec"]["renewTime"] = "9999-12-30T21:30:00Z".into();
        late.0["spec"]["leaseDurationSeconds"] = 3600.into();
        assert!(!is_expired(&late, at("2027-01-01T00:00:00Z")));
        let mut other = lease.clone();
        other.0["metadata"]["labels"] = json!({});
        assert!(!is_expired(&other, at("2027-01-01T00:00:00Z")), "none of an API server");
    }
}
