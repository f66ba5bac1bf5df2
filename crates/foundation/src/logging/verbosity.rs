//! klog's levels (`-v=4`, `--vmodule=cache*=5`) over the levels of `tracing`.
//!
//! By upstream's conventions what an operator is to see is level 0 to 3, debugging is 4, tracing 5 and above; these are
//! `INFO` (with `WARN` and `ERROR`), `DEBUG` and `TRACE` here. Not here: the flags.
//! Upstream: k8s.io/klog (vmodule), community contributors/devel/sig-instrumentation/logging.md (what levels mean).

use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// klog's level of debugging messages.
const DEBUG: u32 = 4;
/// klog's level of messages that follow single steps.
const TRACE: u32 = 5;

/// Which events are logged: those up to a level, with other levels for some source files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verbosity {
    /// The level of every file that no module names.
    pub level: u32,
    /// The first that matches a file says its level.
    pub modules: Vec<VerboseModule>,
}

/// The level of the source files whose names match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerboseModule {
    /// With `*` and `?`; over the file's name without its extension, or over its path when it has a slash.
    pub pattern: String,
    /// Its level.
    pub level: u32,
}

impl FromStr for VerboseModule {
    type Err = String;

    /// Reads `pattern=N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is not of the form pattern=N");
        let (pattern, level) = text.split_once('=').ok_or_else(problem)?;
        let level = level.parse().map_err(|_| problem())?;
        if pattern.is_empty() {
            return Err(problem());
        }
        Ok(Self { pattern: pattern.to_owned(), level })
    }
}

impl Verbosity {
    fn enables(&self, metadata: &Metadata<'_>) -> bool {
        let named = metadata.file().and_then(|file| self.modules.iter().find(|module| module.names(file)));
        let level = named.map_or(self.level, |module| module.level);
        level_of(metadata.level()) <= level
    }

    fn most(&self) -> u32 {
        self.modules.iter().map(|module| module.level).fold(self.level, u32::max)
    }
}

impl VerboseModule {
    fn names(&self, file: &str) -> bool {
        let path = file.strip_suffix(".rs").unwrap_or(file);
        let name = path.rsplit('/').next().unwrap_or(path);
        let over = if self.pattern.contains('/') { path } else { name };
        matches(self.pattern.as_bytes(), over.as_bytes())
    }
}

/// klog's level of an event.
pub(super) fn level_of(level: &Level) -> u32 {
    match *level {
        Level::TRACE => TRACE,
        Level::DEBUG => DEBUG,
        _ => 0,
    }
}

/// Whether a pattern of `*` and `?` is the whole of a text. Takes time in the product of their lengths at most: a
/// pattern comes from a person at the start, a text from the program.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            matches(rest, text) || text.split_first().is_some_and(|(_, text)| matches(pattern, text))
        }
        (Some((one, pattern)), Some((other, text))) if *one == b'?' || one == other => matches(pattern, text),
        _ => false,
    }
}

impl<S> Filter<S> for Verbosity {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.enables(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enables(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.most() {
            0..DEBUG => LevelFilter::INFO,
            DEBUG..TRACE => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_over_names_or_paths() {
        for (pattern, file, expected) in [
            ("filters", "crates/apiserver/src/filters.rs", true),
            ("filter", "crates/apiserver/src/filters.rs", false),
            ("f*s", "crates/apiserver/src/filters.rs", true),
            ("filter?", "crates/apiserver/src/filters.rs", true),
            ("*", "crates/store/src/lib.rs", true),
            ("crates/store/*", "crates/store/src/embedded/log.rs", true),
            ("crates/store/*", "crates/api/src/lib.rs", false),
        ] {
            let module = VerboseModule { pattern: pattern.to_owned(), level: 1 };
            assert_eq!(module.names(file), expected, "{pattern} over {file}");
        }
    }

    #[test]
    fn a_module_is_a_pattern_and_a_level() {
        let module = VerboseModule { pattern: "cache*".to_owned(), level: 5 };
        assert_eq!("cache*=5".parse(), Ok(module));
        for wrong in ["cache", "cache=", "=4", "cache=-1", "cache=x"] {
            let error = wrong.parse::<VerboseModule>().unwrap_err();
            assert!(error.contains("pattern=N"), "{wrong}: {error}");
        }
    }
}
