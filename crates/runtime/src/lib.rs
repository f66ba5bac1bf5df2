//! The embedded container runtime: serves CRI v1 on a unix socket, without anything installed beside it.
//!
//! Read first: [`Options`], [`Server`]; then [`supervisor`] (the process that outlives us, one per pod) and
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
use foundation::Tasks;
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

/// A runtime that listens and is about to serve.
pub struct Server {
    socket: std::path::PathBuf,
    service: service::Service,
    incoming: cri::Incoming,
    streams: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Server {
    /// Adopts what runs and listens, with the pod network that the CNI directories describe. Who connects from now on is
    /// answered once [`Self::serve`] runs. The runtime's own tasks belong to `tasks`.
    pub async fn open(options: Options, tasks: &Tasks) -> Result<Self, Error> {
        let network = network::Cni {
            conf_dir: options.cni_conf_dir.clone(),
            bin_dir: options.cni_bin_dir.clone(),
            cache_dir: options.state.join("cni"),
        };
        Self::open_with(options, Arc::new(network), tasks).await
    }

    /// [`Self::open`], with a pod network of the caller's.
    pub async fn open_with(
        options: Options,
        network: Arc<dyn network::Network>,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let randomness = foundation::randomness::SystemRandomness::shared();
        let socket = options.socket.clone();
        let engine = engine::Engine::open(options, network, randomness.clone(), tasks.child("runtime"))
            .await
            .map_err(|e| Error::Start(service::chain(&e)))?;
        let (streaming, streams) =
            streaming::Streaming::start(engine.clone(), randomness).await.map_err(Error::Streaming)?;
        let incoming = cri::listen(&socket)?;
        let service = service::Service { engine, streaming };
        Ok(Self { socket, service, incoming, streams: Box::pin(streams) })
    }

    /// Serves until `shutdown`. Containers go on.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let runtime = RuntimeServiceServer::new(self.service.clone());
        let images = ImageServiceServer::new(self.service);
        let server = tonic::transport::Server::builder()
            .add_service(runtime.max_decoding_message_size(cri::MAX_MESSAGE))
            .add_service(images.max_decoding_message_size(cri::MAX_MESSAGE))
            .serve_with_incoming(self.incoming);
        // Not graceful: event streams have no end, and a restarted runtime is asked again anyway.
        let result = tokio::select! {
            result = server => result,
            () = self.streams => Ok(()),
            () = shutdown.cancelled() => Ok(()),
        };
        let _ = std::fs::remove_file(&self.socket);
        Ok(result?)
    }
}
