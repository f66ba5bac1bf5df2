//! Bodies that are only passed on: to aggregated API servers, and by the proxies of nodes.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::wire::{self, Served, served};
use crate::world::PATIENCE;

const PIECE: usize = 1 << 20;
const GROUP: &str = "/apis/slow.example.com/v1";

/// What another server sees of a body.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Bytes(usize),
    End,
    Broken,
}

/// A server that tells of each piece of a POST's body as it comes.
async fn backend(identity: &wire::Identity) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    let mut config = wire::server_config(identity);
    config.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
                    let tell = tell.clone();
                    async move {
                        if request.method() == http::Method::POST {
                            follow(request.into_body(), &tell).await;
                        }
                        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(b"{}"))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, seen)
}

async fn follow(mut body: hyper::body::Incoming, tell: &mpsc::UnboundedSender<Seen>) {
    while let Some(frame) = body.frame().await {
        let seen = match frame {
            Ok(frame) => Seen::Bytes(frame.into_data().map_or(0, |data| data.len())),
            Err(_) => Seen::Broken,
        };
        let broken = seen == Seen::Broken;
        tell.send(seen).unwrap();
        if broken {
            return;
        }
    }
    tell.send(Seen::End).unwrap();
}

/// A request whose body is sent from outside.
struct Sending {
    pieces: mpsc::Sender<Bytes>,
    answer: tokio::task::JoinHandle<u16>,
}

async fn send(served: &Served, path: &str) -> Sending {
    let stream = served.connect(&[b"http/1.1"]).await;
    let (pieces, receiver) = mpsc::channel::<Bytes>(1);
    let body =
        futures::stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        );
    let body = StreamBody::new(body.map(|piece| Ok::<_, Infallible>(Frame::data(piece))).boxed());
    let (mut h1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let request = Request::post(path)
        .header("host", "localhost")
        .header("authorization", "Bearer secret")
        .header("content-type", "application/octet-stream")
        .body(body)
        .unwrap();
    let answer = tokio::spawn(async move {
        // In this task, so that its end is the connection's.
        tokio::select! {
            answer = h1.send_request(request) => answer.unwrap().status().as_u16(),
            _ = connection => 0,
        }
    });
    Sending { pieces, answer }
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    tokio::time::timeout(PATIENCE, seen.recv()).await.expect("the other server sees it in time").unwrap()
}

#[tokio::test]
async fn bodies_go_on_piece_by_piece_and_end_with_their_client() {
    let made = rcgen::generate_simple_self_signed(vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        "slow.default.svc".to_owned(),
    ])
    .unwrap();
    let authority = STANDARD.encode(made.cert.pem());
    let identity =
        wire::Identity { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() };
    let (address, mut seen) = backend(&identity).await;
    let tls = wire::client_config(&identity, &[]);
    let served = served(|options| options.kubelet = Some(tls)).await;
    let admin = &served.world.admin;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    admin.post("/api/v1/nodes", &node).await.is(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.ip()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    admin.patch("/api/v1/nodes/n1/status", "merge-patch+json", &status).await.is(200);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "slow"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    admin.post("/api/v1/namespaces/default/services", &service).await.is(201);
    let registered = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.slow.example.com"},
        "spec": {
            "group": "slow.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "caBundle": authority, "service": {"namespace": "default", "name": "slow", "port": address.port()},
        },
    });
    admin.post("/apis/apiregistration.k8s.io/v1/apiservices", &registered).await.is(201);
    admin.until(&format!("{GROUP}/things"), |answer| answer.code == 200).await;

    for path in [format!("{GROUP}/namespaces/default/things"), "/api/v1/nodes/n1/proxy/put".to_owned()] {
        // More than this server itself reads, each piece sent when the one before has arrived.
        let sending = send(&served, &path).await;
        for _ in 0..5 {
            sending.pieces.send(vec![0; PIECE].into()).await.unwrap();
            let mut arrived = 0;
            while arrived < PIECE {
                match next(&mut seen).await {
                    Seen::Bytes(count) => arrived += count,
                    other => panic!("{path}: {other:?} after {arrived} bytes"),
                }
            }
        }
        drop(sending.pieces);
        assert_eq!(next(&mut seen).await, Seen::End, "{path}");
        assert_eq!(tokio::time::timeout(PATIENCE, sending.answer).await.unwrap().unwrap(), 200, "{path}");

        // A client that goes away in between.
        let sending = send(&served, &path).await;
        sending.pieces.send(Bytes::from_static(b"begun")).await.unwrap();
        assert_eq!(next(&mut seen).await, Seen::Bytes(5), "{path}");
        sending.answer.abort();
        assert_eq!(next(&mut seen).await, Seen::Broken, "{path}");
    }
}
