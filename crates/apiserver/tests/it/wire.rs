//! Over TCP and TLS: both HTTP versions, tokens, expired tokens, a tunnel to a kubelet, orderly shutdown.

use std::sync::Arc;
use std::time::Duration;

use apiserver::authn::StaticToken;
use apiserver::{ApiServer, User};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, pod};

pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: Vec<u8>,
}

pub fn identity() -> Identity {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    Identity { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
}

pub fn server_config(identity: &Identity) -> rustls::ServerConfig {
    server_config_with(identity, rustls::server::WebPkiClientVerifier::no_client_auth())
}

fn server_config_with(
    identity: &Identity,
    verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
) -> rustls::ServerConfig {
    let key = PrivatePkcs8KeyDer::from(identity.key.clone());
    let mut config = foundation::tls::server()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

pub fn client_config(identity: &Identity, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.certificate.clone()).unwrap();
    let mut config = foundation::tls::client().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Arc::new(config)
}

pub struct Served {
    pub world: World,
    identity: Identity,
    address: std::net::SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

pub async fn served(change: impl FnOnce(&mut apiserver::Options)) -> Served {
    served_as(server_config, change).await
}

async fn served_as(
    config: impl FnOnce(&Identity) -> rustls::ServerConfig,
    change: impl FnOnce(&mut apiserver::Options),
) -> Served {
    let world = World::with(|options| {
        options.authn.static_tokens =
            vec![StaticToken { token: "secret".into(), user: User::new("admin", &[User::MASTERS]) }];
        change(options);
    })
    .await;
    let identity = identity();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Arc::new(ArcSwap::from_pointee(config(&identity)));
    let server: ApiServer = world.server.clone();
    let serving = tokio::spawn(async move { server.serve(listener, tls).await });
    Served { world, identity, address, serving }
}

pub type Tls = tokio_rustls::client::TlsStream<TcpStream>;

impl Served {
    pub async fn connect(&self, alpn: &[&[u8]]) -> Tls {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let config = client_config(&self.identity, alpn);
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap()
    }
}

fn request(path: &str, token: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .uri(format!("https://localhost{path}"))
        .header(header::HOST, "localhost")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn both_http_versions_are_spoken() {
    let served = served(|_| {}).await;
    let stream = served.connect(&[b"h2"]).await;
    let (mut h2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let stream = served.connect(&[b"http/1.1"]).await;
    let (mut h1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let path = "/api/v1/namespaces/default";
        assert_eq!(h2.send_request(request(path, "secret")).await.unwrap().status(), 200);
        let answer = h1.send_request(request(path, "secret")).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        let refused = h1.send_request(request(path, "wrong")).await.unwrap();
        assert_eq!(refused.status(), 401);
        let body = refused.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["reason"], &body["message"]), (&json!("Unauthorized"), &json!("Unauthorized")));
    }
    // Health is open to everyone; the rest is not.
    let mut open = request("/healthz", "");
    open.headers_mut().remove(header::AUTHORIZATION);
    let answer = h1.send_request(open).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
    let mut closed = request("/api/v1/secrets", "");
    closed.headers_mut().remove(header::AUTHORIZATION);
    assert!(matches!(h1.send_request(closed).await.unwrap().status().as_u16(), 401 | 403));
}

#[tokio::test]
async fn a_watch_ends_and_open_connections_close_when_the_server_stops() {
    let served = served(|_| {}).await;
    let stream = served.connect(&[b"http/1.1"]).await;
    let (mut h1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let watch = h1.send_request(request("/api/v1/configmaps?watch=1", "secret")).await.unwrap();
    served.world.tasks.shutdown(Duration::from_secs(10)).await;
    tokio::time::timeout(crate::world::PATIENCE, async {
        watch.into_body().collect().await.unwrap();
        served.serving.await.unwrap();
        let _ = connection.await;
    })
    .await
    .expect("everything ends in time");
    assert!(TcpStream::connect(served.address).await.is_err());
}

/// A kubelet that answers logs (none of a container before), and turns exec into an echo.
pub async fn kubelet(identity: &Identity) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = server_config(identity);
    config.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service =
                    hyper::service::service_fn(|mut request: Request<hyper::body::Incoming>| async move {
                        let asked = request.uri().to_string();
                        assert!(
                            request.headers().get(header::AUTHORIZATION).is_none(),
                            "the client's token stays here"
                        );
                        if asked.contains("previous=true") {
                            let answer = http::Response::builder().status(400);
                            return Ok(answer.body(Full::new(Bytes::from("there is none"))).unwrap());
                        }
                        if !asked.starts_with("/exec/") {
                            return Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(
                                Bytes::from(asked),
                            )));
                        }
                        let upgrade = hyper::upgrade::on(&mut request);
                        tokio::spawn(async move {
                            let (mut read, mut write) =
                                tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                            tokio::io::copy(&mut read, &mut write).await
                        });
                        let response = http::Response::builder()
                            .status(101)
                            .header("connection", "Upgrade")
                            .header("upgrade", "websocket")
                            .header("x-asked", asked);
                        Ok(response.body(Full::default()).unwrap())
                    });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                let _ = connection.await;
            });
        }
    });
    port
}

/// Pod `p` on a node `n1` whose kubelet is at this port.
pub async fn pod_on(admin: &crate::world::User_, port: u16) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    admin.post("/api/v1/nodes", &node).await.is(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    admin.patch("/api/v1/nodes/n1/status", "merge-patch+json", &status).await.is(200);
    let mut body = pod("p");
    body["spec"]["nodeName"] = "n1".into();
    admin.post("/api/v1/namespaces/default/pods", &body).await.is(201);
}

#[tokio::test]
async fn logs_and_exec_pass_through_to_the_kubelet() {
    let kubelet_identity = identity();
    let port = kubelet(&kubelet_identity).await;
    let tls = client_config(&kubelet_identity, &[]);
    let served = served(|options| options.kubelet = Some(tls)).await;
    let admin = &served.world.admin;
    pod_on(admin, port).await;

    let log = admin.get("/api/v1/namespaces/default/pods/p/log?tailLines=3&follow=true").await.is(200);
    assert_eq!(log.bytes, "/containerLogs/default/p/c?tailLines=3&follow=true");
    assert_eq!(log.headers[header::CONTENT_TYPE], "text/plain");
    let none = admin.get("/api/v1/namespaces/default/pods/p/log?previous=true").await.is(400);
    assert_eq!((none.text("/reason"), none.message()), ("BadRequest", "there is none"));
    let wrong = admin.get("/api/v1/namespaces/default/pods/p/log?tailLines=-1").await.is(422);
    assert_eq!(
        wrong.message(),
        "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
    );
    let proxied = admin.get("/api/v1/nodes/n1/proxy/stats/summary?x=y").await.is(200);
    assert_eq!(proxied.bytes, "/stats/summary?x=y");
    let slash = admin.get("/api/v1/nodes/n1/proxy?x=y").await.is(301);
    assert_eq!(slash.headers[header::LOCATION], "/api/v1/nodes/n1/proxy/?x=y");
    let same = admin.get(&format!("/api/v1/nodes/n1:{port}/proxy/pods")).await.is(200);
    assert_eq!(same.bytes, "/pods");
    // Another port is another server: no credentials, and no way to this machine's own.
    let other = admin.get(&format!("/api/v1/nodes/https:n1:{}/proxy/pods", port ^ 1)).await.is(400);
    assert_eq!(other.message(), "address not allowed");

    let path = "/api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&stdin=true&stdout=true";
    let mut exec = request(path, "secret");
    exec.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    exec.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let stream = served.connect(&[b"http/1.1"]).await;
    let (mut h1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let answer = h1.send_request(exec).await.unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["x-asked"], "/exec/default/p/c?command=sh&command=-c&input=true&output=true");
    let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    tunnel.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    tunnel.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");

    // And the same from within the process.
    let mut exec = Request::builder().uri(path).body(Bytes::new()).unwrap();
    exec.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    exec.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let answer = admin.send(exec).await;
    assert_eq!(answer.status(), 101);
    let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    tunnel.write_all(b"again").await.unwrap();
    tunnel.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"again");
    let running = "apiserver_longrunning_requests{verb=\"CONNECT\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"exec\",";
    let metrics = admin.get("/metrics").await.is(200);
    let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let count =
        metrics.lines().find(|line| line.starts_with(running)).and_then(|line| line.rsplit(' ').next());
    assert!(count.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 0), "{count:?}");

    // A kubelet that is gone: nobody listens where it was.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let status = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": gone}}}});
    admin.patch("/api/v1/nodes/n1/status", "merge-patch+json", &status).await.is(200);
    let refused = format!("dial tcp 127.0.0.1:{gone}: connect: connection refused");
    let shown = admin.get("/api/v1/nodes/n1/proxy/pods").await.is(503);
    assert_eq!(shown.message(), format!("error trying to reach service: {refused}"));
}

/// What comes back first for a request that is written as it is.
async fn answered(stream: &mut Tls, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; "HTTP/1.1 200".len()];
    let read = stream.read_exact(&mut head);
    tokio::time::timeout(crate::world::PATIENCE, read).await.expect("an answer in time").unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_body_that_never_comes_holds_nothing_up() {
    let served = served(|options| options.request_timeout = Duration::from_secs(3)).await;
    let announced = "Host: localhost\r\nAuthorization: Bearer secret\r\nContent-Length: 10\r\n\r\n";
    for (line, answer) in [
        // Nobody looks at the body of a read.
        ("GET /api/v1/configmaps?watch=1", "HTTP/1.1 200"),
        ("GET /api/v1/configmaps", "HTTP/1.1 200"),
        ("GET /version", "HTTP/1.1 200"),
        // Elsewhere it has as long as a request may take.
        ("POST /api/v1/namespaces/default/configmaps", "HTTP/1.1 504"),
        // What is passed on is not waited for before it is known to whom.
        ("POST /api/v1/namespaces/default/pods/p/proxy/", "HTTP/1.1 404"),
    ] {
        let mut stream = served.connect(&[b"http/1.1"]).await;
        assert_eq!(answered(&mut stream, &format!("{line} HTTP/1.1\r\n{announced}")).await, answer, "{line}");
    }
}

#[tokio::test]
async fn a_watcher_that_stops_reading_is_ended_and_the_others_go_on() {
    let served = served(|options| options.reader_patience = Duration::from_millis(100)).await;
    let admin = &served.world.admin;
    // A kind that no other test of this process watches: the count below is the process's.
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let watching = |count: u32| {
        let of = "apiserver_longrunning_requests{verb=\"WATCH\",group=\"apps\",version=\"v1\",resource=\"controllerrevisions\",\
                  subresource=\"\",scope=\"namespace\",component=\"apiserver\"}";
        let line = format!("{of} {count}\n");
        move |answer: &crate::world::Answer| {
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert!(text.contains(of), "{text}");
            text.contains(&line)
        }
    };
    let mut good = admin.watch(&format!("{path}?watch=1")).await;
    // It reads all the time, whatever else happens.
    let (seen, mut names) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = good.next().await {
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if seen.send(name).is_err() {
                return;
            }
        }
    });
    // The system takes little for a client that does not read.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(served.address).await.unwrap();
    let config = client_config(&served.identity, &[b"http/1.1"]);
    let name = ServerName::try_from("localhost").unwrap();
    let mut stuck = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let head = "Host: localhost\r\nAuthorization: Bearer secret\r\n\r\n";
    assert_eq!(answered(&mut stuck, &format!("GET {path}?watch=1 HTTP/1.1\r\n{head}")).await, "HTTP/1.1 200");
    admin.until("/metrics", watching(2)).await;
    let large = "x".repeat(1 << 20);
    let mut number = 0;
    let mut made = async |number: u32| {
        let name = format!("r{number}");
        let body = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": name},
            "revision": 1, "data": {"x": large}});
        admin.post(path, &body).await.is(201);
        let event = tokio::time::timeout(crate::world::PATIENCE, names.recv());
        assert_eq!(event.await.expect("an event in time"), Some(name));
    };
    while number < 8 {
        number += 1;
        made(number).await;
    }
    admin.until("/metrics", watching(1)).await;
    // Its connection ends with it: when the client reads at last there is an end, after what was on the way.
    let mut on_the_way = Vec::new();
    let ended = tokio::time::timeout(crate::world::PATIENCE, stuck.read_to_end(&mut on_the_way)).await;
    let _ = ended.expect("the server ends the connection");
    made(number + 1).await;
}

#[tokio::test]
async fn a_client_that_is_to_go_away_connects_anew() {
    let served = served(|options| options.goaway_chance = 1.0).await;
    let stream = served.connect(&[b"h2"]).await;
    let (mut h2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = h2.send_request(request("/api/v1/namespaces/default", "secret")).await.unwrap();
    assert_eq!(answer.status(), 200, "what was asked is still answered");
    answer.into_body().collect().await.unwrap();
    let ended = tokio::time::timeout(crate::world::PATIENCE, connection).await;
    ended.expect("the server ends the connection").unwrap().unwrap();
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read() {
    let expressions = ["^https://good\\.example$".to_owned()];
    let world = World::with(|options| options.cors = apiserver::Cors::new(&expressions).unwrap()).await;
    let ask = async |method: http::Method, origin: &str| {
        world.admin.ask(method, "/api/v1/namespaces/default", &[("origin", origin)], "").await
    };
    let allowed = |answer: &crate::world::Answer| {
        let header = answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        header.map(|value| value.to_str().unwrap().to_owned())
    };
    let good = ask(http::Method::GET, "https://good.example").await.is(200);
    assert_eq!(allowed(&good).as_deref(), Some("https://good.example"));
    assert_eq!(good.headers[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    let before = ask(http::Method::OPTIONS, "https://good.example").await.is(204);
    assert!(before.bytes.is_empty() && allowed(&before).is_some());
    let bad = ask(http::Method::GET, "https://good.example.evil.org").await.is(200);
    assert_eq!(allowed(&bad), None);
    assert_ne!(ask(http::Method::OPTIONS, "https://evil.org").await.code, 204);
}

/// What an authority certifies about a client until a year, with the client's key.
fn certified(
    authority: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    until: i32,
) -> (CertificateDer<'static>, Vec<u8>) {
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    let key = rcgen::KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().der().clone(), key.serialize_der())
}

fn authority(name: &str) -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn a_certificate_that_is_no_good_does_not_keep_a_good_token_out() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let known: CertificateDer<'static> = ours.der().clone();
    let (asks, trusts) = (known.clone(), known);
    let served = served_as(
        |identity| server_config_with(identity, apiserver::authn::tls_verifier(&[asks])),
        |options| options.authn.client_authorities = vec![trusts],
    )
    .await;
    for (what, (certificate, key), token, want) in [
        ("good", certified(&ours, 2200), None, 200),
        ("expired", certified(&ours, 2021), None, 401),
        ("of nobody known", certified(&theirs, 2200), None, 401),
        ("expired, and a token", certified(&ours, 2021), Some("secret"), 200),
        ("of nobody known, and a token", certified(&theirs, 2200), Some("secret"), 200),
        ("expired, and a wrong token", certified(&ours, 2021), Some("wrong"), 401),
    ] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(served.identity.certificate.clone()).unwrap();
        // Whatever the server says whom it would know: this client shows what it has.
        let signing = rustls::crypto::ring::sign::any_supported_type(&PrivatePkcs8KeyDer::from(key).into());
        let shown = rustls::sign::CertifiedKey::new(vec![certificate], signing.unwrap());
        let mut config = foundation::tls::client()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(served.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut http, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut asked = request("/api/v1/namespaces/default", token.unwrap_or_default());
        if token.is_none() {
            asked.headers_mut().remove(header::AUTHORIZATION);
        }
        assert_eq!(http.send_request(asked).await.unwrap().status(), want, "{what}");
    }
}
