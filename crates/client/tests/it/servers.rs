//! The transport over several servers, against servers on real sockets that come and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use bytes::Bytes;
use client::{Identity, ManyServers, ManyServersOptions, Transport, TransportError};
use foundation::{CancellationToken, SeededRandomness, SystemClock};
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The authority of servers and clients.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { issuer: rcgen::Issuer::new(params, key), certificate }
    }

    /// A certificate and its key.
    fn issue(&self, names: &[&str]) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client's, and what servers see of it.
    fn client(&self) -> (Identity, Vec<u8>) {
        let (certificate, key) = self.issue(&["client"]);
        let identity = Identity::ClientCertificate {
            certificate_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        };
        (identity, certificate.der().to_vec())
    }
}

/// A server, which tells its name, and ends with its value.
struct Server {
    name: &'static str,
    url: String,
    /// Status that it answers with; 0 breaks the connection in place of an answer.
    status: Arc<AtomicU16>,
    /// Requests that have reached it.
    requests: Arc<AtomicU32>,
    /// What the last client showed.
    client: Arc<parking_lot::Mutex<Option<Vec<u8>>>>,
    end: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Server {
    async fn start(authority: &Authority, name: &'static str) -> Server {
        let provider = foundation::tls::provider();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = authority.issue(&["127.0.0.1"]);
        let mut config = foundation::tls::server()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = Server {
            name,
            url,
            status: Arc::new(AtomicU16::new(200)),
            requests: Arc::default(),
            client: Arc::default(),
            end: CancellationToken::new(),
        };
        let (status, requests) = (server.status.clone(), server.requests.clone());
        let (seen, end) = (server.client.clone(), server.end.clone());
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                let (status, requests, broken) = (status.clone(), requests.clone(), CancellationToken::new());
                let cut = broken.clone();
                let connection = async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certificates = stream.get_ref().1.peer_certificates();
                    *seen.lock() = certificates.map(|chain: &[CertificateDer<'_>]| chain[0].to_vec());
                    let answer = service_fn(move |_| {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let (status, cut) = (status.load(Ordering::SeqCst), cut.clone());
                        async move {
                            if status == 0 {
                                cut.cancel();
                                std::future::pending::<()>().await;
                            }
                            let answer = http::Response::builder().status(status);
                            Ok::<_, std::convert::Infallible>(answer.body(Full::<Bytes>::from(name)).unwrap())
                        }
                    });
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                };
                let end = end.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = end.cancelled() => {}
                        () = broken.cancelled() => {}
                    }
                });
            }
        };
        let end = server.end.clone();
        tokio::spawn(async move {
            tokio::select! { () = accept => {}, () = end.cancelled() => {} }
        });
        server
    }

    fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Ends it, and returns once nobody listens any more.
    async fn stop(self) {
        let address = self.url.trim_start_matches("https://").to_owned();
        drop(self);
        let gone = async {
            while tokio::net::TcpStream::connect(&address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, gone).await.expect("nobody listens any more");
    }
}

fn transport(authority: &Authority, servers: &[&Server], seed: u64) -> ManyServers {
    let options = ManyServersOptions {
        servers: servers.iter().map(|server| server.url.clone()).collect(),
        last_resort: Vec::new(),
        ca_pem: authority.certificate.pem().into_bytes(),
        identity: Identity::None,
        clock: SystemClock::shared(),
        randomness: Arc::new(SeededRandomness::new(seed)),
    };
    ManyServers::new(options).unwrap()
}

async fn ask(transport: &ManyServers, method: Method) -> Result<(u16, String), TransportError> {
    let request = http::Request::builder().method(method).uri("/x").body(Bytes::new()).unwrap();
    let answer = transport.send(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

async fn answerer(transport: &ManyServers, method: Method) -> String {
    ask(transport, method).await.unwrap().1
}

#[tokio::test]
async fn clients_spread_and_each_keeps_its_server() {
    let authority = Authority::new();
    let servers = (Server::start(&authority, "a").await, Server::start(&authority, "b").await);
    let mut used = BTreeSet::new();
    for seed in 0..12 {
        let transport = transport(&authority, &[&servers.0, &servers.1], seed);
        let first = answerer(&transport, Method::GET).await;
        assert_eq!(answerer(&transport, Method::POST).await, first);
        used.insert(first);
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn a_server_that_is_gone_is_left_at_once() {
    let authority = Authority::new();
    for method in [Method::GET, Method::POST] {
        let (a, b) = (Server::start(&authority, "a").await, Server::start(&authority, "b").await);
        let transport = transport(&authority, &[&a, &b], 1);
        let first = answerer(&transport, Method::GET).await;
        let (gone, other) = if first == a.name { (a, b) } else { (b, a) };
        gone.stop().await;
        // Refused, so a write has not been carried out either.
        assert_eq!(answerer(&transport, method).await, other.name);
        other.stop().await;
        let error = ask(&transport, Method::GET).await.unwrap_err();
        assert!(matches!(error, TransportError::Connect { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_write_that_may_have_been_carried_out_is_not_sent_again() {
    let authority = Authority::new();
    for (method, again) in [(Method::GET, true), (Method::POST, false), (Method::PUT, false)] {
        let (a, b) = (Server::start(&authority, "a").await, Server::start(&authority, "b").await);
        let transport = transport(&authority, &[&a, &b], 2);
        let first = answerer(&transport, Method::GET).await;
        let (breaks, other) = if first == a.name { (&a, &b) } else { (&b, &a) };
        breaks.says(0);
        let before = (breaks.requests(), other.requests());
        let outcome = ask(&transport, method.clone()).await;
        match again {
            true => assert_eq!(outcome.unwrap().1, other.name),
            false => assert!(matches!(outcome, Err(TransportError::Exchange(_))), "{outcome:?}"),
        }
        let after = (breaks.requests() - before.0, other.requests() - before.1);
        assert_eq!(after, (1, u32::from(again)), "{method}");
        // And what comes next does not go there.
        assert_eq!(answerer(&transport, method).await, other.name);
    }
}

#[tokio::test]
async fn a_server_that_cannot_serve_is_left_too() {
    let authority = Authority::new();
    let (a, b) = (Server::start(&authority, "a").await, Server::start(&authority, "b").await);
    let transport = transport(&authority, &[&a, &b], 3);
    let first = answerer(&transport, Method::GET).await;
    let (unwell, other) = if first == a.name { (&a, &b) } else { (&b, &a) };
    unwell.says(503);
    assert_eq!(ask(&transport, Method::POST).await.unwrap().0, 503, "a write is its sender's to repeat");
    assert_eq!(ask(&transport, Method::POST).await.unwrap(), (200, other.name.to_owned()));
    other.says(503);
    assert_eq!(ask(&transport, Method::GET).await.unwrap().0, 503, "all of them say so");
}

#[tokio::test]
async fn servers_are_learnt_while_it_runs() {
    let authority = Authority::new();
    let (a, b) = (Server::start(&authority, "a").await, Server::start(&authority, "b").await);
    let transport = transport(&authority, &[&a], 4);
    assert_eq!(answerer(&transport, Method::GET).await, "a");
    transport.set_servers(&[a.url.clone(), b.url.clone()]).unwrap();
    a.stop().await;
    assert_eq!(answerer(&transport, Method::GET).await, "b");
    transport.set_servers(&[]).unwrap();
    assert_eq!(answerer(&transport, Method::GET).await, "b", "the last list is better than none");
    assert!(matches!(transport.set_servers(&["b".to_owned()]), Err(TransportError::Invalid(_))));
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let authority = Authority::new();
    let server = Server::start(&authority, "a").await;
    let transport = transport(&authority, &[&server], 5);
    let seen = || server.client.lock().clone();
    assert_eq!((answerer(&transport, Method::GET).await.as_str(), seen()), ("a", None));
    for _ in 0..2 {
        let (identity, certificate) = authority.client();
        transport.set_identity(identity).unwrap();
        assert_eq!(answerer(&transport, Method::GET).await, "a");
        assert_eq!(seen(), Some(certificate));
    }
    let broken = Identity::ClientCertificate { certificate_pem: b"x".to_vec(), key_pem: Vec::new() };
    assert!(matches!(transport.set_identity(broken), Err(TransportError::Invalid(_))));
    assert_eq!(answerer(&transport, Method::GET).await, "a");
}
