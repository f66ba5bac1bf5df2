//! The embedded container runtime: serves CRI v1 on a unix socket, without anything installed beside it.
//!
//! Read first: [`Options`], [`serve`]; then [`supervisor`] (the process that outlives us, one per pod) and
//! `wire` (what the two say to each other); `engine` (pods and containers), [`images`] (the image store).
//! The launcher that makes the actual processes is in `sys::container`.
//!
//! Two kinds of processes run this crate's code. The runtime (in `ironclad server`, on tokio) holds no
//! container: it may be killed and restarted at any time. The supervisor (the same program, re-executed once
//! as the nursery and forked for each pod) has one thread and is all that a pod needs to go on.
//!
//! To add something about how containers are made: `spec` decides it (pure), `sys::container` does it.
//!
//! Invariants: nothing here talks to the API server; a container's end is on disk before anybody is told;
//! what the host forbids is logged once and the pod still runs.
//!
//! Upstream: containerd's CRI plugin and runc, by behaviour.

mod engine;
pub mod images;
mod link;
pub mod network;
mod nursery;
mod options;
mod service;
mod signals;
mod spec;
mod stats;
mod streaming;
pub mod supervisor;
mod sysctl;
mod uninstall;
mod users;
mod wire;

use std::sync::Arc;

use cri::v1::image_service_server::ImageServiceServer;
use cri::v1::runtime_service_server::RuntimeServiceServer;
pub use options::Options;
use tokio_util::sync::CancellationToken;
pub use uninstall::uninstall;

/// Why the runtime could not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine could not start.
    #[error("start the container runtime: {0}")]
    Start(String),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] cri::Error),
    /// The streaming server.
    #[error("start the streaming server")]
    Streaming(#[source] std::io::Error),
    /// The gRPC server.
    #[error("serve the container runtime interface")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves until `shutdown`; with the pod network that the CNI directories describe. Containers go on.
pub async fn serve(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let network = network::Cni {
        conf_dir: options.cni_conf_dir.clone(),
        bin_dir: options.cni_bin_dir.clone(),
        cache_dir: options.state.join("cni"),
    };
    serve_with(options, Arc::new(network), shutdown).await
}

/// [`serve`], with a pod network of the caller's.
pub async fn serve_with(
    options: Options,
    network: Arc<dyn network::Network>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let randomness = foundation::randomness::SystemRandomness::shared();
    let socket = options.socket.clone();
    let engine = engine::Engine::open(options, network, randomness.clone())
        .await
        .map_err(|e| Error::Start(service::chain(&e)))?;
    let (streaming, streams) =
        streaming::Streaming::start(engine.clone(), randomness).await.map_err(Error::Streaming)?;
    let service = service::Service { engine, streaming };
    let incoming = cri::listen(&socket)?;
    let server = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(service.clone()).max_decoding_message_size(cri::MAX_MESSAGE))
        .add_service(ImageServiceServer::new(service).max_decoding_message_size(cri::MAX_MESSAGE))
        .serve_with_incoming(incoming);
    // Not graceful: event streams have no end, and a restarted runtime is asked again anyway.
    let result = tokio::select! {
        result = server => result,
        () = streams => Ok(()),
        () = shutdown.cancelled() => Ok(()),
    };
    let _ = std::fs::remove_file(&socket);
    Ok(result?)
}
