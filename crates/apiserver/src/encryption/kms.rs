//! Keys that a plugin keeps: KMS v2 over gRPC on a unix socket.
//!
//! A random seed is encrypted by the plugin once and then used for many objects: each has a key of its own derived
//! from the seed and 32 random bytes (HKDF-SHA256), so that no nonce can repeat. What is stored names the plugin's
//! key and carries the encrypted seed; seeds that were read are kept. The plugin is asked for its key's id once a
//! minute by a task of its own ([`follow`]), so that no write waits for that. While it does not answer the seed at hand
//! is used for some minutes more, and the plugin is left alone for some seconds.
//! Upstream: apiserver/pkg/storage/value/encrypt/envelope/kmsv2, staging/src/k8s.io/kms/apis/v2/api.proto.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foundation::SharedClock;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use super::ciphers::{open_gcm, random, seal_gcm};
use super::transformer::Error;

/// How long the plugin's answer to Status is believed.
const FRESH: Duration = Duration::from_secs(60);
/// How long a seed is written with while the plugin does not answer (upstream's MaxTTL of three minutes).
const USABLE: Duration = Duration::from_secs(3 * 60);
/// How long a plugin that failed is not asked again (upstream asks an unhealthy one each ten seconds).
const AGAIN: Duration = Duration::from_secs(10);
/// Seeds that are kept for reading.
const SEEDS: usize = 1000;
const SEED: usize = 32;
const INFO: usize = 32;
/// `EncryptedObject.encryptedDEKSourceType`: a seed, not a key.
const FROM_SEED: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

/// What is stored behind the prefix.
#[derive(Clone, PartialEq, prost::Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    encrypted_dek_source_type: i32,
}

/// The seed in use for writing.
struct Current {
    seed: [u8; SEED],
    sealed: EncryptResponse,
    checked: Duration,
}

/// One plugin.
pub struct Kms {
    name: String,
    socket: PathBuf,
    timeout: Duration,
    clock: SharedClock,
    channel: tokio::sync::OnceCell<Channel>,
    current: ArcSwapOption<Current>,
    /// How the plugin last failed, until it answers again.
    trouble: ArcSwapOption<String>,
    /// When the plugin last failed, and how. Held while it is asked.
    failed: tokio::sync::Mutex<Option<(Duration, String)>>,
    seeds: Mutex<HashMap<Vec<u8>, Arc<Vec<u8>>>>,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The key of one object.
fn derive(seed: &[u8], info: &[u8]) -> Result<[u8; 32], String> {
    let mut key = [0; 32];
    Prk::new_less_safe(HKDF_SHA256, seed)
        .expand(&[info], Length(key.len()))
        .and_then(|derived| derived.fill(&mut key))
        .map_err(|_| "a key could not be derived".to_owned())?;
    Ok(key)
}

impl Kms {
    pub(super) fn new(name: String, socket: PathBuf, timeout: Duration, clock: SharedClock) -> Self {
        Self {
            name,
            socket,
            timeout,
            clock,
            channel: tokio::sync::OnceCell::new(),
            current: ArcSwapOption::empty(),
            trouble: ArcSwapOption::empty(),
            failed: tokio::sync::Mutex::default(),
            seeds: Mutex::default(),
        }
    }

    pub(super) fn prefix(&self) -> String {
        format!("k8s:enc:kms:v2:{}:", self.name)
    }

    pub(super) async fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, String> {
        let current = self.usable().await?;
        let info: [u8; INFO] = random()?;
        let data = [info.as_slice(), &seal_gcm(&derive(&current.seed, &info)?, plain, place)?].concat();
        let sealed = &current.sealed;
        let object = EncryptedObject {
            encrypted_data: data,
            key_id: sealed.key_id.clone(),
            encrypted_dek_source: sealed.ciphertext.clone(),
            annotations: sealed.annotations.clone(),
            encrypted_dek_source_type: FROM_SEED,
        };
        Ok(object.encode_to_vec())
    }

    pub(super) async fn open(&self, stored: &[u8], place: &[u8]) -> Result<Vec<u8>, Error> {
        let object =
            EncryptedObject::decode(stored).map_err(|error| format!("no encrypted object: {error}"))?;
        let known = self.seeds.lock().get(&object.encrypted_dek_source).cloned();
        let source = match known {
            Some(source) => source,
            None => {
                let request = DecryptRequest {
                    ciphertext: object.encrypted_dek_source.clone(),
                    uid: self.uid()?,
                    key_id: object.key_id,
                    annotations: object.annotations,
                };
                let answer: DecryptResponse = self.call("Decrypt", request).await?;
                let source = Arc::new(answer.plaintext);
                self.remember(object.encrypted_dek_source, source.clone());
                source
            }
        };
        if object.encrypted_dek_source_type != FROM_SEED {
            return open_gcm(&source, &object.encrypted_data, place).map_err(Error::from);
        }
        let (info, sealed) =
            object.encrypted_data.split_at_checked(INFO).ok_or("the encrypted object is too short")?;
        open_gcm(&derive(&source, info)?, sealed, place).map_err(Error::from)
    }

    /// Whether it was sealed with the plugin's key of today. While the plugin cannot say, nothing is known to be old.
    pub(super) async fn is_current(&self, stored: &[u8]) -> bool {
        match (EncryptedObject::decode(stored), self.usable().await) {
            (Ok(object), Ok(current)) => object.key_id == current.sealed.key_id,
            _ => true,
        }
    }

    fn remember(&self, sealed: Vec<u8>, seed: Arc<Vec<u8>>) {
        let mut seeds = self.seeds.lock();
        if seeds.len() >= SEEDS {
            // There are as many seeds as servers and rotations: more than this are not met in practice.
            seeds.clear();
        }
        seeds.insert(sealed, seed);
    }

    /// What is wrong with the plugin, as far as one knows.
    pub(super) fn health(&self) -> Result<(), String> {
        if let Some(trouble) = &*self.trouble.load() {
            return Err(trouble.to_string());
        }
        match &*self.current.load() {
            Some(_) => Ok(()),
            None => Err(format!("the KMS plugin {} has not answered yet", self.name)),
        }
    }

    /// The seed that was checked less than so long ago.
    fn younger(&self, than: Duration) -> Option<Arc<Current>> {
        let now = self.clock.monotonic();
        self.current.load_full().filter(|current| now.saturating_sub(current.checked) < than)
    }

    /// The seed to write with: one that was checked some minutes ago will do, as somebody checks it again.
    async fn usable(&self) -> Result<Arc<Current>, String> {
        match self.younger(USABLE) {
            Some(current) => Ok(current),
            None => self.current().await,
        }
    }

    /// The seed, checked within the minute where the plugin answers: a new one if its key has changed.
    async fn current(&self) -> Result<Arc<Current>, String> {
        let younger = |than| self.younger(than);
        if let Some(current) = younger(FRESH) {
            return Ok(current);
        }
        let mut failed = match (self.failed.try_lock(), younger(USABLE)) {
            (Ok(failed), _) => failed,
            // Somebody is asking; what there is will do meanwhile.
            (Err(_), Some(current)) => return Ok(current),
            (Err(_), None) => self.failed.lock().await,
        };
        if let Some(current) = younger(FRESH) {
            return Ok(current);
        }
        let now = self.clock.monotonic();
        if let Some((at, problem)) = &*failed
            && now.saturating_sub(*at) < AGAIN
        {
            return younger(USABLE).ok_or_else(|| problem.clone());
        }
        match self.renew(now).await {
            Ok(current) => {
                *failed = None;
                self.trouble.store(None);
                self.current.store(Some(current.clone()));
                Ok(current)
            }
            Err(problem) => {
                tracing::warn!(problem, "the key to encrypt with could not be checked");
                *failed = Some((self.clock.monotonic(), problem.clone()));
                self.trouble.store(Some(Arc::new(problem.clone())));
                younger(USABLE).ok_or(problem)
            }
        }
    }

    /// Asks the plugin for its key, and makes a new seed if that is another one.
    async fn renew(&self, now: Duration) -> Result<Arc<Current>, String> {
        let status = self.call::<_, StatusResponse>("Status", StatusRequest {}).await;
        let status = status.map_err(|error| error.to_string())?;
        if status.healthz != "ok" || !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(format!(
                "the KMS plugin {} is not ready: version {:?}, health {:?}",
                self.name, status.version, status.healthz
            ));
        }
        if let Some(known) = &*self.current.load()
            && known.sealed.key_id == status.key_id
        {
            return Ok(Arc::new(Current { seed: known.seed, sealed: known.sealed.clone(), checked: now }));
        }
        let seed: [u8; SEED] = random()?;
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: self.uid()? };
        let sealed = self.call::<_, EncryptResponse>("Encrypt", request).await;
        let sealed = sealed.map_err(|error| error.to_string())?;
        if sealed.key_id.is_empty() || sealed.ciphertext.is_empty() {
            return Err(format!("the KMS plugin {} answered Encrypt with nothing", self.name));
        }
        self.remember(sealed.ciphertext.clone(), Arc::new(seed.to_vec()));
        Ok(Arc::new(Current { seed, sealed, checked: now }))
    }

    fn uid(&self) -> Result<String, String> {
        Ok(uuid::Builder::from_random_bytes(random()?).into_uuid().to_string())
    }

    async fn channel(&self) -> Result<Channel, String> {
        let connect = || async {
            let socket = self.socket.clone();
            Endpoint::from_static("http://localhost")
                .connect_with_connector(tower::service_fn(move |_: Uri| {
                    let socket = socket.clone();
                    async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
                }))
                .await
        };
        let channel = self.channel.get_or_try_init(connect).await;
        channel.cloned().map_err(|error| format!("the KMS plugin {} cannot be reached: {error}", self.name))
    }

    /// Asks the plugin. What it refuses is about what it was asked, whatever else goes wrong about itself.
    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Error>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let failed = |error: &dyn std::fmt::Display| format!("KMS plugin {}, {method}: {error}", self.name);
        let call = async {
            let mut client = tonic::client::Grpc::new(self.channel().await.map_err(Error::Plugin)?);
            client.ready().await.map_err(|error| Error::Plugin(failed(&error)))?;
            let path = http::uri::PathAndQuery::try_from(format!("/v2.KeyManagementService/{method}"))
                .map_err(|error| failed(&error))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answer = client.unary(tonic::Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| {
                let problem = failed(&status.message());
                match status.code() {
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Error::Plugin(problem),
                    // The connection broke.
                    _ if status.source().is_some() => Error::Plugin(problem),
                    _ => Error::Value(problem),
                }
            })
        };
        tokio::select! {
            answer = call => answer,
            () = self.clock.sleep(self.timeout) => Err(Error::Plugin(failed(&"no answer in time"))),
        }
    }
}

/// Keeps the seed of a plugin checked for as long as somebody has the plugin.
pub(super) async fn follow(plugin: Weak<Kms>) {
    while let Some(kms) = plugin.upgrade() {
        // What is wrong has been told, and is the health check's to tell.
        let _ = kms.current().await;
        let pause = match kms.younger(FRESH) {
            Some(current) => FRESH.saturating_sub(kms.clock.monotonic().saturating_sub(current.checked)),
            None => AGAIN,
        };
        let again = kms.clock.sleep(pause);
        drop(kms);
        again.await;
    }
}

#[cfg(test)]
mod tests;
