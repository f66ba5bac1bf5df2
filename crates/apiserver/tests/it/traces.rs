//! Tracing, as a collector and a webhook see it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver::traces::Configuration;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;

use crate::conformance::webhook::{VALIDATING, configuration, rule, webhook};
use crate::conformance::webhook_server::{WebhookServer, reviewed, seen};
use crate::world::{World, config_map};

/// What a collector reads of the messages, by the public field numbers.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(int64, tag = "3")]
    number: i64,
}

impl Span {
    fn text(&self, key: &str) -> &str {
        let found = self.attributes.iter().find(|attribute| attribute.key == key);
        found.and_then(|attribute| attribute.value.as_ref()).map_or("", |value| &value.text)
    }
}

/// A collector: HTTP/2 without TLS, one kind of call.
async fn collector() -> (u16, Arc<Mutex<Vec<Export>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard: Arc<Mutex<Vec<Export>>> = Arc::default();
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let kept = kept.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    // One flag and four bytes of length before the message.
                    kept.lock().push(Export::decode(&body[5..]).unwrap());
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        HeaderValue::from_static("0"),
                    )]);
                    let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
                    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::io::Error>)));
                    Response::builder().header("content-type", "application/grpc").body(body)
                }
            });
            tokio::spawn(async move {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (port, heard)
}

async fn traced(per_million: u32) -> (World, Arc<Mutex<Vec<Export>>>) {
    let (port, heard) = collector().await;
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: TracingConfiguration\n\
         endpoint: 127.0.0.1:{port}\nsamplingRatePerMillion: {per_million}\n"
    );
    let configuration = Configuration::read(&text).unwrap();
    (World::with(|options| options.traces = Some(configuration)).await, heard)
}

/// Every span that the collector has been sent once the server has ended, which sends what there is.
async fn ended(world: World, heard: &Mutex<Vec<Export>>) -> Vec<Span> {
    let late = world.tasks.shutdown(Duration::from_secs(20)).await;
    assert!(late.is_empty(), "{late:?}");
    let heard = heard.lock();
    heard.iter().flat_map(|e| &e.resources).flat_map(|r| &r.scopes).flat_map(|s| s.spans.clone()).collect()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test]
async fn a_request_is_told_step_by_step_and_its_trace_goes_on() {
    let (world, heard) = traced(0).await;
    let server = WebhookServer::start(&world, |_, review| reviewed(review, json!({"allowed": true}))).await;
    let hook =
        webhook("traced.example.com", server.client("/"), json!([rule("", &["configmaps"], &["CREATE"])]));
    let made = configuration("ValidatingWebhookConfiguration", "traced", vec![hook]);
    let made = world.admin.post(VALIDATING, &made).await.is(201);
    seen(&world, VALIDATING, &made).await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", &parent),
        ("tracestate", "vendor=1"),
        ("audit-id", "the-id"),
        ("user-agent", "a test"),
    ];
    let body = config_map("a").to_string();
    world.admin.ask(Method::POST, MAPS, &headers, body).await.is(201);
    // Who is nobody special has no say in what is sampled.
    let nobody = world
        .granted("nobody", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]))
        .await;
    nobody.ask(Method::GET, MAPS, &headers, "").await.is(200);

    let told = server.heard.lock().clone();
    let spans = ended(world, &heard).await;
    let by_name: HashMap<&str, &Span> = spans.iter().map(|span| (span.name.as_str(), span)).collect();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let root = by_name["POST /api/v1/namespaces/{:namespace}/configmaps"];
    let trace: String = root.trace.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((trace.as_str(), root.kind), (TRACE, 2));
    assert_eq!(root.text("http.target"), MAPS);
    assert_eq!(root.text("user_agent.original"), "a test");
    assert_eq!(root.text("audit-id"), "the-id");
    assert!(root.start > 1_500_000_000_000_000_000 && root.end >= root.start);
    for (name, below) in [
        ("authentication", root),
        ("impersonation", root),
        ("priorityandfairness", root),
        ("authorization", root),
        ("Create", root),
        ("Deserialize", by_name["Create"]),
        ("Admit", by_name["Create"]),
        ("Validate", by_name["Create"]),
        ("Call validating webhook", by_name["Validate"]),
        ("HTTP POST", by_name["Call validating webhook"]),
        ("Create etcd3", by_name["Create"]),
        ("SerializeObject", by_name["Create"]),
    ] {
        let span = by_name.get(name).unwrap_or_else(|| panic!("no {name} in {names:?}"));
        assert_eq!(span.parent, below.id, "{name} is below {}", below.name);
        assert_eq!(span.trace, root.trace, "{name}");
    }
    assert_eq!(by_name["Create"].text("resource"), "configmaps");
    assert!(!names.iter().any(|name| name.starts_with("GET")), "{names:?}");
    let own: String = by_name["HTTP POST"].id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(told[0]["traceparent"], format!("00-{TRACE}-{own}-01"));
    assert_eq!(told[0]["tracestate"], "vendor=1");
    let resource = heard.lock()[0].resources[0].resource.clone().unwrap();
    assert!(resource.attributes.iter().any(|attribute| attribute.key == "service.name"));
}

#[tokio::test]
async fn a_share_of_all_requests_is_sampled() {
    let (world, heard) = traced(1_000_000).await;
    world.admin.get(MAPS).await.is(200);
    world.admin.get("/version").await.is(200);
    let spans = ended(world, &heard).await;
    let roots: Vec<&str> =
        spans.iter().filter(|span| span.kind == 2).map(|span| span.name.as_str()).collect();
    assert!(roots.contains(&"GET /api/v1/namespaces/{:namespace}/configmaps"), "{roots:?}");
    assert!(roots.contains(&"GET"), "what is no resource is its method: {roots:?}");
    assert!(spans.iter().any(|span| span.name == "cacher.GetList"));
}
