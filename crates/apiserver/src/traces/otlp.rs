//! The part of the OpenTelemetry protocol that sends spans over gRPC.
//!
//! Messages with their field numbers, and the one call. Not here: when something is sent (`exporter`).
//! Upstream: opentelemetry-proto (collector/trace/v1, trace/v1, common/v1, resource/v1).

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint as GrpcEndpoint, Uri};

use super::configuration::Endpoint;
use super::{Ended, Kind, Value};

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// `Status.code` of what failed.
const FAILED: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<SpanStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanStatus {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "any_value::Kind", tags = "1, 3")]
    kind: Option<any_value::Kind>,
}

mod any_value {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(int64, tag = "3")]
        Integer(i64),
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let kind = match value {
        Value::Text(text) => any_value::Kind::Text(text),
        Value::Integer(number) => any_value::Kind::Integer(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { kind: Some(kind) }) }
}

fn span(ended: Ended) -> SpanMessage {
    SpanMessage {
        trace_id: ended.context.trace.to_vec(),
        span_id: ended.context.span.to_vec(),
        trace_state: ended.context.state,
        parent_span_id: ended.parent.map(Vec::from).unwrap_or_default(),
        name: ended.name.into_owned(),
        kind: match ended.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: ended.start,
        end_time_unix_nano: ended.end,
        attributes: ended.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        events: ended
            .events
            .into_iter()
            .map(|(time_unix_nano, name)| Event { time_unix_nano, name: name.to_owned() })
            .collect(),
        links: ended
            .link
            .into_iter()
            .map(|link| Link {
                trace_id: link.trace.to_vec(),
                span_id: link.span.to_vec(),
                trace_state: link.state,
            })
            .collect(),
        status: ended.failed.then_some(SpanStatus { code: FAILED }),
    }
}

/// Who sends: this server.
pub(super) struct Resource(ResourceMessage);

/// This server, by the name that it has among the API servers of its cluster.
pub(super) fn resource(instance: &str) -> Resource {
    let attributes = [("service.name", "apiserver"), ("service.instance.id", instance)];
    Resource(ResourceMessage {
        attributes: attributes.map(|(key, value)| attribute(key, value.into())).into(),
    })
}

impl Resource {
    /// The message that carries these spans.
    pub fn message(&self, spans: Vec<Ended>) -> ExportRequest {
        let scope = Some(Scope { name: "k8s.io/component-base/tracing".to_owned() });
        let spans = spans.into_iter().map(span).collect();
        let scope_spans = vec![ScopeSpans { scope, spans }];
        ExportRequest { resource_spans: vec![ResourceSpans { resource: Some(self.0.clone()), scope_spans }] }
    }
}

/// Why spans were not taken.
pub(super) struct Refusal {
    /// Whether it may be otherwise later.
    pub again: bool,
    pub text: String,
}

/// The collector. Nothing is connected before something is sent.
pub(super) struct Collector(Channel);

impl Collector {
    /// One at this endpoint.
    pub fn new(endpoint: &Endpoint) -> Result<Self, String> {
        let at = |uri: String| GrpcEndpoint::from_shared(uri).map_err(|error| error.to_string());
        // Upstream's exporter does not use TLS either: the collector is beside the server.
        Ok(Self(match endpoint {
            Endpoint::Tcp(host) => at(format!("http://{host}"))?.connect_lazy(),
            Endpoint::Unix(path) => {
                let path = path.clone();
                at("http://localhost".to_owned())?.connect_with_connector_lazy(tower::service_fn(
                    move |_: Uri| {
                        let path = path.clone();
                        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
                    },
                ))
            }
            Endpoint::UnixAbstract(name) => {
                let name = name.clone();
                at("http://localhost".to_owned())?.connect_with_connector_lazy(tower::service_fn(
                    move |_: Uri| {
                        let name = name.clone();
                        async move { abstract_socket(&name).map(TokioIo::new) }
                    },
                ))
            }
        }))
    }

    /// Sends a message; returns how many of its spans the collector did not want.
    pub async fn export(&self, message: &ExportRequest) -> Result<u64, Refusal> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Refusal { again: true, text: error.to_string() })?;
        let codec = tonic_prost::ProstCodec::<ExportRequest, ExportResponse>::default();
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let answer = grpc.unary(tonic::Request::new(message.clone()), path, codec).await;
        let answer = answer.map_err(|status| {
            use tonic::Code;
            let again = matches!(
                status.code(),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::DataLoss
                    | Code::Cancelled
            );
            Refusal { again, text: status.to_string() }
        })?;
        let rejected = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

/// Connecting to a socket of this machine takes no time: it is there or it is not.
fn abstract_socket(name: &str) -> std::io::Result<tokio::net::UnixStream> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}
