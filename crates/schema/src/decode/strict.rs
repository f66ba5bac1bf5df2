//! What a strict decoder finds besides the object: unknown and repeated fields, each with its path.
//! Upstream: sigs.k8s.io/json (`saveStrictError`).

use std::fmt::Write as _;

use crate::json::Observer;

/// No more findings are kept than upstream keeps.
const MAX_FINDINGS: usize = 100;

/// Findings, and the path at which the decoder is.
#[derive(Debug)]
pub(crate) struct Findings {
    enabled: bool,
    path: String,
    marks: Vec<usize>,
    found: Vec<String>,
}

impl Findings {
    /// None yet; when not enabled there never will be any, and paths cost nothing.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, path: String::new(), marks: Vec::new(), found: Vec::new() }
    }

    /// Switches collection and returns what it was.
    pub(crate) fn set_enabled(&mut self, enabled: bool) -> bool {
        std::mem::replace(&mut self.enabled, enabled)
    }

    /// Records an unknown field of the object at hand.
    pub(crate) fn unknown(&mut self, key: &str) {
        self.add("unknown", key);
    }

    fn add(&mut self, what: &str, key: &str) {
        if !self.enabled || self.found.len() >= MAX_FINDINGS {
            return;
        }
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let finding = format!("{what} field {}", api::field::quote(&path));
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// All findings, in the order of the text.
    pub(crate) fn into_found(self) -> Vec<String> {
        self.found
    }
}

impl Observer for Findings {
    fn enter_key(&mut self, key: &str) {
        self.marks.push(self.path.len());
        if self.enabled {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(key);
        }
    }

    fn enter_index(&mut self, index: usize) {
        self.marks.push(self.path.len());
        if self.enabled {
            // Writing to a text cannot fail.
            let _ = write!(self.path, "[{index}]");
        }
    }

    fn leave(&mut self) {
        if let Some(mark) = self.marks.pop() {
            self.path.truncate(mark);
        }
    }

    fn duplicate(&mut self, key: &str) {
        self.add("duplicate", key);
    }
}
