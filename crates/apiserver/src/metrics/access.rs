//! What the server counts of those who ask: whether they are known, and whether they may.
//!
//! Upstream: apiserver/pkg/endpoints/filters/metrics.go, apiserver/pkg/authentication/request/x509.

use std::sync::LazyLock;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Histogram, registry};
use jiff::SignedDuration;

/// Upstream's ExponentialBuckets(0.001, 2, 15), in seconds.
const GATE: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// Upstream's bounds of what is left of a certificate's time, in seconds.
const REMAINING: &[f64] = &[
    0.0,
    HOUR / 2.0,
    HOUR,
    2.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    4.0 * DAY,
    7.0 * DAY,
    30.0 * DAY,
    90.0 * DAY,
    180.0 * DAY,
    365.0 * DAY,
];

struct Families {
    attempts: Family<Counter>,
    latency: Family<Histogram>,
    users: Family<Counter>,
    decisions: Family<Counter>,
    decision_latency: Family<Histogram>,
    remaining: Family<Histogram>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registry = registry();
    Families {
        attempts: registry.counter(
            "authentication_attempts",
            "Requests by whether it could be told who sent them.",
            &["result"],
        ),
        latency: registry.histogram(
            "authentication_duration_seconds",
            "How long it took to tell who sent a request, in seconds.",
            &["result"],
            GATE,
        ),
        users: registry.counter(
            "authenticated_user_requests",
            "Requests of users; names that not every cluster has are not told apart.",
            &["username"],
        ),
        decisions: registry.counter(
            "authorization_attempts_total",
            "Requests by whether they were allowed.",
            &["result"],
        ),
        decision_latency: registry.histogram(
            "authorization_duration_seconds",
            "How long it took to decide whether a request was allowed, in seconds.",
            &["result"],
            GATE,
        ),
        remaining: registry.histogram(
            "apiserver_client_certificate_expiration_seconds",
            "How long the client certificates of requests are still good for, in seconds.",
            &[],
            REMAINING,
        ),
    }
});

/// Somebody has shown who they are, or not: `Ok` with their name, or whether there was something wrong to show.
pub fn authenticated(outcome: Result<&str, ()>, took: Duration) {
    let result = if outcome.is_ok() { "success" } else { "failure" };
    FAMILIES.attempts.with(&[result]).inc();
    FAMILIES.latency.with(&[result]).observe_duration(took);
    if let Ok(name) = outcome {
        FAMILIES.users.with(&[compressed(name)]).inc();
    }
}

/// A request was let through, or not.
pub fn authorized(decision: crate::authz::Decision, took: Duration) {
    let result = match decision {
        crate::authz::Decision::Allow => "allowed",
        crate::authz::Decision::Deny => "denied",
        crate::authz::Decision::NoOpinion => "no-opinion",
    };
    FAMILIES.decisions.with(&[result]).inc();
    FAMILIES.decision_latency.with(&[result]).observe_duration(took);
}

/// A client certificate was shown that is good for so long.
pub fn certificate(remaining: SignedDuration) {
    FAMILIES.remaining.only().observe(remaining.as_secs_f64());
}

/// Names are not labels: only the few that every cluster has.
fn compressed(name: &str) -> &str {
    match name {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => name,
        name if name.contains('@') => "email_id",
        _ => "other",
    }
}
