//! Gets the certificates that pods want: makes keys, asks, takes what signers issue and asks again in time.
//!
//! One task per certificate, from the pod's coming to its going. Reads and creates PodCertificateRequests (one watch of
//! those of this node, while some pod wants a certificate); reads the Node and ServiceAccounts for their UIDs; writes
//! events about pods. Nothing is kept over a restart: the node then asks for every certificate anew.
//! Not here: what is to be done next ([`super::projection`]), files (`kinds::projected`), deleting old requests (a
//! controller's).
//! Upstream: `pkg/kubelet/podcertificate`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::meta::{ObjectMeta, OwnerReference};
use api::types::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use api::types::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use client::{Change, Client, EventRecorder, EventType, ListOptions};
use foundation::{CancellationToken, SharedClock, SharedRandomness, Tasks};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{Notify as Wake, watch};

use super::Notify;
use super::on_demand::OnDemand;
use super::projection::{Projection, Step};
use crate::{Credential, Error};

/// For how long a pod that has just come waits for its signer before it is told that there is nothing yet.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);
/// Renewals are put off by up to this many seconds, so that pods that began together do not go on together.
const JITTER_SECONDS: u64 = 5 * 60;
/// The pause after a first failure; it doubles with each that follows.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// Who asks.
#[derive(Clone)]
pub struct NodeIdentity {
    /// The node's name.
    pub name: String,
    /// By whom pods are told of refusals.
    pub recorder: EventRecorder,
    /// What jitter and orders are drawn from.
    pub randomness: SharedRandomness,
}

/// The certificates of all pods of a node.
pub(super) struct Certificates(Arc<Shared>);

struct Shared {
    client: Client,
    node: NodeIdentity,
    clock: SharedClock,
    tasks: Tasks,
    requests: OnDemand<PodCertificateRequest>,
    pods: Mutex<HashMap<String, Tracked>>,
}

/// A pod that wants certificates.
struct Tracked {
    notify: Notify,
    since: Timestamp,
    sources: HashMap<(String, usize), Source>,
    stop: CancellationToken,
}

struct Source {
    state: watch::Receiver<Projection>,
    wake: Arc<Wake>,
}

impl Certificates {
    pub(super) fn new(client: Client, node: NodeIdentity, tasks: &Tasks, clock: SharedClock) -> Certificates {
        let select = ListOptions::fields(format!("spec.nodeName={}", node.name));
        let requests = OnDemand::new(client.clone(), tasks, clock.clone(), select);
        let tasks = tasks.child("certificates");
        Certificates(Arc::new(Shared { client, node, clock, tasks, requests, pods: Mutex::default() }))
    }

    /// Starts to get what the pod's volumes want. A second call changes only who is told.
    pub(super) fn track(&self, pod: &Arc<Pod>, notify: Notify) {
        let wanted = wanted(pod);
        if wanted.is_empty() {
            return;
        }
        let uid = uid(pod);
        if let Some(tracked) = self.0.pods.lock().get_mut(&uid) {
            tracked.notify = notify;
            return;
        }
        let shared = Arc::downgrade(&self.0);
        self.0.requests.acquire(move |change| {
            let request = match change {
                Change::Added(request) | Change::Deleted(request) => request,
                Change::Updated { new, .. } => new,
            };
            if let Some(shared) = shared.upgrade()
                && let Some(tracked) = shared.pods.lock().get(&request.spec.pod_uid)
            {
                tracked.sources.values().for_each(|source| source.wake.notify_one());
            }
        });
        let (mut sources, mut workers) = (HashMap::new(), Vec::new());
        for (key, source) in wanted {
            let (sender, state) = watch::channel(Projection::default());
            let wake = Arc::new(Wake::new());
            workers.push(Worker {
                shared: self.0.clone(),
                pod: pod.clone(),
                source,
                sender,
                wake: wake.clone(),
            });
            sources.insert(key, Source { state, wake });
        }
        let stop = self.0.tasks.token().child_token();
        let tracked = Tracked { notify, since: self.0.clock.now(), sources, stop: stop.clone() };
        self.0.pods.lock().insert(uid, tracked);
        for worker in workers {
            let token = stop.clone();
            self.0.tasks.spawn("certificate", async move {
                token.run_until_cancelled(worker.run()).await;
            });
        }
    }

    /// The pod is gone.
    pub(super) fn forget(&self, uid: &str) {
        if let Some(tracked) = self.0.pods.lock().remove(uid) {
            tracked.stop.cancel();
            self.0.requests.release();
        }
    }

    /// The certificate of one source; see [`super::Objects::certificate`].
    pub(super) async fn get(&self, pod: &Pod, volume: &str, source: usize) -> Result<Credential, Error> {
        let found = self.0.pods.lock().get(&uid(pod)).and_then(|tracked| {
            let source = tracked.sources.get(&(volume.to_owned(), source))?;
            Some((source.state.clone(), tracked.since))
        });
        let Some((mut state, since)) = found else {
            return Err(Error::Invalid("credential bundle is not issued yet".to_owned()));
        };
        let left = Duration::try_from((since + PATIENCE).duration_since(self.0.clock.now()));
        tokio::select! {
            biased;
            _ = state.wait_for(Projection::is_settled) => {}
            () = self.0.clock.sleep(left.unwrap_or_default()) => {}
        }
        let credential = state.borrow().credential();
        credential.map(|credential| (*credential).clone()).map_err(Error::Invalid)
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// The sources that want a certificate, by their volume and their number in it.
fn wanted(pod: &Pod) -> Vec<((String, usize), PodCertificateProjection)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.flat_map(|volume| {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        sources.enumerate().filter_map(|(index, source)| {
            Some(((volume.name.clone(), index), source.pod_certificate.clone()?))
        })
    });
    sources.collect()
}

/// Gets one certificate.
struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    source: PodCertificateProjection,
    sender: watch::Sender<Projection>,
    wake: Arc<Wake>,
}

impl Worker {
    async fn run(self) {
        let Some(requests) = self.shared.requests.informer() else { return };
        requests.synced().await;
        let (clock, namespace) = (&self.shared.clock, self.pod.metadata.namespace.as_deref());
        let mut projection = Projection::default();
        let mut pause = Duration::ZERO;
        loop {
            let request = projection.request().and_then(|name| requests.get(namespace, name));
            let was_asked = projection.request().is_some();
            let look = projection.look(request.as_deref(), clock.now(), self.jitter());
            for (reason, message) in look.warnings {
                self.shared.node.recorder.event(&*self.pod, EventType::Warning, reason, message);
            }
            if look.changed {
                pause = Duration::ZERO;
                self.publish(&projection);
            } else if was_asked && look.step == Step::Ask {
                pause = next_pause(pause);
            }
            match look.step {
                Step::End => return,
                Step::Wait(until) => self.rest(until).await,
                Step::Ask => {
                    clock.sleep(pause).await;
                    match self.ask().await {
                        Ok((name, key)) => projection.asked(&name, key, clock.now(), self.jitter()),
                        Err(error) => {
                            let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
                            tracing::warn!(pod, %error, "a certificate for a pod was not asked for");
                            pause = next_pause(pause);
                        }
                    }
                }
            }
        }
    }

    /// Until the request changes or `until` has come.
    async fn rest(&self, until: Option<Timestamp>) {
        let Some(until) = until else { return self.wake.notified().await };
        let left = Duration::try_from(until.duration_since(self.shared.clock.now())).unwrap_or_default();
        tokio::select! {
            () = self.wake.notified() => {}
            () = self.shared.clock.sleep(left) => {}
        }
    }

    fn publish(&self, projection: &Projection) {
        self.sender.send_replace(projection.clone());
        let notify = self.shared.pods.lock().get(&uid(&self.pod)).map(|tracked| tracked.notify.clone());
        if let Some(notify) = notify {
            notify();
        }
    }

    fn jitter(&self) -> SignedDuration {
        SignedDuration::from_secs(self.shared.node.randomness.below(JITTER_SECONDS) as i64)
    }

    /// Makes a key and asks for a certificate; returns the request's name and the key.
    async fn ask(&self) -> Result<(String, String), Error> {
        let kind = pki::KeyType::parse(&self.source.key_type).ok_or_else(|| {
            Error::Invalid(format!("keys of type {} cannot be made by this node", self.source.key_type))
        })?;
        let failed = |error: pki::Error| Error::Invalid(format!("while generating keypair: {error}"));
        // One of RSA takes seconds.
        let key = tokio::task::spawn_blocking(move || pki::PrivateKey::generate(kind)).await;
        let ended = |error| Error::Invalid(format!("while generating keypair: {error}"));
        let key = key.map_err(ended)?.map_err(failed)?;
        let stub = key.bare_request().map_err(failed)?;

        let (shared, meta) = (&self.shared, &self.pod.metadata);
        let namespace = meta.namespace.as_deref();
        let spec = self.pod.spec.as_ref();
        let account =
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
        let account_meta = shared.client.get::<ServiceAccount>(namespace, &account).await?.metadata;
        let node_meta = shared.client.get::<Node>(None, &shared.node.name).await?.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let request = PodCertificateRequest {
            metadata: ObjectMeta {
                generate_name: Some("req-".to_owned()),
                namespace: meta.namespace.clone(),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: name.clone(),
                    uid: uid(&self.pod),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: self.source.signer_name.clone(),
                pod_name: name,
                pod_uid: uid(&self.pod),
                service_account_name: account,
                service_account_uid: account_meta.uid.unwrap_or_default(),
                node_name: shared.node.name.clone(),
                node_uid: node_meta.uid.unwrap_or_default(),
                max_expiration_seconds: self.source.max_expiration_seconds,
                stub_pkc_s10_request: api::k8s_openapi::ByteString(stub),
                unverified_user_annotations: self.source.user_annotations.clone(),
            },
            status: None,
        };
        let made = shared.client.create(namespace, &request).await?;
        Ok((made.metadata.name.unwrap_or_default(), key.pem()))
    }
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).clamp(RETRY, RETRY_MAX)
}
