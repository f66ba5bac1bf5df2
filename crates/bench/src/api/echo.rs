//! What the bytes cost alone: a server with the API server's certificate and HTTP library that reads a body and answers
//! with as many bytes as the path says.

use std::{convert::Infallible, path::Path, sync::Arc, thread};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A running echo; it ends with the process.
pub struct Echo {
    /// Where it listens, on every address.
    pub port: u16,
}

/// Starts an echo with the serving certificate found in a PKI folder, on threads of its own.
pub fn start(pki: &Path) -> anyhow::Result<Echo> {
    let chain = CertificateDer::pem_file_iter(pki.join("apiserver.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key"))?;
    let mut tls = rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    // Bound on this thread, which is in the measurement's network namespace; its workers need not be.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").context("the echo cannot listen")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    // As many workers as the API server has.
    let workers = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let event_loop =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    thread::spawn(move || {
        event_loop.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), stream));
            }
        });
    });
    Ok(Echo { port })
}

async fn serve(acceptor: TlsAcceptor, stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
        let size = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        // A body that breaks off ends the connection, and the measuring client says so.
        let _ = request.into_body().collect().await;
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(vec![b' '; size]))))
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
