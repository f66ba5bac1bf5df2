//! What is counted of conversion webhooks.
//! Upstream: apiextensions-apiserver/pkg/apiserver/conversion/metrics.go.

use std::sync::LazyLock;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Histogram, registry};

const RESULT: &[&str] = &["result", "failure_type"];
/// Upstream's bounds, in seconds.
const BOUNDS: &[f64] = &[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
/// Upstream's ExponentialBuckets(0.001, 2, 15), in seconds.
const BY_DEFINITION: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

struct Families {
    requests: Family<Counter>,
    latency: Family<Histogram>,
    by_definition: Family<Histogram>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registry = registry();
    Families {
        requests: registry.counter(
            "apiserver_conversion_webhook_request_total",
            "Calls of conversion webhooks, and why those failed that did.",
            RESULT,
        ),
        latency: registry.histogram(
            "apiserver_conversion_webhook_duration_seconds",
            "How long calls of conversion webhooks took, in seconds.",
            RESULT,
            BOUNDS,
        ),
        by_definition: registry.histogram(
            "apiserver_crd_conversion_webhook_duration_seconds",
            "How long the webhook of a definition took to convert, in seconds.",
            &["crd_name", "from_version", "to_version", "succeeded"],
            BY_DEFINITION,
        ),
    }
});

/// Why a conversion failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The webhook could not be called.
    Call,
    /// What it answered is no review.
    Malformed,
    /// It answered with more or fewer objects than it was asked about.
    Partial,
    /// An object that it gave cannot be.
    Invalid,
}

impl Why {
    /// Upstream's word for it.
    fn name(self) -> &'static str {
        match self {
            Self::Call => "conversion_webhook_call_failure",
            Self::Malformed => "conversion_webhook_malformed_response_failure",
            Self::Partial => "conversion_webhook_partial_response_failure",
            Self::Invalid => "conversion_webhook_invalid_converted_object_failure",
        }
    }
}

/// The webhook of a definition was asked for objects from one apiVersion to another.
pub(super) fn converted(definition: &str, (from, to): (&str, &str), failure: Option<Why>, took: Duration) {
    let result = match failure {
        None => ["success", ""],
        Some(why) => ["failure", why.name()],
    };
    FAMILIES.requests.with(&result).inc();
    FAMILIES.latency.with(&result).observe_duration(took);
    let [from, to] = [from, to].map(|whole| whole.rsplit('/').next().unwrap_or_default());
    let succeeded = if failure.is_none() { "true" } else { "false" };
    FAMILIES.by_definition.with(&[definition, from, to, succeeded]).observe_duration(took);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_is_counted_with_its_versions() {
        let name = "things.conversions.example.com";
        let versions = ("conversions.example.com/v1", "conversions.example.com/v2");
        converted(name, versions, None, Duration::from_millis(3));
        converted(name, versions, Some(Why::Partial), Duration::from_secs(1));
        let page = registry().render();
        for line in [
            "apiserver_conversion_webhook_request_total{result=\"failure\",failure_type=\"conversion_webhook_partial_response_failure\"} 1",
            "apiserver_crd_conversion_webhook_duration_seconds_count{crd_name=\"things.conversions.example.com\",from_version=\"v1\",to_version=\"v2\",succeeded=\"true\"} 1",
            "apiserver_crd_conversion_webhook_duration_seconds_sum{crd_name=\"things.conversions.example.com\",from_version=\"v1\",to_version=\"v2\",succeeded=\"false\"} 1",
        ] {
            assert!(page.lines().any(|known| known == line), "{line}");
        }
    }
}
