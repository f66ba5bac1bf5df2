//! The Container Runtime Interface (CRI) v1: the one door between a kubelet and a container runtime.
//!
//! Read first: [`v1`], the messages with the clients ([`RuntimeClient`], [`ImageClient`]) and the server
//! traits generated from `proto/cri.proto`; then [`connect`] (client side) and [`listen`] (server side),
//! both over a unix socket.
//!
//! This crate moves messages. What they mean is decided by `kubelet` (the caller) and by `runtime`,
//! containerd or CRI-O (the callee).
//!
//! To follow a new upstream release: add the fields to `proto/cri.proto`, then run
//! `cargo run -p cri --example generate` and commit both files.
//!
//! Upstream: staging/src/k8s.io/cri-api.

mod counted;

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// Messages, clients and server traits of the package `runtime.v1`.
#[expect(missing_docs, reason = "generated; the proto file is the documentation")]
#[allow(clippy::all, reason = "generated")]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/runtime.v1.rs");
}

pub use counted::{Counted, Observer};
pub use v1::image_service_client::ImageServiceClient;
pub use v1::runtime_service_client::RuntimeServiceClient;

/// Client of the runtime half of CRI.
pub type RuntimeClient = RuntimeServiceClient<Counted>;
/// Client of the image half of CRI.
pub type ImageClient = ImageServiceClient<Counted>;

/// Upstream's limit of one CRI message, in bytes (`maxMsgSize` of the kubelet's client).
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Why a CRI socket could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("connect to the container runtime at {path}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// The socket could not be made.
    #[error("listen on {path}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
}

/// Both clients of one runtime; they share a connection and are cheap to clone.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Pods and containers.
    pub runtime: RuntimeClient,
    /// Images.
    pub images: ImageClient,
}

/// Strips the `unix://` that CRI endpoints carry upstream; a plain path passes through.
pub fn socket_path(endpoint: &str) -> PathBuf {
    PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

/// A channel to the runtime at a unix socket. The connection is tried now, and made anew by itself
/// when the runtime was restarted.
pub async fn channel(path: impl AsRef<Path>) -> Result<Channel, Error> {
    let path = path.as_ref().to_owned();
    let target = path.clone();
    // The URI is only the `:authority` of the requests. containerd and CRI-O refuse a path there.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let target = target.clone();
            async move { tokio::net::UnixStream::connect(target).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| Error::Connect { path, source })
}

/// Clients of the runtime at a unix socket (a path, without `unix://`; see [`socket_path`]).
pub async fn connect(path: impl AsRef<Path>) -> Result<Clients, Error> {
    connect_observed(path, None).await
}

/// As [`connect`], with every call told to `observer`.
pub async fn connect_observed(path: impl AsRef<Path>, observer: Option<Observer>) -> Result<Clients, Error> {
    let channel = Counted::new(channel(path).await?, observer);
    Ok(Clients {
        runtime: RuntimeClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
        images: ImageClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
    })
}

/// Connections of clients, for `tonic::transport::Server::serve_with_incoming`.
pub type Incoming = tokio_stream::wrappers::UnixListenerStream;

/// Listens on a unix socket that only root may use (mode 0600 after the bind, directory made if
/// missing). A socket file left by a dead process is replaced; one that answers is an error.
pub fn listen(path: impl AsRef<Path>) -> Result<Incoming, Error> {
    let path = path.as_ref();
    let fail = |source| Error::Listen { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(fail(std::io::ErrorKind::AddrInUse.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path).map_err(fail)?,
    }
    let listener = tokio::net::UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(fail)?;
    Ok(Incoming::new(listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_may_carry_the_unix_scheme() {
        for (endpoint, path) in [
            ("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock"),
            ("/run/runtime.sock", "/run/runtime.sock"),
        ] {
            assert_eq!(socket_path(endpoint), Path::new(path));
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("ironclad-cri-{}", std::process::id()));
        let socket = dir.join("cri.sock");
        let first = listen(&socket).expect("first listener");
        assert!(matches!(listen(&socket), Err(Error::Listen { .. })));
        drop(first);
        assert!(socket.exists(), "the file outlives its listener");
        listen(&socket).expect("stale file replaced");
        std::fs::remove_dir_all(&dir).expect("clean up");
    }

    #[tokio::test]
    async fn nobody_home_is_an_error_that_names_the_socket() {
        let error = connect("/nonexistent/cri.sock").await.expect_err("no socket");
        assert!(error.to_string().contains("/nonexistent/cri.sock"), "{error}");
    }
}
