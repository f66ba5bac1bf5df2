//! Pulls images from registries: Docker Registry v2 and the OCI distribution specification.
//!
//! Reads manifests and blobs over HTTP(S), with mirrors (`hosts`), token and basic authentication
//! (`session`). Writes blobs to temporary files, then into the store. Errors are worded like
//! containerd's, because they end up in the events of pods.
//!
//! Upstream: the OCI distribution specification; containerd core/remotes/docker.

mod hosts;
mod http;
mod session;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use foundation::Tasks;
use futures::stream::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::config::{self, Descriptor, Manifest};
use super::reference::Reference;
use super::{Error as StoreError, Image, Images, digest_of, io_error, parse_config};
use session::Session;

/// Layers that are fetched at the same time (containerd's default).
const PARALLEL: usize = 3;
/// How long a registry may send nothing: containerd's `image_pull_progress_timeout`.
const PROGRESS: Duration = Duration::from_secs(300);
/// Bytes of a manifest or configuration: containerd's limit for manifests.
const MAX_DOCUMENT: usize = 8 * 1024 * 1024;

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry does not have it.
    #[error(
        "failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: {name}: not found"
    )]
    NotFound {
        /// The full name.
        name: String,
    },
    /// Anything else on the way.
    #[error("failed to pull and unpack image {name:?}: {reason}")]
    Failed {
        /// The full name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Who pulls.
#[derive(Clone, Default)]
pub struct Credentials {
    /// For basic authentication and token requests.
    pub username: String,
    /// For basic authentication and token requests.
    pub password: String,
    /// Base64 of `user:password`, in the place of both.
    pub auth: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Bearer token, used as it is.
    pub registry_token: String,
}

/// What a registry answered or why it did not.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not found")]
    NotFound,
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    #[error("failed to do request: {method} {url:?}: {reason}")]
    Request { method: &'static str, url: String, reason: String },
    #[error("unexpected status from {method} request to {url}: {status}")]
    Status { method: &'static str, url: String, status: String },
    #[error("failed to fetch anonymous token or oauth token: {0}")]
    Token(String),
    #[error("{0}")]
    Other(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Images {
    /// Pulls an image, unless the store has it under this digest; answers with it. Connections are tasks of `tasks`.
    pub async fn pull(
        &self,
        text: &str,
        credentials: Option<Credentials>,
        hosts_dir: &Path,
        tasks: &Tasks,
    ) -> Result<Image, StoreError> {
        let reference =
            Reference::parse(text).map_err(|source| StoreError::Reference { text: text.into(), source })?;
        let name = reference.to_string();
        // Held until the image is recorded.
        let images = self.clone();
        let _layers = tokio::task::spawn_blocking(move || images.working())
            .await
            .map_err(|e| Error::Failed { name: name.clone(), reason: e.to_string() })??;
        let mut last = None;
        for host in hosts::of(&reference.registry, hosts_dir) {
            let session = match Session::new(host, &reference.repository, credentials.clone(), tasks) {
                Ok(session) => session,
                Err(e) => {
                    last = Some(e);
                    continue;
                }
            };
            match self.pull_from(&session, &reference).await {
                Ok(image) => return Ok(image),
                // The next mirror may have it; what the last one says counts.
                Err(Failure::Store(e)) => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(match last {
            Some(Failure::NotFound) | None => Error::NotFound { name },
            Some(other) => {
                Error::Failed { reason: format!("failed to resolve reference {name:?}: {other}"), name }
            }
        }
        .into())
    }

    async fn pull_from(&self, session: &Session, reference: &Reference) -> Result<Image, Failure> {
        let wanted = reference.digest.clone().or_else(|| reference.tag.clone()).unwrap_or_default();
        let (top_digest, bytes) = manifest(session, &wanted).await?;
        let mut parsed = decode(&bytes)?;
        if !parsed.manifests.is_empty() {
            let entry = config::pick(&parsed.manifests).ok_or(StoreError::Platform)?;
            let (_, bytes) = manifest(session, &entry.digest).await?;
            parsed = decode(&bytes)?;
        }
        let descriptor = parsed
            .config
            .ok_or_else(|| Failure::Other("the manifest is of no supported kind (schema 1?)".into()))?;
        let config = document(session, &descriptor).await?;
        let diff_ids = parse_config(&config)?.rootfs.diff_ids;
        if diff_ids.len() != parsed.layers.len() {
            return Err(Failure::Other("mismatched image rootfs and manifest layers".into()));
        }
        let pairs = diff_ids.iter().zip(&parsed.layers);
        let pulls: Vec<_> = pairs.map(|(diff_id, layer)| self.pull_layer(session, diff_id, layer)).collect();
        futures::stream::iter(pulls).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        let size = descriptor.size + parsed.layers.iter().map(|l| l.size).sum::<u64>();
        let digests = vec![format!("{}@{top_digest}", reference.name())];
        let names = reference.tag.as_ref().map(|tag| format!("{}:{tag}", reference.name()));
        let images = self.clone();
        blocking(move || Ok(images.add_image(&config, names, digests, size, false)?)).await
    }

    async fn pull_layer(&self, session: &Session, diff_id: &str, layer: &Descriptor) -> Result<(), Failure> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let mut response = session.get(&format!("blobs/{}", layer.digest), "*/*").await?;
        // Bounded: a disk that is slower than the registry slows it down.
        let (chunks, incoming) = mpsc::channel::<Bytes>(16);
        let writing = {
            let (images, size) = (self.clone(), layer.size);
            blocking(move || images.spool(incoming, size))
        };
        let reading = async move {
            while let Some(frame) = tokio::time::timeout(PROGRESS, response.body_mut().frame())
                .await
                .map_err(|_| Failure::Other(format!("failed to copy: no progress for {PROGRESS:?}")))?
            {
                let frame = frame.map_err(|e| Failure::Other(format!("failed to copy: {e}")))?;
                if let Ok(data) = frame.into_data()
                    && chunks.send(data).await.is_err()
                {
                    break; // the writer says why
                }
            }
            Ok::<(), Failure>(())
        };
        let (read, written) = tokio::join!(reading, writing);
        let (mut file, found) = written?;
        read?;
        if found != layer.digest {
            return Err(StoreError::Digest { what: "a layer", found, expected: layer.digest.clone() }.into());
        }
        file.rewind().map_err(io_error("read a layer"))?;
        let (images, diff_id) = (self.clone(), diff_id.to_owned());
        blocking(move || Ok(images.add_layer(&diff_id, || Ok(Box::new(file) as Box<dyn Read>))?)).await
    }

    /// Writes a blob of at most `size` bytes to a file without a name; with its digest.
    fn spool(&self, mut incoming: mpsc::Receiver<Bytes>, size: u64) -> Result<(File, String), Failure> {
        let path = self.temporary("pull");
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .and_then(|file| std::fs::remove_file(&path).map(|()| file))
            .map_err(io_error("create a temporary file"))?;
        let (mut hash, mut length) = (Sha256::new(), 0);
        while let Some(data) = incoming.blocking_recv() {
            length += data.len() as u64;
            if length > size {
                return Err(Failure::Other(format!(
                    "failed to copy: a layer is longer than the {size} bytes stated"
                )));
            }
            hash.update(&data);
            file.write_all(&data).map_err(io_error("write a layer"))?;
        }
        Ok((file, format!("sha256:{:x}", hash.finalize())))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Failure::Other(e.to_string())))
}

fn decode(bytes: &[u8]) -> Result<Manifest, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|source| StoreError::Decode { what: "the image's manifest".into(), source }.into())
}

/// A manifest by tag or digest, with its digest.
async fn manifest(session: &Session, wanted: &str) -> Result<(String, Vec<u8>), Failure> {
    let bytes = bytes(session, &format!("manifests/{wanted}"), ACCEPT).await?;
    let found = digest_of(&bytes);
    if wanted.starts_with("sha256:") && wanted != found {
        return Err(StoreError::Digest { what: "a manifest", found, expected: wanted.into() }.into());
    }
    Ok((found, bytes))
}

async fn document(session: &Session, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
    let bytes = bytes(session, &format!("blobs/{}", descriptor.digest), "*/*").await?;
    let found = digest_of(&bytes);
    if found != descriptor.digest {
        let expected = descriptor.digest.clone();
        return Err(StoreError::Digest { what: "an image's configuration", found, expected }.into());
    }
    Ok(bytes)
}

async fn bytes(session: &Session, path: &str, accept: &str) -> Result<Vec<u8>, Failure> {
    let response = session.get(path, accept).await?;
    let body = http_body_util::Limited::new(response.into_body(), MAX_DOCUMENT).collect();
    let body = tokio::time::timeout(PROGRESS, body)
        .await
        .map_err(|_| Failure::Other(format!("failed to read {path}: not there after {PROGRESS:?}")))?;
    let body = body.map_err(|e| Failure::Other(format!("failed to read {path}: {e}")))?;
    Ok(body.to_bytes().to_vec())
}
