//! The gRPC health question (`grpc.health.v1.Health/Check`).
//! Upstream: `pkg/probe/grpc`.

use std::time::Duration;

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks `service` at the address how it is.
pub async fn check(ip: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let at = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let late = |_| {
        format!("timeout: failed to connect service \"{at}\" within {timeout:?}: context deadline exceeded")
    };
    tokio::time::timeout(timeout, ask(&at, service)).await.map_err(late)?
}

async fn ask(at: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| format!("error: connection error: {error}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = client.unary(request, path, codec).await.map_err(|status| match status.code() {
        tonic::Code::Unimplemented => {
            format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            )
        }
        code => format!("error: health rpc probe failed: {code:?} {}", status.message()),
    })?;
    match answer.into_inner().status {
        1 => Ok(()),
        status => Err(format!(
            "service unhealthy (responded with \"{}\")",
            ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
                .get(status as usize)
                .unwrap_or(&"UNKNOWN")
        )),
    }
}
