//! The objects that every cluster has from its first moment.
//!
//! Namespaces, priority classes, the RBAC policy, flow control, the default ServiceCIDR, and the `kubernetes` Service
//! with its endpoints. What is missing is made in a few transactions; what is there is left as it is, but that
//! a stored policy is given the rules and subjects that it lacks.
//! Upstream: pkg/controlplane/controller/{systemnamespaces,kubernetesservice}, pkg/registry/*/rest.

use std::net::IpAddr;
use std::sync::Arc;

use api::{GroupVersion, Object, Status};
use serde_json::{Value, json};
use store::{Compare, Op, Range, Txn};

use crate::authz::bootstrap::{Reconciled, reconcile};
use crate::engine::timestamp;
use crate::options::Options;
use crate::registry::{Resource, ip_address};
use crate::server::Server;
use crate::{aggregation, authz, endpoints, fairness, storage};

/// What becomes of an object that is there already; `None`: it is left as it is.
type Reconcile = Option<fn(&Object, &Object) -> Reconciled>;

/// How often the start tries when others write the same objects meanwhile: servers that start together.
const ATTEMPTS: usize = 10;

/// Writes in one transaction: etcd takes 128 unless it is told otherwise (`--max-txn-ops`).
const MOST_OPERATIONS: usize = 100;

/// Makes what is missing, and brings stored policy up to this version's.
///
/// # Errors
/// The store's; 503 where others keep writing the same objects.
pub(crate) async fn run(server: &Arc<Server>) -> Result<(), Status> {
    for _ in 0..ATTEMPTS {
        if attempt(server).await? {
            return Ok(());
        }
    }
    Err(Status::service_unavailable("the objects of every cluster are being changed by others"))
}

/// One look and the transactions for what it has shown; false if an object was written in between.
async fn attempt(server: &Arc<Server>) -> Result<bool, Status> {
    let mut writes = Vec::new();
    let policy: Reconcile = Some(reconcile);
    let flows: Reconcile = Some(flows);
    let now = timestamp(server.clock.now());
    let today = server.clock.now().strftime("%Y-%m-%d").to_string();
    let wanted = own(&server.options, &today).into_iter().chain(server.options.bootstrap.iter().cloned());
    let wanted = wanted.map(|object| (object, None));
    let local = aggregation::local::built_in(&now).into_iter().map(|object| (object, None));
    let told = announcement(&server.options).into_iter().chain(server.options.told.iter().cloned());
    let announced = told.map(|object| (object, Some(announce as fn(&_, &_) -> _)));
    let wanted = wanted.chain(local).chain(announced);
    let wanted = wanted.chain(authz::bootstrap::objects().into_iter().map(|object| (object, policy)));
    let fairness = fairness::bootstrap::levels().into_iter().chain(fairness::bootstrap::schemas(&now));
    for (object, reconcile) in wanted.chain(fairness.map(|object| (object, flows))) {
        writes.extend(write(server, object, reconcile).await?);
    }
    while !writes.is_empty() {
        let (compare, success) =
            writes.split_off(writes.len().saturating_sub(MOST_OPERATIONS)).into_iter().unzip();
        let txn = Txn { compare, success, failure: Vec::new() };
        if !server.storage.store.txn(txn).await.map_err(storage::status)?.succeeded {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a FlowSchema or PriorityLevelConfiguration that must be there, or puts it right.
pub(crate) async fn ensure(server: &Server, object: Object) -> Result<(), Status> {
    put_right(server, object, flows).await.map(|_| ())
}

/// Makes an object that must be there, or makes what is there into it by `reconcile`. Where somebody else writes it
/// meanwhile nothing is done. Whether something was to be done.
pub(crate) async fn put_right(
    server: &Server,
    object: Object,
    reconcile: fn(&Object, &Object) -> Reconciled,
) -> Result<bool, Status> {
    let Some((compare, put)) = write(server, object, Some(reconcile)).await? else { return Ok(false) };
    let txn = Txn { compare: vec![compare], success: vec![put], failure: Vec::new() };
    server.storage.store.txn(txn).await.map(|_| true).map_err(storage::status)
}

/// Makes an object that is not there yet.
pub(crate) async fn create(server: &Server, object: Object) -> Result<(), Status> {
    let Some((compare, put)) = write(server, object, None).await? else { return Ok(()) };
    let txn = Txn { compare: vec![compare], success: vec![put], failure: Vec::new() };
    server.storage.store.txn(txn).await.map(|_| ()).map_err(storage::status)
}

/// The ConfigMap by which other API servers learn whom to believe.
/// Upstream: pkg/controlplane/controller/clusterauthenticationtrust.
fn announcement(options: &Options) -> Option<Object> {
    let announcement = options.aggregation.announcement.as_ref()?;
    let list = |names: &[&str]| json!(names).to_string();
    let allowed: Vec<&str> = announcement.allowed_names.iter().map(String::as_str).collect();
    Some(Object(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": announcement.client_authorities,
            "requestheader-client-ca-file": announcement.front_proxy_authorities,
            "requestheader-allowed-names": list(&allowed),
            "requestheader-username-headers": list(&["X-Remote-User"]),
            "requestheader-uid-headers": list(&["X-Remote-Uid"]),
            "requestheader-group-headers": list(&["X-Remote-Group"]),
            "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
        },
    })))
}

fn announce(stored: &Object, wanted: &Object) -> Reconciled {
    if stored.0["data"] == wanted.0["data"] {
        return Reconciled::Unchanged;
    }
    let mut next = stored.clone();
    next.0["data"] = wanted.0["data"].clone();
    Reconciled::Update(next)
}

fn flows(stored: &Object, wanted: &Object) -> Reconciled {
    fairness::bootstrap::reconcile(stored, wanted).map_or(Reconciled::Unchanged, Reconciled::Update)
}

/// The write that makes `object`, or brings the stored one up to it; `None` where there is nothing to do.
async fn write(
    server: &Server,
    object: Object,
    reconcile: Reconcile,
) -> Result<Option<(Compare, Op)>, Status> {
    let resource = resource(server, &object)?;
    let key = resource.key(object.namespace().unwrap_or_default(), object.name());
    let range = Range { keys_only: reconcile.is_none(), ..Range::key(key.clone()) };
    let found = server.storage.store.range(range).await.map_err(storage::status)?.kvs.into_iter().next();
    let (compare, object) = match (found, reconcile) {
        (None, _) => (Compare::absent(key.clone()), fresh(server, &resource, object)),
        (Some(_), None) => return Ok(None),
        (Some(kv), Some(reconcile)) => {
            let stored = resource.decode(&kv.value)?;
            let object = match reconcile(&stored, &object) {
                Reconciled::Unchanged => return Ok(None),
                Reconciled::Update(object) => object,
                Reconciled::Recreate(object) => fresh(server, &resource, object),
            };
            (Compare::mod_revision(key.clone(), kv.mod_revision), object)
        }
    };
    Ok(Some((compare, Op::Put { key, value: resource.encode(&object).into_put(), lease: 0 })))
}

fn resource(server: &Server, object: &Object) -> Result<Arc<Resource>, Status> {
    let table = server.registry.table();
    let version = GroupVersion::parse(object.api_version()).unwrap_or_default();
    let found = table.all().find(|resource| {
        let d = &resource.descriptor;
        d.group == version.group && d.version == version.version && d.kind == object.kind()
    });
    found.cloned().ok_or_else(|| {
        Status::internal(format!("no resource for {}, Kind={}", object.api_version(), object.kind()))
    })
}

/// The object as it is when it is new.
pub(crate) fn fresh(server: &Server, resource: &Resource, mut object: Object) -> Object {
    let mut random = [0; 16];
    server.randomness.fill(&mut random);
    let metadata = object.metadata_mut();
    metadata.insert("uid".into(), uuid::Builder::from_random_bytes(random).into_uuid().to_string().into());
    metadata.insert("creationTimestamp".into(), timestamp(server.clock.now()).into());
    if resource.descriptor.generation {
        metadata.insert("generation".into(), 1.into());
    }
    let status = object.0.get("status").cloned();
    resource.descriptor.hooks.default(&mut object.0);
    resource.descriptor.hooks.prepare_for_create(&mut object.0);
    if let Some(status) = status {
        object.0["status"] = status;
    }
    object
}

fn own(options: &Options, today: &str) -> Vec<Object> {
    let mut objects: Vec<Value> = Vec::new();
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        }));
    }
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if \
             necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        objects.push(json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        }));
    }
    objects.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [options.service_cidr.to_string()]},
    }));
    // Since when uses of tokens in Secrets are noted.
    objects.push(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": today},
    }));
    objects.extend(kubernetes_service(options));
    if let (Some((address, port)), endpoints::Reconciler::Lease) = (options.advertise, options.endpoints) {
        objects.extend(endpoints::objects(&[address], port));
    }
    objects.into_iter().map(Object).collect()
}

/// The Service by which pods find the server, and the claim on its address.
pub(crate) fn kubernetes_service(options: &Options) -> [Value; 2] {
    let address = options.service_cidr.nth(1);
    let family = match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let port = options.advertise.map_or(6443, |(_, port)| port);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
        "status": {"loadBalancer": {}},
    });
    [service, ip_address(address, "default", "kubernetes").0]
}

#[cfg(test)]
mod tests {
    use foundation::{SystemClock, SystemRandomness, Tasks};
    use store::Store;

    use super::*;
    use crate::ApiServer;
    use crate::storage::interposed::{Interposed, put};

    #[tokio::test]
    async fn a_server_that_starts_beside_another_makes_all_objects() {
        let store = Interposed::new();
        // The other server was faster with one of them.
        store.before("txn", |store| async move {
            put(&*store, "/registry/core/namespaces/kube-public").await;
            Ok(())
        });
        let (clock, randomness) = (SystemClock::shared(), SystemRandomness::shared());
        let tasks = Tasks::new("test");
        ApiServer::new(store.clone(), Options::default(), &tasks, clock, randomness).await.unwrap();
        let found = store.range(Range::key("/registry/core/namespaces/kube-system")).await.unwrap();
        assert_eq!(found.count, 1);
    }
}
