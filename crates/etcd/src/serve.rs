//! Listens for clients of the etcd v3 API, with or without TLS, and for those that want only its pages.
//!
//! Takes connections of a listener, ends with a token. Not here: what is said on a connection (`connection`), which
//! certificates (the caller's `rustls::ServerConfig`).

use std::sync::Arc;
use std::time::Duration;

use foundation::CancellationToken;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::{Server, connection};

/// How long a handshake may take: silent clients must not keep the others out.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted: too many files are open, most likely, and will be for a while.
const PAUSE: Duration = Duration::from_millis(100);
/// Handshakes that may be under way at once; more wait to be accepted.
const HANDSHAKES: usize = 128;

/// What is served on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The API and its pages.
    Everything,
    /// The pages alone.
    Pages,
}

/// Serves until the token is cancelled; what is open then is cut, for watches never end by themselves.
pub async fn serve(
    server: Server,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) {
    offer(Offer::Everything, server, listener, tls, stop).await;
}

/// As [`serve`], but for the pages of health and metrics only: nobody reaches the store there.
pub async fn serve_pages(
    server: Server,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) {
    offer(Offer::Pages, server, listener, tls, stop).await;
}

async fn offer(
    offer: Offer,
    server: Server,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) {
    // Dropped with the listener, and its connections with it.
    let serving = accept(offer, server, listener, tls.map(TlsAcceptor::from));
    tokio::select! {
        () = serving => {}
        () = stop.cancelled_owned() => {}
    }
}

async fn accept(offer: Offer, server: Server, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let Ok(handshake) = handshakes.clone().acquire_owned().await else { return };
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (server, tls) = (server.clone(), tls.clone());
                    connections.spawn(async move { serve_one(stream, tls, handshake, &server, offer).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the etcd API");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    handshake: OwnedSemaphorePermit,
    server: &Server,
    offer: Offer,
) {
    // Small answers must not wait for more of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client is gone already");
        return;
    }
    let Some(tls) = tls else {
        drop(handshake);
        return connection::serve(stream, server, offer).await;
    };
    let accepted = tokio::time::timeout(PATIENCE, tls.accept(stream)).await;
    drop(handshake);
    match accepted {
        Ok(Ok(stream)) => connection::serve(stream, server, offer).await,
        Ok(Err(error)) => tracing::debug!(%error, "a client's handshake failed"),
        Err(_) => tracing::debug!("a client's handshake takes too long"),
    }
}
