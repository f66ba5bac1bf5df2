//! How long the filters before the handlers take.
//!
//! Upstream: apiserver/pkg/endpoints/filterlatency, apiserver/pkg/endpoints/metrics (RecordFilterLatency).

use std::sync::LazyLock;
use std::time::Duration;

use foundation::metrics::{Histogram, registry};

/// Upstream's bounds, in seconds.
const BOUNDS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0];

/// A filter that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Who asks.
    Authentication,
    /// What of it is written down.
    Audit,
    /// As whom they ask.
    Impersonation,
    /// Whether it is their turn.
    Fairness,
    /// Whether they may.
    Authorization,
}

/// Upstream's names, in the order of [`Gate`].
const NAMES: [&str; 5] = ["authentication", "audit", "impersonation", "priorityandfairness", "authorization"];

static HANDLES: LazyLock<[Histogram; 5]> = LazyLock::new(|| {
    let family = registry().histogram(
        "apiserver_request_filter_duration_seconds",
        "How long requests spent in each filter, in seconds.",
        &["filter"],
        BOUNDS,
    );
    NAMES.map(|name| family.with(&[name]))
});

/// A request has passed the filter, or was ended by it.
pub fn passed(gate: Gate, took: Duration) {
    HANDLES[gate as usize].observe_duration(took);
}
