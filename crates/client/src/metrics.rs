//! What client-go counts of its requests: how many, how they ended, how long they took.
//!
//! Upstream: component-base/metrics/prometheus/restclient. Not here: the controllers' queues (`reconcile`).

use std::sync::LazyLock;

use bytes::Bytes;
use foundation::metrics::{Counter, Family, Gauge, Histogram, registry};
use foundation::{SharedClock, SystemClock};

use crate::{Body, Transport, TransportError};

/// Upstream's bounds of requests' latencies, in seconds.
const LATENCY: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

struct Families {
    requests: Family<Counter>,
    latency: Family<Histogram>,
    /// Only measures; what a component decides by is given to it.
    clock: SharedClock,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| Families {
    requests: registry().counter(
        "rest_client_requests_total",
        "Requests sent, by how they were answered.",
        &["code", "host", "method"],
    ),
    latency: registry().histogram(
        "rest_client_request_duration_seconds",
        "How long requests that were sent took, in seconds.",
        &["host", "verb"],
        LATENCY,
    ),
    clock: SystemClock::shared(),
});

/// Sends a request, and counts it.
pub(crate) async fn counted(
    transport: &dyn Transport,
    request: http::Request<Bytes>,
) -> Result<http::Response<Body>, TransportError> {
    let families = &*FAMILIES;
    let method = request.method().clone();
    let began = families.clock.monotonic();
    let answer = transport.send(request).await;
    let took = families.clock.monotonic().saturating_sub(began);
    let host = transport.host();
    match &answer {
        Ok(response) => families.requests.with(&[response.status().as_str(), host, method.as_str()]).inc(),
        Err(_) => families.requests.with(&["<error>", host, method.as_str()]).inc(),
    }
    families.latency.with(&[host, method.as_str()]).observe_duration(took);
    answer
}

/// Whether this process leads in the election of a name: 1 if it does.
pub(crate) fn leads(election: &str) -> Gauge {
    registry()
        .gauge(
            "leader_election_master_status",
            "1 while this process leads in the election of this name, 0 while it waits.",
            &["name"],
        )
        .with(&[election])
}
