//! Gives every pod its ServiceAccount: the name, the volume with its token, its image pull secrets.
//! Reads ServiceAccounts. Waits a moment for the account `default`, which a controller makes in new namespaces.
//! Not here: the token itself (`authn::token`), the content of the volume (the kubelet).
//! Upstream: plugin/pkg/admission/serviceaccount.

use std::sync::Arc;
use std::time::Duration;

use api::types::core::v1 as core;
use api::{GroupResource, Object, Status};
use async_trait::async_trait;
use foundation::{SharedClock, SharedRandomness};
use serde_json::{Value, json};

use super::json::{array_mut, find_parsed, items, text, typed};
use super::parsed::Parsed;
use super::{Operation, Plugin, Request};
use crate::authz::node::graph::{Kind, references};
use crate::cluster::ClusterState;

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds: the odd number tells the issuer that nobody asked for this expiration.
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
const ROOT_CA: &str = "kube-root-ca.crt";
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
/// How long the account `default` is waited for (upstream: ten looks, 100 to 200 ms apart).
const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) struct ServiceAccount {
    clock: SharedClock,
    randomness: SharedRandomness,
    accounts: Parsed<core::ServiceAccount>,
}

impl ServiceAccount {
    pub(super) fn new(clock: SharedClock, randomness: SharedRandomness) -> Self {
        Self { clock, randomness, accounts: Parsed::default() }
    }

    async fn account(
        &self,
        request: &Request<'_>,
        name: &str,
        cluster: &dyn ClusterState,
    ) -> Result<Arc<core::ServiceAccount>, Status> {
        let look = async || -> Result<Option<Arc<core::ServiceAccount>>, Status> {
            find_parsed(&self.accounts, cluster, "", "serviceaccounts", request.namespace, name).await
        };
        if let Some(account) = look().await? {
            return Ok(account);
        }
        if name == DEFAULT {
            let mut changes = cluster.changes(&GroupResource::new("", "serviceaccounts")).await?;
            let deadline = self.clock.sleep(PATIENCE);
            tokio::pin!(deadline);
            loop {
                // Looked again after subscribing, so that what came in between is not missed.
                if let Some(account) = look().await? {
                    return Ok(account);
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { break },
                    () = &mut deadline => break,
                }
            }
        }
        let missing = Status::not_found(&GroupResource::new("", "serviceaccount"), name);
        Err(request.forbidden(format!(
            "error looking up service account {}/{name}: {}",
            request.namespace, missing.message
        )))
    }

    /// The volume with the token, and its mount in every container that has nothing at that path.
    fn mount(&self, pod: &mut Value) {
        let spec = &mut pod["spec"];
        let existing = items(spec, "/volumes")
            .map(|volume| text(volume, "/name"))
            .find(|name| name.starts_with(VOLUME_PREFIX));
        let volume = match existing {
            Some(name) => name.to_owned(),
            None => loop {
                let name = format!("{VOLUME_PREFIX}{}", self.randomness.name_suffix());
                if !items(spec, "/volumes").any(|volume| text(volume, "/name") == name) {
                    break name;
                }
            },
        };
        let has_volume = existing.is_some();
        let mut mounted = false;
        for list in ["initContainers", "containers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if items(container, "/volumeMounts").any(|mount| text(mount, "/mountPath") == MOUNT_PATH) {
                    continue;
                }
                let mount = json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH });
                array_mut(container, "volumeMounts").push(mount);
                mounted = true;
            }
        }
        if mounted && !has_volume {
            array_mut(spec, "volumes").push(json!({
                "name": volume,
                "projected": {
                    "defaultMode": 0o644,
                    "sources": [
                        { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                        { "configMap": { "name": ROOT_CA, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                        { "downwardAPI": { "items": [{
                            "path": "namespace",
                            "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                        }] } },
                    ],
                },
            }));
        }
    }
}

fn is_mirror(pod: &Object) -> bool {
    pod.annotation(MIRROR).is_some()
}

/// A mirror pod shows what a node runs by itself; it must not lend that any of the cluster's identities.
fn check_mirror(request: &Request<'_>, pod: &Object) -> Result<(), Status> {
    if !text(&pod.0, "/spec/serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    // Wherever a pod may name one: environments and pulling images too.
    if references(&typed(pod)?).iter().any(|(kind, _)| *kind == Kind::Secret) {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    for volume in items(&pod.0, "/spec/volumes") {
        for source in items(volume, "/projected/sources") {
            if source["serviceAccountToken"].is_object() {
                return Err(
                    request.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
                );
            }
        }
    }
    Ok(())
}

/// Whether all secrets that the pod uses are among those its account lists.
fn check_secrets(account: &core::ServiceAccount, pod: &core::Pod) -> Result<(), String> {
    let name = account.metadata.name.as_deref().unwrap_or_default();
    let listed = |secret: &str| account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret));
    let Some(spec) = &pod.spec else { return Ok(()) };
    for volume in spec.volumes.iter().flatten() {
        if let Some(secret) = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref())
            && !listed(secret)
        {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not \
                 reference that secret"
            ));
        }
    }
    let init =
        spec.init_containers.iter().flatten().map(|c| ("init container", &c.name, &c.env, &c.env_from));
    let main = spec.containers.iter().map(|c| ("container", &c.name, &c.env, &c.env_from));
    let debug = spec.ephemeral_containers.iter().flatten();
    let debug = debug.map(|c| ("ephemeral container", &c.name, &c.env, &c.env_from));
    for (noun, container, env, env_from) in init.chain(main).chain(debug) {
        for source in env_from.iter().flatten().filter_map(|source| source.secret_ref.as_ref()) {
            if !listed(&source.name) {
                return Err(format!(
                    "{noun} {container} with envFrom referencing secret.secretName={:?} is not allowed because \
                     service account {name} does not reference that secret",
                    source.name
                ));
            }
        }
        for variable in env.iter().flatten() {
            let secret = variable.value_from.as_ref().and_then(|v| v.secret_key_ref.as_ref());
            if let Some(secret) = secret
                && !listed(&secret.name)
            {
                return Err(format!(
                    "{noun} {container} with envVar {} referencing secret.secretName={:?} is not allowed because \
                     service account {name} does not reference that secret",
                    variable.name, secret.name
                ));
            }
        }
    }
    for (index, pull) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if !account.image_pull_secrets.iter().flatten().any(|listed| listed.name == pull.name) {
            return Err(format!(
                "imagePullSecrets[{index}].name={:?} is not allowed because service account {name} does not \
                 reference that imagePullSecret",
                pull.name
            ));
        }
    }
    Ok(())
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "pods", "") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        if is_mirror(pod) {
            return Ok(());
        }
        let name = match text(&pod.0, "/spec/serviceAccountName") {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        let account = self.account(request, &name, &**cluster).await?;
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        let spec = &mut pod.0["spec"];
        // The second is the field's name in v1beta3, which v1 still writes.
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.into();
        if items(spec, "/imagePullSecrets").next().is_none()
            && let Some(secrets) = account.image_pull_secrets.as_ref().filter(|secrets| !secrets.is_empty())
        {
            spec["imagePullSecrets"] = json!(secrets);
        }
        let own = spec["automountServiceAccountToken"].as_bool();
        if own.or(account.automount_service_account_token).unwrap_or(true) {
            self.mount(&mut pod.0);
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        let create = request.operation == Operation::Create && request.is("", "pods", "");
        if !create && !request.is("", "pods", "ephemeralcontainers") {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        if create && is_mirror(pod) {
            return check_mirror(request, pod);
        }
        let name = text(&pod.0, "/spec/serviceAccountName");
        let account = self.account(request, name, &**cluster).await?;
        let annotations = account.metadata.annotations.as_ref();
        let enforced = annotations
            .and_then(|a| a.get(ENFORCE))
            .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
        if enforced {
            check_secrets(&account, &typed(pod)?).map_err(|reason| request.forbidden(reason))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foundation::{ManualClock, SeededRandomness};

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    fn plugin() -> (ServiceAccount, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
        (ServiceAccount::new(clock.clone(), Arc::new(SeededRandomness::new(1))), clock)
    }

    fn account(name: &str, more: Value) -> Value {
        let mut account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": "a" } });
        for (key, value) in more.as_object().unwrap() {
            account[key] = value.clone();
        }
        account
    }

    fn create(spec: Value) -> Write {
        Write::create("pods", "Pod", pod(spec))
    }

    #[tokio::test]
    async fn a_pod_gets_account_token_and_pull_secrets() {
        let cluster = FakeCluster::new();
        cluster
            .put("serviceaccounts", account("default", json!({ "imagePullSecrets": [{ "name": "pull" }] })));
        let spec = json!({
            "initContainers": [{ "name": "i" }],
            "containers": [{ "name": "c" }, { "name": "own", "volumeMounts": [{ "name": "v", "mountPath": MOUNT_PATH }] }],
        });
        let (pod, _) = run(&plugin().0, &cluster, create(spec)).await.unwrap();
        let spec = &pod["spec"];
        assert_eq!(
            (&spec["serviceAccountName"], &spec["serviceAccount"]),
            (&json!("default"), &json!("default"))
        );
        assert_eq!(spec["imagePullSecrets"], json!([{ "name": "pull" }]));
        let volume = &spec["volumes"][0];
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        assert_eq!(volume["projected"]["defaultMode"], 420);
        assert_eq!(
            volume["projected"]["sources"][0],
            json!({ "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } })
        );
        let mount = json!([{ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }]);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "v");
    }

    #[tokio::test]
    async fn the_token_can_be_declined() {
        let cluster = FakeCluster::new();
        cluster.put("serviceaccounts", account("shy", json!({ "automountServiceAccountToken": false })));
        for (own, volumes) in [(json!(null), 0), (json!(true), 1), (json!(false), 0)] {
            let spec = json!({ "serviceAccountName": "shy", "automountServiceAccountToken": own,
                "containers": [{ "name": "c" }] });
            let (pod, _) = run(&plugin().0, &cluster, create(spec)).await.unwrap();
            assert_eq!(items(&pod, "/spec/volumes").count(), volumes);
        }
    }

    #[tokio::test]
    async fn a_missing_account_is_named() {
        let cluster = FakeCluster::new();
        let spec = json!({ "serviceAccountName": "robot" });
        let error = run(&plugin().0, &cluster, create(spec)).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: error looking up service account a/robot: serviceaccount \"robot\" not found"
        );
    }

    #[tokio::test]
    async fn the_default_account_is_waited_for() {
        let cluster = FakeCluster::new();
        let (plugin, clock) = plugin();
        let write = run(&plugin, &cluster, create(json!({ "containers": [] })));
        let late = async {
            clock.wait_for_sleepers(1).await;
            cluster.put("serviceaccounts", account("default", json!({})));
        };
        assert!(tokio::join!(write, late).0.is_ok());

        cluster.remove("serviceaccounts", "a", "default");
        let write = run(&plugin, &cluster, create(json!({ "containers": [] })));
        let never = async {
            clock.wait_for_sleepers(1).await;
            clock.advance(PATIENCE);
        };
        let error = tokio::join!(write, never).0.unwrap_err();
        assert!(error.message.ends_with("serviceaccount \"default\" not found"), "{}", error.message);
    }

    #[tokio::test]
    async fn secrets_can_be_limited_to_those_listed() {
        let cluster = FakeCluster::new();
        let mut strict = account("strict", json!({ "secrets": [{ "name": "mine" }] }));
        strict["metadata"]["annotations"] = json!({ ENFORCE: "true" });
        cluster.put("serviceaccounts", strict);
        let with = |secret: &str| {
            create(json!({ "serviceAccountName": "strict", "containers": [],
                "volumes": [{ "name": "v", "secret": { "secretName": secret } }] }))
        };
        run(&plugin().0, &cluster, with("mine")).await.unwrap();
        let error = run(&plugin().0, &cluster, with("theirs")).await.unwrap_err();
        assert!(error.message.ends_with(
            "volume with secret.secretName=\"theirs\" is not allowed because service account strict does not \
             reference that secret"
        ));
    }

    #[tokio::test]
    async fn a_mirror_pod_names_no_secrets_anywhere() {
        let named = |name: &str| json!({"name": name, "key": "k"});
        let container = |more: Value| {
            let mut container = json!({"name": "c", "image": "i"});
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([container])
        };
        let plain = container(json!({}));
        for (spec, good) in [
            (json!({"containers": plain}), true),
            (json!({"containers": plain, "imagePullSecrets": [{"name": "s"}]}), false),
            (json!({"containers": plain, "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), false),
            (json!({"containers": plain, "volumes": [{"name": "v", "configMap": {"name": "m"}}]}), true),
            (json!({"containers": container(json!({"envFrom": [{"secretRef": {"name": "s"}}]}))}), false),
            (
                json!({"containers": container(
                    json!({"env": [{"name": "E", "valueFrom": {"secretKeyRef": named("s")}}]})
                )}),
                false,
            ),
        ] {
            let mut mirror = pod(spec.clone());
            mirror["metadata"]["annotations"] = json!({ MIRROR: "x" });
            let (plugin, _) = plugin();
            let outcome = run(&plugin, &FakeCluster::new(), Write::create("pods", "Pod", mirror)).await;
            assert_eq!(outcome.is_ok(), good, "{spec}: {outcome:?}");
        }
    }
}
