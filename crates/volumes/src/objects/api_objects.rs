//! [`Objects`] over the API: one watch per object in use, tokens kept until 80 % of their life is over.
//! Certificates are [`super::certificates`]'.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::types::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use api::types::certificates::v1::ClusterTrustBundle;
use api::types::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use async_trait::async_trait;
use client::{Client, ListOptions, WatchEvent};
use foundation::{CancellationToken, SharedClock, Tasks};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::certificates::Certificates;
use super::on_demand::OnDemand;
use super::{Notify, Objects};
use crate::{Credential, Error, ObjectKey, TokenSpec, TrustBundles};

pub use super::certificates::NodeIdentity;

/// How long to wait after a watch could not be opened.
const RETRY: Duration = Duration::from_secs(1);

/// The objects that pods of this node read, watched one by one.
pub struct ApiObjects {
    client: Client,
    tasks: Tasks,
    clock: SharedClock,
    state: Arc<Mutex<State>>,
    trust_bundles: OnDemand<ClusterTrustBundle>,
    /// What the order of roots of trust depends on, for as long as this node runs.
    seed: u64,
    certificates: Certificates,
}

#[derive(Default)]
struct State {
    config_maps: HashMap<Key, Entry<ConfigMap>>,
    secrets: HashMap<Key, Entry<Secret>>,
    /// By pod: its namespace, what it reads and who is told.
    readers: HashMap<String, (String, BTreeSet<ObjectKey>, Notify)>,
    tokens: HashMap<String, BTreeMap<TokenSpec, Token>>,
}

/// Namespace and name.
type Key = (String, String);

struct Entry<K> {
    /// The outer `Option` is empty until the first answer.
    value: watch::Receiver<Option<Option<Arc<K>>>>,
    readers: usize,
    stop: CancellationToken,
}

struct Token {
    value: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

impl ApiObjects {
    /// Reads through `client`, which is the node `node`; watches run as tasks of `tasks`.
    pub fn new(client: Client, node: NodeIdentity, tasks: &Tasks, clock: SharedClock) -> Arc<ApiObjects> {
        let tasks = tasks.child("objects");
        Arc::new(ApiObjects {
            trust_bundles: OnDemand::new(client.clone(), &tasks, clock.clone(), ListOptions::default()),
            seed: node.randomness.u64(),
            certificates: Certificates::new(client.clone(), node, &tasks, clock.clone()),
            client,
            tasks,
            clock,
            state: Arc::default(),
        })
    }

    fn open<K: client::Resource>(&self, key: &Key, wrap: fn(String) -> ObjectKey) -> Entry<K> {
        let (sender, value) = watch::channel(None);
        let stop = self.tasks.token().child_token();
        let follow = Follow {
            client: self.client.clone(),
            clock: self.clock.clone(),
            state: self.state.clone(),
            namespace: key.0.clone(),
            name: key.1.clone(),
            key: wrap(key.1.clone()),
            sender,
        };
        let token = stop.clone();
        self.tasks.spawn("watch", async move {
            token.run_until_cancelled(follow.run()).await;
        });
        Entry { value, readers: 0, stop }
    }

    fn acquire(&self, state: &mut State, namespace: &str, object: &ObjectKey) {
        match object {
            ObjectKey::ConfigMap(name) => {
                let key = (namespace.to_owned(), name.clone());
                let entry = state.config_maps.entry(key.clone());
                entry.or_insert_with(|| self.open(&key, ObjectKey::ConfigMap)).readers += 1;
            }
            ObjectKey::Secret(name) => {
                let key = (namespace.to_owned(), name.clone());
                let entry = state.secrets.entry(key.clone());
                entry.or_insert_with(|| self.open(&key, ObjectKey::Secret)).readers += 1;
            }
            // Done before the state is locked.
            ObjectKey::ClusterTrustBundles => {}
        }
    }

    fn release(&self, state: &mut State, namespace: &str, object: &ObjectKey) {
        fn drop_reader<K>(map: &mut HashMap<Key, Entry<K>>, key: Key) {
            if let Some(entry) = map.get_mut(&key) {
                entry.readers -= 1;
                if entry.readers == 0 {
                    entry.stop.cancel();
                    map.remove(&key);
                }
            }
        }
        match object {
            ObjectKey::ConfigMap(name) => {
                drop_reader(&mut state.config_maps, (namespace.to_owned(), name.clone()))
            }
            ObjectKey::Secret(name) => drop_reader(&mut state.secrets, (namespace.to_owned(), name.clone())),
            ObjectKey::ClusterTrustBundles => self.trust_bundles.release(),
        }
    }
}

/// One watch.
struct Follow<K> {
    client: Client,
    clock: SharedClock,
    state: Arc<Mutex<State>>,
    namespace: String,
    name: String,
    key: ObjectKey,
    sender: watch::Sender<Option<Option<Arc<K>>>>,
}

impl<K: client::Resource> Follow<K> {
    async fn run(self) {
        loop {
            if let Err(error) = self.list_and_watch().await {
                tracing::debug!(key = ?self.key, namespace = self.namespace, %error, "watching an object");
                self.clock.sleep(RETRY).await;
            }
        }
    }

    async fn list_and_watch(&self) -> Result<(), client::Error> {
        let options = ListOptions::fields(format!("metadata.name={}", self.name));
        let list = self.client.list::<K>(Some(&self.namespace), &options).await?;
        let mut version = list.resource_version.clone();
        self.set(list.items.into_iter().next());
        loop {
            let mut stream = self.client.watch::<K>(Some(&self.namespace), &options, &version).await?;
            while let Some(event) = stream.next().await {
                match event? {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        version = object.metadata().resource_version.clone().unwrap_or(version);
                        self.set(Some(object));
                    }
                    WatchEvent::Deleted(object) => {
                        version = object.metadata().resource_version.clone().unwrap_or(version);
                        self.set(None);
                    }
                    WatchEvent::Bookmark { resource_version, .. } => version = resource_version,
                }
            }
        }
    }

    fn set(&self, object: Option<K>) {
        let first = self.sender.send_replace(Some(object.map(Arc::new))).is_none();
        if first {
            return;
        }
        tell(&self.state, |namespace, keys| namespace == self.namespace && keys.contains(&self.key));
    }
}

/// Tells the pods whose namespace and keys are `concerned` that something of theirs has changed.
fn tell(state: &Mutex<State>, concerned: impl Fn(&str, &BTreeSet<ObjectKey>) -> bool) {
    let readers: Vec<Notify> = {
        let state = state.lock();
        let readers = state.readers.values().filter(|(namespace, keys, _)| concerned(namespace, keys));
        readers.map(|(_, _, notify)| notify.clone()).collect()
    };
    for notify in readers {
        notify();
    }
}

async fn value<K>(mut receiver: watch::Receiver<Option<Option<Arc<K>>>>) -> Result<Option<Arc<K>>, Error> {
    let gone = || Error::Invalid("the node is stopping".to_owned());
    let value = receiver.wait_for(Option::is_some).await.map_err(|_| gone())?;
    Ok(value.clone().flatten())
}

#[async_trait]
impl Objects for ApiObjects {
    fn register(&self, pod: &Arc<Pod>, keys: &BTreeSet<ObjectKey>, notify: Notify) {
        self.certificates.track(pod, notify.clone());
        if keys.contains(&ObjectKey::ClusterTrustBundles) {
            let state = self.state.clone();
            self.trust_bundles.acquire(move |_| {
                tell(&state, |_, keys| keys.contains(&ObjectKey::ClusterTrustBundles));
            });
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut state = self.state.lock();
        for key in keys {
            self.acquire(&mut state, namespace, key);
        }
        let reader = (namespace.to_owned(), keys.clone(), notify);
        if let Some((namespace, keys, _)) = state.readers.insert(uid.to_owned(), reader) {
            for key in &keys {
                self.release(&mut state, &namespace, key);
            }
        }
    }

    fn unregister(&self, uid: &str) {
        self.certificates.forget(uid);
        let mut state = self.state.lock();
        state.tokens.remove(uid);
        if let Some((namespace, keys, _)) = state.readers.remove(uid) {
            for key in &keys {
                self.release(&mut state, &namespace, key);
            }
        }
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Error> {
        let key = (namespace.to_owned(), name.to_owned());
        let watched = self.state.lock().config_maps.get(&key).map(|entry| entry.value.clone());
        match watched {
            Some(receiver) => value(receiver).await,
            None => found(self.client.get::<ConfigMap>(Some(namespace), name).await),
        }
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Error> {
        let key = (namespace.to_owned(), name.to_owned());
        let watched = self.state.lock().secrets.get(&key).map(|entry| entry.value.clone());
        match watched {
            Some(receiver) => value(receiver).await,
            None => found(self.client.get::<Secret>(Some(namespace), name).await),
        }
    }

    async fn token(&self, pod: &Pod, spec: &TokenSpec) -> Result<String, Error> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let now = self.clock.now();
        let kept = {
            let state = self.state.lock();
            let token = state.tokens.get(&uid).and_then(|tokens| tokens.get(spec));
            token.map(|token| (token.value.clone(), token.renew_at, token.expires_at))
        };
        if let Some((value, renew_at, _)) = &kept
            && now < *renew_at
        {
            return Ok(value.clone());
        }
        match self.request_token(pod, spec).await {
            Ok(token) => {
                let value = token.value.clone();
                let mut state = self.state.lock();
                if state.readers.contains_key(&uid) {
                    state.tokens.entry(uid).or_default().insert(spec.clone(), token);
                }
                Ok(value)
            }
            // A token that still works is better than none; the next look tries again.
            Err(error) => match kept {
                Some((value, _, expires_at)) if now < expires_at => {
                    tracing::warn!(%error, "a service account token was not renewed");
                    Ok(value)
                }
                _ => Err(error),
            },
        }
    }

    fn next_renewal(&self, uid: &str) -> Option<Timestamp> {
        self.state.lock().tokens.get(uid)?.values().map(|token| token.renew_at).min()
    }

    async fn trust_bundles(&self) -> Result<TrustBundles, Error> {
        let Some(informer) = self.trust_bundles.informer() else {
            return Err(Error::Invalid("ClusterTrustBundle informer has not yet synced".to_owned()));
        };
        informer.synced().await;
        Ok(TrustBundles::new(informer.list(), self.seed))
    }

    async fn certificate(&self, pod: &Pod, volume: &str, source: usize) -> Result<Credential, Error> {
        self.certificates.get(pod, volume, source).await
    }

    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, Error> {
        let claim = match self.client.get::<PersistentVolumeClaim>(Some(namespace), name).await {
            Ok(claim) => claim,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let volume =
            claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let volume = match volume {
            Some(volume) => Some(self.client.get::<PersistentVolume>(None, &volume).await?),
            None => None,
        };
        Ok(Some((claim, volume)))
    }
}

impl ApiObjects {
    async fn request_token(&self, pod: &Pod, spec: &TokenSpec) -> Result<Token, Error> {
        let meta = &pod.metadata;
        let account =
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let audiences = if spec.audience.is_empty() { Vec::new() } else { vec![spec.audience.clone()] };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences),
                expiration_seconds: Some(spec.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let answer = self.client.create_token(namespace, account, &request).await?;
        let status = answer.status.unwrap_or_default();
        let (Some(value), Some(expires_at)) = (status.token, status.expiration_timestamp) else {
            return Err(Error::Invalid("failed to fetch token: the API server issued none".to_owned()));
        };
        let now = self.clock.now();
        let expires_at = expires_at.0;
        let life = expires_at.duration_since(now).as_secs().max(0);
        // Upstream: at 80 % of its life, and never older than a day.
        let renew_in = (life * 4 / 5).min(24 * 3600);
        let renew_at = now + jiff::SignedDuration::from_secs(renew_in);
        Ok(Token { value, renew_at, expires_at })
    }
}

fn found<K>(result: Result<K, client::Error>) -> Result<Option<Arc<K>>, Error> {
    match result {
        Ok(object) => Ok(Some(Arc::new(object))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
