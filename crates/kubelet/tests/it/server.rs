//! The node's server over TLS: who gets in, logs, and the tunnel to the runtime's streams.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use kubelet::ServerOptions;
use kubelet::server::auth::{Access, User};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::pods::{Cluster, condition, one};

/// `good` may do all, `weak` nothing; other tokens belong to nobody.
struct Tokens;

#[async_trait]
impl Access for Tokens {
    async fn authenticate(&self, token: &str) -> Option<User> {
        ["good", "weak"].contains(&token).then(|| User { name: token.to_owned(), ..User::default() })
    }

    async fn authorize(&self, user: &User, _verb: &str, node: &str, _subresource: &str) -> bool {
        assert_eq!(node, "n1");
        user.name == "good"
    }
}

struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

fn tls() -> Tls {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = foundation::tls::server();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = foundation::tls::client();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    Tls { server: Arc::new(server), client: Arc::new(client) }
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// Sends a request and returns the stream with the answer's head.
async fn ask(tls: &Tls, address: SocketAddr, path: &str, token: &str, headers: &str) -> (Stream, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls.client.clone());
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

async fn get(tls: &Tls, address: SocketAddr, path: &str, token: &str) -> (String, String) {
    let (mut stream, head) = ask(tls, address, path, token, "connection: close\r\n").await;
    let mut body = String::new();
    // The peer may close without a close_notify; what came before counts.
    let _ = stream.read_to_string(&mut body).await;
    (head.split(' ').nth(1).unwrap().to_owned(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_in_and_what_they_get() {
    let tls = tls();
    let server = tls.server.clone();
    let options = ServerOptions {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: Arc::new(move || server.clone()),
        access: Arc::new(Tokens),
    };
    let cluster = Cluster::with(true, Some(options)).await;
    let log = cluster.directory.path().join("0.log");
    std::fs::write(&log, "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stdout F two\n").unwrap();
    // The runtime's streaming server: it accepts the upgrade and answers in the name of the command.
    let streams = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = streams.local_addr().unwrap();
    cluster.cri.books(|books| {
        books.log_path = log.to_string_lossy().into_owned();
        books.streaming = format!("http://{at}/exec/secret");
    });
    tokio::spawn(async move {
        let (mut stream, _) = streams.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("get /exec/secret "), "{head}");
        assert!(head.contains("sec-websocket-protocol: v5.channel.k8s.io, v4.channel.k8s.io"), "{head}");
        assert!(!head.contains("authorization"), "the caller's token is not the runtime's business");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
            sec-websocket-protocol: v5.channel.k8s.io\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut word = [0u8; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    });
    cluster.create("web", one("web"));
    cluster.until("web", |status| condition(status, "Ready") == "True").await;
    let address = cluster.kubelet.address.unwrap();

    for (path, token, code, body) in [
        ("/healthz", "", "200", "ok"),
        ("/pods", "", "401", "Unauthorized"),
        ("/pods", "wrong", "401", "Unauthorized"),
        ("/pods", "weak", "403", "Forbidden (user=weak, verb=get, resource=nodes"),
        ("/pods", "good", "200", "\"kind\":\"PodList\""),
        ("/nothing", "good", "404", "404 page not found"),
        ("/containerLogs/default/web/web", "good", "200", "one\n"),
        ("/containerLogs/default/web/web?tailLines=1", "good", "200", "two\n"),
        ("/containerLogs/default/web/other", "good", "400", "container other is not valid for pod web"),
        ("/containerLogs/default/none/c", "good", "404", "pod \"none\" does not exist"),
        ("/containerLogs/default/web/web?tailLines=x", "good", "400", "tailLines"),
        ("/exec/default/web/web?command=sh", "good", "400", "missing upgrade headers"),
        ("/metrics", "good", "200", "# TYPE"),
    ] {
        let (got, text) = get(&tls, address, path, token).await;
        assert!(got == code && text.contains(body), "{path} {token}: {got} {text}");
    }

    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n";
    let path = "/exec/default/web/web?command=sh&command=-c&input=1&output=1&tty=1";
    let (mut stream, head) = ask(&tls, address, path, "good", upgrade).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut hello = [0u8; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0u8; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    let calls = cluster.cri.books(|books| books.calls.clone());
    assert!(calls.contains(&"Exec sh -c tty=true stdin=true".to_owned()), "{calls:?}");
}
