//! The endpoints of the `kubernetes` Service: the API servers that are there.
//!
//! Every server that serves has a key of its own below `/registry/masterleases/`, tied to a lease of the store, which
//! it renews. The Endpoints and the EndpointSlice `default/kubernetes` are made of these keys: when a server comes,
//! stops or dies, and when somebody changes or deletes one of the objects. Reads and writes the store; wakes up for
//! events and for the lease only.
//! Not here: the first endpoints of a new cluster (`bootstrap` makes them, by [`objects`]).
//! Upstream: pkg/controlplane/reconcilers/{lease,endpointsadapter}.go, controller/kubernetesservice.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{GroupVersionResource, Object, Status};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use store::{LeaseId, Op, Range, Txn, WatchRequest};

use crate::authz::bootstrap::Reconciled;
use crate::cache::{Interest, Wanted};
use crate::server::Server;
use crate::{bootstrap, storage};

/// Where the servers say that they are there, one key for each address (upstream's place).
const MEMBERS: &str = "/registry/masterleases/";
/// How long the key of a server that died stays (upstream's DefaultEndpointReconcilerTTL), in seconds.
const TTL: i64 = 15;
/// How often the lease is renewed (upstream's DefaultEndpointReconcilerInterval).
const RENEW: Duration = Duration::from_secs(10);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How long what others make of the objects is left alone once it was put right: at first, and at most. Two servers that
/// advertise different ports would undo each other's work without end.
const LEAVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The Service, its Endpoints and its slice.
const NAME: &str = "default/kubernetes";

/// Who keeps the endpoints of the `kubernetes` Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reconciler {
    /// The servers that hold a lease are the endpoints.
    #[default]
    Lease,
    /// Nobody: the administrator does.
    None,
}

/// The Endpoints and the EndpointSlice of servers at these addresses.
pub(crate) fn objects(addresses: &[IpAddr], port: u16) -> Vec<Value> {
    let family = if addresses.first().is_some_and(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let listed: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let ready = |ip| json!({"addresses": [ip], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = addresses.iter().map(ready).collect();
    vec![
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": listed, "ports": ports}],
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": family, "endpoints": endpoints, "ports": ports,
        }),
    ]
}

/// What becomes of the stored object so that it says what `wanted` says.
fn put_right(stored: &Object, wanted: &Object) -> Reconciled {
    if wanted.kind() == "EndpointSlice" && stored.0["addressType"] != wanted.0["addressType"] {
        return Reconciled::Recreate(wanted.clone());
    }
    let mut next = stored.clone();
    for (member, value) in wanted.0.as_object().into_iter().flatten() {
        if !matches!(member.as_str(), "apiVersion" | "kind" | "metadata") {
            next.0[member] = value.clone();
        }
    }
    for (label, value) in wanted.labels() {
        next.0["metadata"]["labels"][label] = value.into();
    }
    if next.0 == stored.0 { Reconciled::Unchanged } else { Reconciled::Update(next) }
}

/// Says that this server is there from now on, and keeps the endpoints right until it stops.
pub(crate) fn start(server: &Arc<Server>) {
    let (Some((address, port)), Reconciler::Lease) = (server.options.advertise, server.options.endpoints)
    else {
        return;
    };
    let member = Member { server: server.clone(), address, port, lease: None };
    server.tasks.spawn("endpoints", member.run());
}

/// This server, among the others.
struct Member {
    server: Arc<Server>,
    address: IpAddr,
    port: u16,
    lease: Option<LeaseId>,
}

impl Member {
    async fn run(mut self) {
        let stopping = self.server.draining.clone();
        while !stopping.is_cancelled() {
            let stopped = tokio::select! {
                kept = self.keep() => kept,
                () = stopping.cancelled() => break,
            };
            if let Err(error) = stopped {
                tracing::warn!(%error, "the endpoints of the kubernetes service are not kept right");
                tokio::select! {
                    () = self.server.clock.sleep(AGAIN) => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
        if let Err(error) = self.leave().await {
            tracing::debug!(%error, "this server stays among the endpoints until its lease ends");
        }
    }

    /// Keeps the endpoints right for as long as the watches last.
    async fn keep(&mut self) -> Result<(), Status> {
        // Opened before anything is looked at, so that no change is missed.
        let mut changes = self.watch().await?;
        self.renew().await?;
        self.reconcile().await?;
        let mut due = self.server.clock.sleep(RENEW);
        let mut leave = LEAVE.0;
        // While it is there, changes wait.
        let mut left: Option<BoxFuture<'static, ()>> = None;
        loop {
            let leaves = left.is_some();
            let pause = async {
                match &mut left {
                    Some(pause) => pause.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next(), if !leaves => match change {
                    Some(true) => {
                        if self.reconcile().await? {
                            left = Some(self.server.clock.sleep(leave));
                            leave = (leave * 2).min(LEAVE.1);
                        } else {
                            leave = LEAVE.0;
                        }
                    }
                    _ => return Ok(()),
                },
                () = pause => left = None,
                () = &mut due => {
                    self.renew().await?;
                    due = self.server.clock.sleep(RENEW);
                }
            }
        }
    }

    /// Says true for each change that matters, and false when one of the watches ends.
    async fn watch(&self) -> Result<SelectAll<BoxStream<'static, bool>>, Status> {
        let server = &self.server;
        let revision = server.storage.store.revision().await.map_err(storage::status)?;
        let request = WatchRequest::prefix(MEMBERS, revision + 1);
        let members = server.storage.store.watch(request).await.map_err(storage::status)?;
        let mut all = SelectAll::new();
        all.push(members.map(|batch| batch.is_ok()).chain(stream::iter([false])).boxed());
        for (group, resource) in [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")]
        {
            let name = GroupVersionResource::new(group, "v1", resource);
            let found = server.registry.table().get(group, "v1", resource).cloned();
            let found = found.ok_or_else(|| Status::internal(format!("{name} are not served")))?;
            let now = server.hub.revision();
            let cache = server.hub.cache(&found.view).await?;
            let watched =
                cache.watch(Interest::Key(NAME.to_owned()), &Wanted::default(), None, now, |_| false);
            let (_, subscription) = watched.map_err(|error| Status::expired(error.to_string()))?;
            let changes = stream::unfold(subscription, |mut subscription| async move {
                let change = match subscription.missed.next() {
                    Some(change) => Some(change),
                    None => subscription.receiver.recv().await,
                };
                change.map(|_| (true, subscription))
            });
            all.push(changes.chain(stream::iter([false])).boxed());
        }
        Ok(all)
    }

    /// Renews the lease; takes a new one where there is none, or none any more.
    async fn renew(&mut self) -> Result<(), Status> {
        let store = &self.server.storage.store;
        let key = Bytes::from(format!("{MEMBERS}{}", self.address));
        let mut lease = None;
        if let Some(held) = self.lease {
            match store.lease_keep_alive(held).await {
                Ok(_) => lease = Some(held),
                Err(store::Error::LeaseNotFound { .. }) => {}
                Err(error) => return Err(storage::status(error)),
            }
        }
        let lease = match lease {
            Some(lease) => {
                // Somebody may have removed the key, or it was never written.
                let range = Range { keys_only: true, ..Range::key(key.clone()) };
                if store.range(range).await.map_err(storage::status)?.count > 0 {
                    return Ok(());
                }
                lease
            }
            None => store.lease_grant(TTL, 0).await.map_err(storage::status)?.id,
        };
        self.lease = Some(lease);
        // In the form that other implementations read.
        let value = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {},
            "subsets": [{"addresses": [{"ip": self.address}]}],
        });
        let put = Op::Put { key, value: store::PutValue::Plain(value.to_string().into()), lease };
        store.txn(Txn::of(vec![put])).await.map(|_| ()).map_err(storage::status)
    }

    /// Makes the objects say which servers are there. Whether they said something else.
    async fn reconcile(&self) -> Result<bool, Status> {
        let store = &self.server.storage.store;
        let range = Range { keys_only: true, ..Range::prefix(MEMBERS) };
        let found = store.range(range).await.map_err(storage::status)?;
        let members = found.kvs.iter().filter_map(|kv| std::str::from_utf8(&kv.key[MEMBERS.len()..]).ok());
        // One family only: what an EndpointSlice can hold.
        let members = members.filter_map(|text| text.parse::<IpAddr>().ok());
        let mut members: Vec<_> = members.filter(|ip| ip.is_ipv4() == self.address.is_ipv4()).collect();
        members.sort_unstable();
        if members.is_empty() {
            // Upstream refuses too: an address that does not answer is better than none that could.
            return Ok(false);
        }
        for object in bootstrap::kubernetes_service(&self.server.options) {
            bootstrap::create(&self.server, Object(object)).await?;
        }
        let mut wrong = false;
        for object in objects(&members, self.port) {
            wrong |= bootstrap::put_right(&self.server, Object(object), put_right).await?;
        }
        Ok(wrong)
    }

    /// Says that this server is gone.
    async fn leave(&mut self) -> Result<(), Status> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        self.server.storage.store.lease_revoke(lease).await.map_err(storage::status)?;
        self.reconcile().await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use foundation::{ManualClock, SystemRandomness, Tasks};
    use store::Store;

    use super::*;
    use crate::storage::interposed::Interposed;
    use crate::{ApiServer, Options};

    /// The addresses of the Endpoints and of the slice, which are to be the same.
    async fn addresses(store: &Interposed) -> Option<Vec<String>> {
        let read = async |key: &str| {
            let found = store.range(Range::key(key.to_owned())).await.unwrap();
            serde_json::from_slice::<Value>(&found.kvs.first()?.value).ok()
        };
        let endpoints = read("/registry/core/endpoints/default/kubernetes").await?;
        let slice = read("/registry/discovery.k8s.io/endpointslices/default/kubernetes").await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = endpoints["subsets"][0]["addresses"].as_array()?.iter().map(|a| text(&a["ip"]));
        let other = slice["endpoints"].as_array()?.iter().map(|e| text(&e["addresses"][0]));
        let (one, other): (Vec<_>, Vec<_>) = (one.collect(), other.collect());
        (one == other).then_some(one)
    }

    /// Waits until the endpoints are `wanted`, while time goes by.
    async fn become_(store: &Interposed, clock: &ManualClock, wanted: &[&str]) {
        let revision = store.revision().await.unwrap();
        let mut changes = store.watch(WatchRequest::prefix("/registry/", revision + 1)).await.unwrap();
        let waiting = async {
            while addresses(store).await.is_none_or(|found| found != wanted) {
                // Where nothing more happens by itself, somebody waits for the clock.
                if tokio::time::timeout(Duration::from_millis(20), changes.next()).await.is_err() {
                    clock.advance(LEAVE.0);
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        waited.unwrap_or_else(|_| panic!("the endpoints never became {wanted:?}"));
    }

    async fn server(
        store: &Arc<Interposed>,
        tasks: &Tasks,
        clock: &ManualClock,
        address: [u8; 4],
    ) -> ApiServer {
        let options = Options { advertise: Some((address.into(), 6443)), ..Options::default() };
        let clock = Arc::new(clock.clone());
        let server =
            ApiServer::new(store.clone(), options, tasks, clock, SystemRandomness::shared()).await.unwrap();
        start(server.server());
        server
    }

    #[tokio::test]
    async fn the_endpoints_are_the_servers_that_are_there() {
        let (store, clock) = (Interposed::new(), ManualClock::default());
        let (first, second) = (Tasks::new("first"), Tasks::new("second"));
        let one = server(&store, &first, &clock, [10, 0, 0, 1]).await;
        become_(&store, &clock, &["10.0.0.1"]).await;
        server(&store, &second, &clock, [10, 0, 0, 2]).await;
        become_(&store, &clock, &["10.0.0.1", "10.0.0.2"]).await;

        for key in ["core/endpoints", "discovery.k8s.io/endpointslices", "core/services"] {
            let key = format!("/registry/{key}/default/kubernetes");
            store.txn(Txn::of(vec![Op::delete(key)])).await.unwrap();
        }
        become_(&store, &clock, &["10.0.0.1", "10.0.0.2"]).await;

        assert!(second.shutdown(Duration::from_secs(30)).await.is_empty());
        become_(&store, &clock, &["10.0.0.1"]).await;
        // The last one does not take itself out.
        drop(one);
        assert!(first.shutdown(Duration::from_secs(30)).await.is_empty());
        assert_eq!(addresses(&store).await.unwrap(), ["10.0.0.1"]);
        assert_eq!(store.range(Range::prefix(MEMBERS)).await.unwrap().count, 0);
    }

    #[tokio::test]
    async fn servers_that_do_not_agree_leave_each_others_objects_for_a_while() {
        let (store, clock) = (Interposed::new(), ManualClock::default());
        let tasks = Tasks::new("servers");
        let one = server(&store, &tasks, &clock, [10, 0, 0, 1]).await;
        become_(&store, &clock, &["10.0.0.1"]).await;
        // Another one that advertises another port, and puts its own in whenever it sees something else.
        let key = "/registry/core/endpoints/default/kubernetes";
        let found = async || store.range(Range::key(key)).await.unwrap().kvs.remove(0);
        let mut undone = 0;
        let mut changes = {
            let revision = store.revision().await.unwrap();
            store.watch(WatchRequest::prefix(key, revision + 1)).await.unwrap()
        };
        let mut elapsed = Vec::new();
        while undone < 6 {
            let mut object: Value = serde_json::from_slice(&found().await.value).unwrap();
            object["subsets"][0]["ports"][0]["port"] = 7443.into();
            let value = store::PutValue::Plain(object.to_string().into());
            let put = Op::Put { key: Bytes::from_static(key.as_bytes()), value, lease: 0 };
            let before = store.txn(Txn::of(vec![put])).await.unwrap().revision;
            let mut seconds = 0;
            // Until it was put right.
            while found().await.mod_revision <= before {
                if tokio::time::timeout(Duration::from_millis(100), changes.next()).await.is_err() {
                    clock.advance(Duration::from_secs(1));
                    seconds += 1;
                }
                assert!(seconds <= 30, "it is put right in the end");
            }
            elapsed.push(seconds);
            undone += 1;
        }
        assert!(elapsed[0] <= 1, "at once: {elapsed:?}");
        assert!(elapsed[5] >= 8, "with longer and longer pauses: {elapsed:?}");
        drop(one);
        tasks.shutdown(Duration::from_secs(30)).await;
    }

    #[test]
    fn what_others_wrote_is_put_right_and_what_is_right_is_left() {
        let wanted = objects(&[[10, 0, 0, 1].into()], 6443);
        for wanted in wanted.into_iter().map(Object) {
            assert!(matches!(put_right(&wanted, &wanted), Reconciled::Unchanged));
            let mut other = wanted.clone();
            other.0["metadata"]["labels"] = json!({"mine": "too"});
            other.0["ports"] = json!([]);
            other.0["subsets"] = json!([]);
            let Reconciled::Update(next) = put_right(&other, &wanted) else { panic!("it is not right") };
            assert_eq!(next.labels().len(), 2);
        }
        let [_, mut slice]: [Value; 2] = objects(&["::1".parse().unwrap()], 1).try_into().unwrap();
        let wanted = Object(slice.clone());
        slice["addressType"] = json!("IPv4");
        assert!(matches!(put_right(&Object(slice), &wanted), Reconciled::Recreate(_)));
    }
}
