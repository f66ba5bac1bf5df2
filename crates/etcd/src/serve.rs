//! Listens for clients of the etcd v3 API, with or without TLS.
//!
//! Takes connections of a listener, ends with a token. Not here: what is answered (the services), which certificates
//! (the caller's `rustls::ServerConfig`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foundation::CancellationToken;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use crate::Server;
use crate::auth::Auth;
use crate::wire::etcdserverpb::{
    cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};

/// How long a handshake may take: silent clients must not keep the others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest request in bytes: what the store takes in a transaction, and some room.
const MAX_REQUEST: usize = 10 << 20;
/// The pause after a connection could not be accepted: too many files are open, most likely, and will be for a while.
const PAUSE: Duration = Duration::from_millis(100);
/// Handshakes that may be under way at once; more wait to be accepted.
const HANDSHAKES: usize = 128;

/// Serves until the token is cancelled; open streams end then.
pub async fn serve(
    server: Server,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = Incoming {
        listener,
        tls: tls.map(TlsAcceptor::from),
        handshakes: FuturesUnordered::new(),
        pause: None,
    };
    let stopped = stop.clone();
    let router = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        // A client that has vanished without a word is noticed, and its watches end.
        .http2_keepalive_interval(Some(Duration::from_secs(7200)))
        .add_service(KvServer::new(server.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(WatchServer::new(server.clone()))
        .add_service(LeaseServer::new(server.clone()))
        .add_service(ClusterServer::new(server.clone()))
        .add_service(MaintenanceServer::new(server))
        .add_service(Auth);
    tokio::select! {
        served = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()) => served,
        // Watches never end by themselves: they are cut.
        () = stopped.cancelled_owned() => Ok(()),
    }
}

/// Connections as they are ready to be used.
pub struct Incoming {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handshakes: FuturesUnordered<BoxFuture<'static, io::Result<Connection>>>,
    /// Until when nobody is accepted.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.handshakes.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(connection))) => return Poll::Ready(Some(Ok(connection))),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a client's handshake failed");
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.handshakes.len() >= HANDSHAKES {
                return Poll::Pending;
            }
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept a client of the etcd API");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                Poll::Ready(Ok((stream, _))) => {
                    // Small answers must not wait for more of them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a client is gone already");
                        continue;
                    }
                    let Some(acceptor) = self.tls.clone() else {
                        return Poll::Ready(Some(Ok(Connection::Plain(stream))));
                    };
                    self.handshakes.push(Box::pin(async move {
                        let accepted = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await;
                        let stream = accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                        Ok(Connection::Tls(Box::new(stream)))
                    }));
                }
            }
        }
    }
}

/// A client's connection.
pub enum Connection {
    /// As it came.
    Plain(TcpStream),
    /// Inside TLS.
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
