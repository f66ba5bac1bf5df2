//! How much of its seats each level uses, as a distribution over time.
//!
//! Upstream observes the share in use at the end of every nanosecond; that is to count, whenever the share changes, the
//! nanoseconds for which it was what it was. What a level may have changes with what others use: the share is of what it
//! was at the last change of its own.
//! Upstream: component-base/metrics/timing_histogram.go, apiserver/pkg/util/flowcontrol/metrics/timing_ratio_histogram.go.

use std::time::Duration;

use foundation::metrics::{Gauge, Histogram};
use parking_lot::Mutex;

/// One level.
pub(super) struct Utilization {
    shares: Histogram,
    limit: Gauge,
    /// The share in use, and since when.
    since: Mutex<Option<(Duration, f64)>>,
}

impl Utilization {
    /// Counted by these.
    pub(super) fn new(shares: Histogram, limit: Gauge) -> Self {
        Self { shares, limit, since: Mutex::default() }
    }

    /// From `now` on so many seats of so many are used.
    pub(super) fn moved(&self, now: Duration, used: u32, limit: u32) {
        self.limit.set(limit.into());
        // A level without seats of its own holds nobody up, and nothing can be said of its share.
        let share = if limit == 0 { 0.0 } else { f64::from(used) / f64::from(limit) };
        let mut since = self.since.lock();
        if let Some((before, share)) = since.replace((now, share)) {
            let passed = now.saturating_sub(before);
            self.shares.observe_times(share, u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use foundation::metrics::Registry;

    use super::*;

    #[test]
    fn each_share_counts_for_as_long_as_it_lasts() {
        let registry = Registry::new();
        let shares = registry.histogram("shares", "Shares.", &[], &[0.0, 0.5, 1.0]).only();
        let level = Utilization::new(shares, registry.gauge("limit", "Limit.", &[]).only());
        for (at, used, limit) in
            [(10, 0, 4), (30, 1, 4), (31, 4, 4), (36, 6, 5), (36, 1, 10), (40, 3, 0), (50, 0, 4)]
        {
            level.moved(Duration::from_nanos(at), used, limit);
        }
        let page = registry.render();
        for line in [
            // Twenty without any, and the ten of which nothing can be said.
            "shares_bucket{le=\"0\"} 30",
            "shares_bucket{le=\"0.5\"} 35",
            "shares_bucket{le=\"1\"} 40",
            "shares_bucket{le=\"+Inf\"} 40",
            "limit 4",
        ] {
            assert!(page.lines().any(|known| known == line), "{line}: {page}");
        }
    }
}
