//! `/metrics/slis`: how each health check has come out whenever all of an endpoint were asked.
//!
//! A page of its own, small enough to be read every few seconds: what a cluster's availability is computed from.
//! Upstream: component-base/metrics/prometheus/slis, apiserver/pkg/server/healthz (ObserveHealthcheck).

use std::sync::LazyLock;

use foundation::metrics::{Counter, Family, Gauge, Registry};

struct Slis {
    registry: Registry,
    last: Family<Gauge>,
    total: Family<Counter>,
}

static SLIS: LazyLock<Slis> = LazyLock::new(|| {
    let registry = Registry::new();
    Slis {
        last: registry.gauge(
            "kubernetes_healthcheck",
            "How a health check came out last: 1 passed, 0 failed.",
            &["name", "type"],
        ),
        total: registry.counter(
            "kubernetes_healthchecks_total",
            "How often a health check came out how.",
            &["name", "type", "status"],
        ),
        registry,
    }
});

/// A check of an endpoint (`healthz`, `livez`, `readyz`) has come out.
pub(super) fn observed(check: &str, endpoint: &str, passed: bool) {
    SLIS.last.with(&[check, endpoint]).set(if passed { 1.0 } else { 0.0 });
    SLIS.total.with(&[check, endpoint, if passed { "success" } else { "error" }]).inc();
}

/// The page.
pub(super) fn page() -> String {
    SLIS.registry.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outcome_and_all_are_told() {
        for passed in [true, true, false] {
            observed("slis-test", "livez", passed);
        }
        let page = page();
        for line in [
            r#"kubernetes_healthcheck{name="slis-test",type="livez"} 0"#,
            r#"kubernetes_healthchecks_total{name="slis-test",type="livez",status="success"} 2"#,
            r#"kubernetes_healthchecks_total{name="slis-test",type="livez",status="error"} 1"#,
        ] {
            assert!(page.lines().any(|known| known == line), "{line}");
        }
    }
}
