//! Exec, attach and port-forward over WebSocket, as kubectl's end sees them.

use bytes::Bytes;
use cri::v1;
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{Runtime, is_root, shell};

async fn open(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

/// All that comes on the channels until the end.
async fn collect(socket: &mut WebSocketStream<TcpStream>) -> [String; 4] {
    let mut all: [Vec<u8>; 4] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message
            && let Some((channel, bytes)) = bytes.split_first()
        {
            all[usize::from(*channel)].extend_from_slice(bytes);
        }
    }
    all.map(|bytes| String::from_utf8(bytes).unwrap())
}

fn send(channel: u8, text: &str) -> Message {
    Message::Binary(Bytes::from([&[channel], text.as_bytes()].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_over_the_socket() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("ws");
    let sandbox = runtime.sandbox(&pod).await;
    let id = runtime.run(&sandbox, &pod, shell("main", "sleep 1000")).await;
    let request = |script: &str, stdin: bool, tty: bool| v1::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["sh".into(), "-c".into(), script.into()],
        stdin,
        stdout: true,
        stderr: !tty,
        tty,
        ..Default::default()
    };
    let url = runtime
        .cri
        .runtime
        .exec(request("cat; echo no >&2; exit 5", true, false))
        .await
        .unwrap()
        .into_inner()
        .url;
    let mut socket = open(&url, "v5.channel.k8s.io").await;
    socket.send(send(0, "hello")).await.unwrap();
    // Some clients send what is text as text.
    socket.send(Message::text("\0 you")).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    let [_, out, err, status] = collect(&mut socket).await;
    assert_eq!((out.as_str(), err.as_str()), ("hello you", "no\n"));
    assert!(status.contains(r#""reason":"ExitCode""#) && status.contains(r#""message":"5""#), "{status}");

    let url = runtime
        .cri
        .runtime
        .exec(request("tty; read x; echo got $x; stty size 2>/dev/null", true, true))
        .await
        .unwrap()
        .into_inner()
        .url;
    let mut socket = open(&url, "v4.channel.k8s.io").await;
    socket.send(send(4, r#"{"Width":100,"Height":30}"#)).await.unwrap();
    socket.send(send(0, "word\n")).await.unwrap();
    let [_, out, _, status] = collect(&mut socket).await;
    assert!(out.contains("/dev/pts/0") && out.contains("got word"), "{out:?}");
    assert!(status.contains("status\":"), "{status}");

    // A URL is good once, and only for what was asked.
    let again =
        TcpStream::connect(url.trim_start_matches("http://").split('/').next().unwrap()).await.unwrap();
    let mut second = url.replace("http://", "ws://").into_client_request().unwrap();
    second.headers_mut().insert("Sec-WebSocket-Protocol", "v5.channel.k8s.io".parse().unwrap());
    assert!(tokio_tungstenite::client_async(second, again).await.is_err());

    let url = runtime
        .cri
        .runtime
        .exec(v1::ExecRequest { cmd: vec!["foo".into()], ..request("", false, false) })
        .await
        .unwrap()
        .into_inner()
        .url;
    let [.., status] = collect(&mut open(&url, "v5.channel.k8s.io").await).await;
    assert!(
        status.contains("executable file not found in $PATH") && status.contains("InternalError"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_sees_output_and_feeds_input() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let pod = runtime.sandbox_config("attach");
    let sandbox = runtime.sandbox(&pod).await;
    let mut config = shell("main", "read x; echo got $x; read y || echo end of input");
    config.stdin = true;
    config.stdin_once = true;
    let id = runtime.run(&sandbox, &pod, config).await;
    let request = v1::AttachRequest {
        container_id: id.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let url = runtime.cri.runtime.attach(request).await.unwrap().into_inner().url;
    let mut socket = open(&url, "v5.channel.k8s.io").await;
    socket.send(send(0, "word\n")).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("got word") {
        let message = socket.next().await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&message.into_data()));
    }
    drop(socket);
    // The container's input closes with the one session it is for.
    assert_eq!(runtime.ended(&id).await.exit_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_into_the_pod() {
    if !is_root() {
        return;
    }
    let mut runtime = Runtime::start().await;
    let mut pod = runtime.sandbox_config("ports");
    // The host's network: a namespace of its own would need a loopback device that is up.
    let security = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().set_network(v1::NamespaceMode::Node);
    let sandbox = runtime.sandbox(&pod).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let request = v1::PortForwardRequest { pod_sandbox_id: sandbox, port: vec![port.into()] };
    let url = runtime.cri.runtime.port_forward(request).await.unwrap().into_inner().url;
    let mut socket = open(&url, "v4.channel.k8s.io").await;
    socket.send(send(0, "there and back")).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"there and back") {
        let message = socket.next().await.unwrap().unwrap().into_data();
        if message.first() == Some(&0) {
            seen.extend_from_slice(&message[1..]);
        }
    }
    assert_eq!(seen[..2], port.to_le_bytes());
    drop(socket);
    echo.await.unwrap();
}
