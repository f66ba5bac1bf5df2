//! Sets up the process's log: to standard error, filtered, as text or as JSON lines.
//!
//! Reads nothing but its [`Settings`]; writes one line per event. Not here: what is logged; each crate uses `tracing`
//! itself. Which flags set it is the binary's.
//! Upstream: component-base/logs (the flags' meaning), component-base/logs/json (the keys of a JSON line).

mod json;
mod verbosity;

use std::io::IsTerminal;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

pub use json::JsonLines;
pub use verbosity::{VerboseModule, Verbosity};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One line of text per event, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per event, with the keys that upstream's components write.
    Json,
}

/// Which events are logged.
#[derive(Debug, Clone)]
pub enum Filter {
    /// In the syntax of `RUST_LOG`: `info,store=debug`.
    Directives(String),
    /// By klog's levels.
    Verbosity(Verbosity),
}

/// How a process logs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// Which events become one.
    pub filter: Filter,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("log filter {filter:?} is not valid")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What the parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process already logs elsewhere.
    #[error("logging is already set up")]
    Already,
}

/// Starts logging to standard error.
pub fn init(settings: Settings) -> Result<(), Error> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.event_format(JsonLines::default()).boxed(),
    };
    let lines = match settings.filter {
        Filter::Directives(filter) => {
            let parsed = EnvFilter::try_new(&filter).map_err(|source| Error::Filter { filter, source })?;
            lines.with_filter(parsed).boxed()
        }
        Filter::Verbosity(verbosity) => lines.with_filter(verbosity).boxed(),
    };
    tracing_subscriber::registry().with(lines).try_init().map_err(|_| Error::Already)
}

/// Starts logging for a test: what `RUST_LOG` asks for, captured by the test harness. Safe to call from
/// every test of a process.
pub fn init_for_test() {
    // Only the first of many tests succeeds, which is what is wanted.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}
