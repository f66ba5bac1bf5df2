//! The wire transport against a server on a real socket: TLS, tokens, upgrades, and clear errors.

use std::sync::Arc;

use bytes::Bytes;
use client::{
    Client, Config, Endpoint, Error, HttpsTransport, Identity, ListOptions, Transport, TransportError,
};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Answers with a ConfigMapList that tells the request's version, path and token; upgrades echo.
async fn answer(
    mut request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    if request.headers().contains_key(http::header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        let response = http::Response::builder()
            .status(101)
            .header(http::header::CONNECTION, "Upgrade")
            .header(http::header::UPGRADE, "echo");
        return Ok(response.body(Full::default()).unwrap());
    }
    let token = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let body = serde_json::json!({
        "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {
            "name": format!("{:?}", request.version()),
            "annotations": {"uri": request.uri().path(), "token": token.unwrap_or("none")},
        }}],
    });
    Ok(http::Response::new(Full::new(Bytes::from(body.to_string()))))
}

struct Server {
    url: String,
    ca_pem: Vec<u8>,
}

async fn server() -> Server {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let ca_pem = key.cert.pem().into_bytes();
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let mut config = foundation::tls::server()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that trusts another authority ends the handshake.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    });
    Server { url, ca_pem }
}

fn transport(server: &Server, identity: Identity) -> HttpsTransport {
    let config = Config {
        server: server.url.clone(),
        ca_pem: Some(server.ca_pem.clone()),
        identity,
        ..Config::default()
    };
    HttpsTransport::new(&config).unwrap()
}

#[tokio::test]
async fn requests_go_over_http2_with_the_token() {
    let server = server().await;
    let client = Client::new(Arc::new(transport(&server, Identity::Token("secret".to_owned()))), "test");
    let endpoint = Endpoint::new("", "v1", "configmaps");
    let list = client.list_dynamic(&endpoint, Some("a"), &ListOptions::default()).await.unwrap();
    assert_eq!(list.resource_version, "7");
    let metadata = &list.items[0]["metadata"];
    assert_eq!(metadata["name"], "HTTP/2.0");
    assert_eq!(metadata["annotations"]["uri"], "/api/v1/namespaces/a/configmaps");
    assert_eq!(metadata["annotations"]["token"], "Bearer secret");
}

#[tokio::test]
async fn an_upgrade_gets_a_connection_of_its_own() {
    let server = server().await;
    let transport = transport(&server, Identity::None);
    let request = http::Request::post("/exec")
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "echo")
        .body(Bytes::new())
        .unwrap();
    let response = transport.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
}

#[tokio::test]
async fn what_is_wrong_with_a_connection_is_said() {
    let server = server().await;
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let untrusted = Server { url: server.url.clone(), ca_pem: other.cert.pem().into_bytes() };
    let get = |transport: HttpsTransport| async move {
        let request = http::Request::get("/version").body(Bytes::new()).unwrap();
        match transport.send(request).await {
            Ok(response) => response.into_body().collect().await.map(|_| String::new()).unwrap(),
            Err(error) => error.to_string(),
        }
    };
    let message = get(transport(&untrusted, Identity::None)).await;
    assert!(message.contains("connect to https://127.0.0.1") && message.contains("certificate"), "{message}");
    let nobody = Server { url: "https://127.0.0.1:1".to_owned(), ca_pem: server.ca_pem.clone() };
    let message = get(transport(&nobody, Identity::None)).await;
    assert!(message.contains("connect to https://127.0.0.1:1: "), "{message}");
    let config = Config { server: "ftp://x".to_owned(), ..Config::default() };
    assert!(matches!(HttpsTransport::new(&config), Err(TransportError::Invalid(_))));
    let client = Client::new(Arc::new(transport(&nobody, Identity::None)), "test");
    let error = client.request(http::Method::GET, "/version", None).await.unwrap_err();
    assert!(matches!(error, Error::Transport(TransportError::Connect { .. })), "{error}");
}
