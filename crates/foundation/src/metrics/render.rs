//! Metrics as Prometheus text. Upstream: the text exposition format, version 0.0.4.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::{Family, Histogram, Metric};

/// Appends one metric with its help and type lines. A family without children leaves nothing.
pub(super) fn metric(out: &mut String, name: &str, help: &str, metric: &Metric) {
    match metric {
        Metric::Counter(family) => {
            scalars(out, name, help, "counter", family, |counter| counter.get() as f64);
        }
        Metric::Gauge(family) => scalars(out, name, help, "gauge", family, |gauge| gauge.get()),
        Metric::Histogram(family) => {
            let children = family.children();
            if children.is_empty() {
                return;
            }
            head(out, name, help, "histogram");
            for (values, child) in children {
                histogram(out, name, family.labels(), &values, &child);
            }
        }
        Metric::Callback { kind, value } => {
            head(out, name, help, kind);
            sample(out, name, "", &[], &[], None, value());
        }
        Metric::Callbacks(callbacks) => {
            // Copied first: a callback may register another.
            let children = callbacks.children.read().clone();
            if !children.is_empty() {
                head(out, name, help, "gauge");
            }
            for (values, value) in children {
                sample(out, name, "", callbacks.labels, &values, None, value());
            }
        }
    }
}

fn scalars<T: Clone>(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    family: &Family<T>,
    value: impl Fn(&T) -> f64,
) {
    let children = family.children();
    if children.is_empty() {
        return;
    }
    head(out, name, help, kind);
    for (values, child) in children {
        sample(out, name, "", family.labels(), &values, None, value(&child));
    }
}

fn histogram(out: &mut String, name: &str, labels: &[&str], values: &[String], child: &Histogram) {
    let mut total = 0;
    for (index, count) in child.0.counts.iter().enumerate() {
        total += count.load(Ordering::Relaxed);
        let bound = child.0.bounds.get(index).copied().unwrap_or(f64::INFINITY);
        sample(out, name, "_bucket", labels, values, Some(bound), total as f64);
    }
    let sum = f64::from_bits(child.0.sum.load(Ordering::Relaxed));
    sample(out, name, "_sum", labels, values, None, sum);
    sample(out, name, "_count", labels, values, None, total as f64);
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    push(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[&str],
    values: &[String],
    bound: Option<f64>,
    value: f64,
) {
    push(out, format_args!("{name}{suffix}"));
    let mut open = false;
    for (label, value) in labels.iter().zip(values) {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        push(out, format_args!("{}{label}=\"{value}\"", if open { ',' } else { '{' }));
        open = true;
    }
    if let Some(bound) = bound {
        push(out, format_args!("{}le=\"{}\"", if open { ',' } else { '{' }, Number(bound)));
        open = true;
    }
    push(out, format_args!("{} {}\n", if open { "}" } else { "" }, Number(value)));
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a `String` cannot fail.
    let _ = out.write_fmt(text);
}

/// A number the way Prometheus spells it.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            value if value.is_nan() => formatter.write_str("NaN"),
            f64::INFINITY => formatter.write_str("+Inf"),
            f64::NEG_INFINITY => formatter.write_str("-Inf"),
            value => write!(formatter, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registry;

    #[test]
    fn renders_every_type() {
        let registry = Registry::new();
        registry.counter("b_total", "Of b.", &["path"]).with(&["a\"\\\n"]).add(3);
        registry.gauge("c", "Of c.", &[]).only().set(1.5);
        registry.gauge_callback("d", "Of d.", || 7.0);
        registry.counter_callback("e_total", "Of e.", || 8.0);
        for (value, number) in [("y", 1.0), ("x", 2.0), ("y", 3.0)] {
            registry.gauge_callback_with("f", "Of f.", &["name"], &[value], move || number);
        }
        let histogram = registry.histogram("a_seconds", "Of a.", &["verb"], &[0.5, 1.0]).with(&["get"]);
        histogram.observe(0.5);
        histogram.observe_times(3.0, 2);
        registry.counter("silent_total", "Never counted.", &["x"]);
        let expected = [
            "# HELP a_seconds Of a.",
            "# TYPE a_seconds histogram",
            "a_seconds_bucket{verb=\"get\",le=\"0.5\"} 1",
            "a_seconds_bucket{verb=\"get\",le=\"1\"} 1",
            "a_seconds_bucket{verb=\"get\",le=\"+Inf\"} 3",
            "a_seconds_sum{verb=\"get\"} 6.5",
            "a_seconds_count{verb=\"get\"} 3",
            "# HELP b_total Of b.",
            "# TYPE b_total counter",
            "b_total{path=\"a\\\"\\\\\\n\"} 3",
            "# HELP c Of c.",
            "# TYPE c gauge",
            "c 1.5",
            "# HELP d Of d.",
            "# TYPE d gauge",
            "d 7",
            "# HELP e_total Of e.",
            "# TYPE e_total counter",
            "e_total 8",
            "# HELP f Of f.",
            "# TYPE f gauge",
            "f{name=\"x\"} 2",
            "f{name=\"y\"} 3",
            "",
        ];
        assert_eq!(registry.render(), expected.join("\n"));
        let one = registry.render_where(|name| name == "d");
        assert_eq!(one, "# HELP d Of d.\n# TYPE d gauge\nd 7\n");
    }
}
