//! A webhook over TLS, for the tests that need one to be called.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::world::{Answer, World};

/// A server of webhooks on this machine.
pub struct WebhookServer {
    port: u16,
    authority: String,
    /// The headers of every call.
    pub heard: Arc<Mutex<Vec<http::HeaderMap>>>,
}

impl WebhookServer {
    /// Serves `answer`, which gets the path and the body and gives the body of the answer; `None` is never answered.
    pub async fn start(
        world: &World,
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        Self::slow(world, Duration::ZERO, answer).await
    }

    /// The same by a server that needs so much time for each answer.
    pub async fn slow(
        world: &World,
        delay: Duration,
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config = foundation::tls::server()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(answer);
        let heard: Arc<Mutex<Vec<http::HeaderMap>>> = Arc::default();
        let kept = heard.clone();
        world.tasks.spawn_until_cancelled("webhook", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, kept) = (acceptor.clone(), answer.clone(), kept.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service =
                        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                            let answer = answer.clone();
                            kept.lock().push(request.headers().clone());
                            async move {
                                let path = request.uri().path().to_owned();
                                let body = request.into_body().collect().await.unwrap().to_bytes();
                                let body: Value = serde_json::from_slice(&body).unwrap();
                                let Some(answer) = answer(&path, &body) else {
                                    return std::future::pending().await;
                                };
                                tokio::time::sleep(delay).await;
                                let answer = Full::new(Bytes::from(answer.to_string()));
                                Ok::<_, std::convert::Infallible>(http::Response::new(answer))
                            }
                        });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let authority = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
        Self { port, authority, heard }
    }

    /// A clientConfig for `path`.
    pub fn client(&self, path: &str) -> Value {
        json!({"url": format!("https://localhost:{}{path}", self.port), "caBundle": self.authority})
    }
}

/// The answer to an AdmissionReview.
pub fn reviewed(review: &Value, mut response: Value) -> Option<Value> {
    response["uid"] = review["request"]["uid"].clone();
    Some(json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}))
}

/// A JSON patch as an answer carries it.
pub fn patch(operations: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

/// Waits until the server's cache has seen the write that `written` answers.
pub async fn seen(world: &World, collection: &str, written: &Answer) {
    let revision = written.text("/metadata/resourceVersion");
    world.admin.get(&format!("{collection}?resourceVersion={revision}")).await.is(200);
}
