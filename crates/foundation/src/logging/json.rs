//! Events as JSON lines, with the keys that upstream's components write.
//!
//! `{"ts":1580306777047.2026,"caller":"apiserver/filters.rs:142","logger":"apiserver.filters","msg":"…","v":0,…}`:
//! `ts` counts milliseconds since 1970; an error has no `v`, and what went wrong stands under `err`. The fields of the
//! event follow under their own names. Upstream: component-base/logs/json (json.go), go-logr/zapr.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::verbosity::level_of;
use crate::{SharedClock, SystemClock};

/// The field under which this code base logs what went wrong, and upstream's key for it.
const ERROR: (&str, &str) = ("error", "err");

/// Formats an event as one JSON object.
pub struct JsonLines(SharedClock);

impl JsonLines {
    /// With times from `clock`.
    pub fn new(clock: SharedClock) -> Self {
        Self(clock)
    }
}

impl Default for JsonLines {
    fn default() -> Self {
        Self(SystemClock::shared())
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let micros = self.0.now().as_microsecond();
        // Milliseconds with a fraction. In whole microseconds: what more there is would not fit a double.
        let mut line = format!("{{\"ts\":{}.{:03}", micros.div_euclid(1000), micros.rem_euclid(1000));
        if let Some(file) = fields.file.as_deref().or_else(|| metadata.file()) {
            let number = fields.line.or_else(|| metadata.line().map(u64::from)).unwrap_or(0);
            key(&mut line, "caller");
            string(&mut line, &format!("{}:{number}", short(file)));
        }
        key(&mut line, "logger");
        string(&mut line, &fields.target.as_deref().unwrap_or_else(|| metadata.target()).replace("::", "."));
        key(&mut line, "msg");
        string(&mut line, &fields.message);
        if *metadata.level() != Level::ERROR {
            key(&mut line, "v");
            write!(line, "{}", level_of(metadata.level()))?;
        }
        line.push_str(&fields.rest);
        line.push('}');
        writeln!(out, "{line}")
    }
}

/// `crates/apiserver/src/filters.rs` as `apiserver/filters.rs`; a dependency's file by its last two parts.
fn short(file: &str) -> String {
    match file.strip_prefix("crates/").and_then(|file| file.split_once("/src/")) {
        Some((name, rest)) => format!("{name}/{rest}"),
        None => {
            let from = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
            file[from..].to_owned()
        }
    }
}

fn key(out: &mut String, name: &str) {
    out.push(',');
    string(out, name);
    out.push(':');
}

/// Appends a JSON string. Control characters, which a log must not pass on to a terminal, are escaped.
fn string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => {
                // Every control character is below U+00A0. Writing into a `String` cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    /// What a dependency that logs by the crate `log` says of itself, in fields of these names.
    target: Option<String>,
    file: Option<String>,
    line: Option<u64>,
}

impl Fields {
    fn raw(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        key(&mut self.rest, renamed(field.name()));
        let _ = self.rest.write_fmt(value);
    }

    fn text(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "log.target" => self.target = Some(value),
            "log.file" => self.file = Some(value),
            "log.module_path" => {}
            name => {
                key(&mut self.rest, renamed(name));
                string(&mut self.rest, &value);
            }
        }
    }
}

fn renamed(name: &str) -> &str {
    // A raw identifier (`r#type`) is a name of its own.
    let name = name.strip_prefix("r#").unwrap_or(name);
    if name == ERROR.0 { ERROR.1 } else { name }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log.line" {
            self.line = Some(value);
            return;
        }
        self.raw(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.raw(field, format_args!("{value}"));
        } else {
            self.text(field, value.to_string());
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::ManualClock;
    use crate::logging::{VerboseModule, Verbosity};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(verbosity: Verbosity, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let clock = Arc::new(ManualClock::new("2020-01-29T14:39:37.0472026Z".parse().unwrap()));
        use tracing_subscriber::Layer;
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(JsonLines::new(clock))
            .with_filter(verbosity);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_the_keys_of_upstream() {
        let text = logged(Verbosity { level: 4, modules: Vec::new() }, || {
            tracing::info!(pod = "a\"b\n", count = 3, ready = true, share = 0.5, list = ?[1, 2], "started");
            tracing::debug!("details");
            tracing::error!(error = %"no such file", r#type = "x", "cannot read");
            tracing::trace!("too much");
        });
        let place = |line: &str| {
            let at = line.find("json.rs:").unwrap() + "json.rs:".len();
            let digits: String = line[at..].chars().take_while(char::is_ascii_digit).collect();
            assert!(digits.parse::<u32>().unwrap() > 0);
            line.replace(&format!("json.rs:{digits}"), "json.rs:N")
        };
        let lines: Vec<String> = text.lines().map(place).collect();
        let head = "{\"ts\":1580308777047.202,\"caller\":\"foundation/logging/json.rs:N\",\"logger\":\"foundation.logging.json.tests\"";
        assert_eq!(
            lines,
            [
                format!(
                    "{head},\"msg\":\"started\",\"v\":0,\"pod\":\"a\\\"b\\n\",\"count\":3,\"ready\":true,\"share\":0.5,\"list\":\"[1, 2]\"}}"
                ),
                format!("{head},\"msg\":\"details\",\"v\":4}}"),
                format!("{head},\"msg\":\"cannot read\",\"err\":\"no such file\",\"type\":\"x\"}}"),
            ]
        );
    }

    #[test]
    fn a_module_has_a_level_of_its_own() {
        let count = |pattern: &str, level| {
            let modules = vec![VerboseModule { pattern: pattern.to_owned(), level }];
            let text = logged(Verbosity { level: 0, modules }, || {
                tracing::info!("one");
                tracing::trace!("two");
            });
            text.lines().count()
        };
        assert_eq!(count("json", 5), 2);
        assert_eq!(count("other", 5), 1);
    }
}
