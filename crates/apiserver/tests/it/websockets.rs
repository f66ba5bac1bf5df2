//! What the server streams itself, over WebSockets as pages in browsers open them.

use base64::Engine as _;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::wire::{client_config, identity, kubelet, pod_on};
use crate::world::{PATIENCE, User_, World, config_map};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A handshake as browsers make it.
fn handshake(path: &str, more: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::builder()
        .uri(path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::ORIGIN, "https://ui.example")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    request.body(Bytes::new()).unwrap()
}

async fn open(user: &User_, path: &str, more: &[(&str, &str)]) -> Socket {
    let answer = user.send(handshake(path, more)).await;
    assert_eq!(answer.status(), 101, "{path}");
    // The answer to this key is in RFC 6455.
    assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let wanted =
        more.iter().find(|(name, _)| *name == "sec-websocket-protocol").map(|(_, protocol)| *protocol);
    let chosen =
        answer.headers().get(header::SEC_WEBSOCKET_PROTOCOL).map(|protocol| protocol.to_str().unwrap());
    assert_eq!(chosen, wanted);
    let connection = hyper::upgrade::on(answer).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Client, None).await
}

/// The next message; `None` at the end.
async fn next(socket: &mut Socket) -> Option<Message> {
    match tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message in time")?.unwrap() {
        Message::Close(_) => None,
        message => Some(message),
    }
}

#[tokio::test]
async fn every_event_of_a_watch_is_one_message() {
    let world = World::new().await;
    let admin = &world.admin;
    let path = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b"] {
        admin.post(path, &config_map(name)).await.is(201);
    }
    let watch = format!("{path}?watch=1");
    let mut text = open(admin, &watch, &[("sec-websocket-protocol", "base64.binary.k8s.io")]).await;
    let protobuf = "application/vnd.kubernetes.protobuf;stream=watch";
    let mut binary = open(admin, &watch, &[("accept", protobuf)]).await;
    // What the client says means nothing, but a ping is answered.
    text.send(Message::text("hello")).await.unwrap();
    text.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
    admin.post(path, &config_map("c")).await.is(201);
    let (mut names, mut pongs) = (Vec::new(), 0);
    while names.len() < 3 || pongs == 0 {
        match next(&mut text).await.expect("more messages") {
            Message::Text(event) => {
                let event: Value = serde_json::from_str(&event).unwrap();
                assert_eq!(event["type"], "ADDED");
                names.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
            }
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }

    names.sort();
    assert_eq!(names.last().unwrap(), "c");
    let Some(Message::Binary(event)) = next(&mut binary).await else { panic!("protobuf is binary") };
    // No length in front: the first field of the event, its type.
    assert_eq!(&event[..7], b"\x0a\x05ADDED");
    text.close(None).await.unwrap();
    while next(&mut text).await.is_some() {}
}

#[tokio::test]
async fn a_watch_is_opened_by_pages_only_and_errors_are_answers() {
    let world = World::new().await;
    let path = "/api/v1/namespaces/default/configmaps?watch=1";
    let mut request = handshake(path, &[]);
    request.headers_mut().remove(header::ORIGIN);
    assert_eq!(world.admin.send(request).await.status(), 403);
    assert_eq!(world.user("nobody", &[]).send(handshake(path, &[])).await.status(), 403);
    let late = format!("{path}&resourceVersion=x");
    assert_eq!(world.admin.send(handshake(&late, &[])).await.status(), 400);
}

/// Conformance: [sig-node] Pods should support retrieving logs from the container over websockets [NodeConformance] [Conformance]
#[tokio::test]
async fn a_log_is_read_over_a_websocket() {
    let identity = identity();
    let port = kubelet(&identity).await;
    let tls = client_config(&identity, &[]);
    let world = World::with(|options| options.kubelet = Some(tls)).await;
    pod_on(&world.admin, port).await;
    let path = "/api/v1/namespaces/default/pods/p/log?tailLines=3";
    let said = "/containerLogs/default/p/c?tailLines=3";
    for protocol in ["", "binary.k8s.io", "base64.binary.k8s.io"] {
        let offer = [("sec-websocket-protocol", protocol)];
        let mut socket = open(&world.admin, path, &offer[..usize::from(!protocol.is_empty())]).await;
        let mut log = Vec::new();
        let mut messages = 0;
        while let Some(message) = next(&mut socket).await {
            messages += 1;
            let piece = match message {
                Message::Binary(piece) => piece.to_vec(),
                Message::Text(piece) => {
                    assert_eq!(protocol, "base64.binary.k8s.io");
                    base64::engine::general_purpose::STANDARD.decode(piece.as_str()).unwrap()
                }
                other => panic!("{other:?}"),
            };
            assert!(messages > 1 || piece.is_empty(), "the first message is empty");
            log.extend(piece);
        }
        assert_eq!(String::from_utf8(log).unwrap(), said, "{protocol:?}");
    }
    let unknown = handshake(path, &[("sec-websocket-protocol", "v4.channel.k8s.io")]);
    assert_eq!(world.admin.send(unknown).await.status(), 403);
    let none = handshake("/api/v1/namespaces/default/pods/p/log?previous=true", &[]);
    assert_eq!(world.admin.send(none).await.status(), 400);
}

#[tokio::test]
async fn older_clients_evict_in_the_version_they_know() {
    let world = World::new().await;
    let admin = &world.admin;
    let pods = "/api/v1/namespaces/default/pods";
    for (name, version, code) in
        [("a", "policy/v1beta1", 201), ("b", "policy/v1", 201), ("c", "policy/v2", 400)]
    {
        admin.post(pods, &crate::world::pod(name)).await.is(201);
        let eviction = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name}});
        let answer = admin.post(&format!("{pods}/{name}/eviction"), &eviction).await.is(code);
        let left = if code == 201 { 404 } else { 200 };
        admin.get(&format!("{pods}/{name}")).await.is(left);
        if code == 400 {
            assert!(
                answer.message().contains("no kind \"Eviction\" is registered for version \"policy/v2\""),
                "{}",
                answer.message()
            );
        }
    }
}
