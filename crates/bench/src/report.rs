//! How figures are shown: what was measured, the figure, the target.

use std::{io::Write, time::Duration};

/// One line of the report.
pub fn line(what: &str, found: &str, target: &str) {
    // A reader that went away is no reason to fail.
    let _ = writeln!(std::io::stdout().lock(), "{what:<52} {found:>52}   target {target}");
}

/// Something that a reader of the figures may want to know.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// The value below which `share` (0 to 1) of the measurements lie.
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    // The nearest rank: with few measurements no value is made up.
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// Milliseconds as a reader likes them.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Processor time of each of some things, in microseconds.
pub fn microseconds(spent: Duration, things: usize) -> String {
    format!("{:.0} µs", spent.as_secs_f64() * 1e6 / things.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let times: Vec<Duration> = (1..=5).rev().map(Duration::from_millis).collect();
        for (share, expected) in [(0.0, 1), (0.5, 3), (0.99, 5), (1.0, 5)] {
            assert_eq!(quantile(&times, share), Duration::from_millis(expected), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
