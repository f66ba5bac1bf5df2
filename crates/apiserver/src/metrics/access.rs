//! What the server counts of those who ask: whether they are known, and whether they may.
//!
//! Upstream: apiserver/pkg/endpoints/filters/metrics.go, apiserver/pkg/authentication/request/x509.

use std::sync::LazyLock;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Histogram, registry};
use jiff::SignedDuration;

use crate::authz::Decision;

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

/// The credentials of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt<'a> {
    /// They are this user's.
    User(&'a str),
    /// They are nobody's, or there are none.
    Nobody,
    /// They could not be judged, or are wrong.
    Error,
}

impl Attempt<'_> {
    fn label(self) -> &'static str {
        match self {
            Self::User(_) => "success",
            Self::Nobody => "failure",
            Self::Error => "error",
        }
    }
}

/// Somebody has shown who they are, or not.
pub fn authenticated(attempt: Attempt<'_>, took: Duration) {
    let result = attempt.label();
    FAMILIES.attempts.with(&[result]).inc();
    FAMILIES.latency.with(&[result]).observe_duration(took);
    if let Attempt::User(name) = attempt {
        FAMILIES.users.with(&[compressed(name)]).inc();
    }
}

fn decided(decision: Decision, failed: bool) -> &'static str {
    match decision {
        Decision::Allow => "allowed",
        // Whoever could not say may be the one who would have allowed it.
        _ if failed => "error",
        Decision::Deny => "denied",
        Decision::NoOpinion => "no-opinion",
    }
}

/// A request was let through, or not; `failed` says whether somebody who was asked could not decide.
pub fn authorized(decision: Decision, failed: bool, took: Duration) {
    let result = decided(decision, failed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_failures() {
        let attempts = [Attempt::User("a"), Attempt::Nobody, Attempt::Error];
        assert_eq!(attempts.map(Attempt::label), ["success", "failure", "error"]);
        for (decision, failed, label) in [
            (Decision::Allow, true, "allowed"),
            (Decision::Deny, false, "denied"),
            (Decision::NoOpinion, false, "no-opinion"),
            (Decision::NoOpinion, true, "error"),
        ] {
            assert_eq!(decided(decision, failed), label, "{decision:?} {failed}");
        }
    }
}
