//! Named health checks of a process, asked when somebody asks.
//!
//! Not here: the HTTP answers; a server renders a [`Report`] the way its API words it.

use std::sync::Arc;

use parking_lot::RwLock;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks of a process or of a part of it. Clones share the list.
#[derive(Clone, Default)]
pub struct Checks(Arc<RwLock<Vec<(String, Check)>>>);

/// What the checks said, in the order they were registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One entry per check: its name, and what is wrong if something is.
    pub entries: Vec<(String, Result<(), String>)>,
}

impl Report {
    /// Whether every check passed.
    pub fn ok(&self) -> bool {
        self.entries.iter().all(|(_, result)| result.is_ok())
    }
}

impl Checks {
    /// No checks yet: healthy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, or replaces the one of the same name. It runs on the asking thread: it looks at
    /// something that is already known and does no I/O.
    pub fn register<F>(&self, name: impl Into<String>, check: F)
    where
        F: Fn() -> Result<(), String> + Send + Sync + 'static,
    {
        let (name, check): (String, Check) = (name.into(), Arc::new(check));
        let mut checks = self.0.write();
        match checks.iter_mut().find(|(known, _)| *known == name) {
            Some(row) => row.1 = check,
            None => checks.push((name, check)),
        }
    }

    /// Runs every check.
    pub fn report(&self) -> Report {
        // Copied first, so that a check may itself register another.
        let checks = self.0.read().clone();
        Report { entries: checks.into_iter().map(|(name, check)| (name, check())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failing_check_fails_the_report() {
        let checks = Checks::new();
        assert!(checks.report().ok());
        checks.register("ping", || Ok(()));
        checks.register("store", || Err("no space left".to_owned()));
        let report = checks.report();
        assert!(!report.ok());
        assert_eq!(report.entries[1], ("store".to_owned(), Err("no space left".to_owned())));
        checks.register("store", || Ok(()));
        assert!(checks.report().ok());
    }
}
