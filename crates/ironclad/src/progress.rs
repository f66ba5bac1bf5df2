//! What a person watches while a cluster starts or the demo runs: one line per step, with its time.
//!
//! Writes standard output. On a terminal a running step shows a moving mark and its line is rewritten in
//! place; elsewhere only finished steps are printed. Not here: logs, which go to standard error.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// The stage on which steps are shown.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    terminal: bool,
    spinner: usize,
    shown: bool,
}

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

impl Default for Progress {
    fn default() -> Self {
        Self { started: Instant::now(), terminal: std::io::stdout().is_terminal(), spinner: 0, shown: false }
    }
}

impl Progress {
    /// A line without a mark.
    pub fn say(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// A finished step: what is ready, a remark, and how long it took.
    pub fn done(&mut self, step: &str, remark: &str, took: Duration) {
        let mark = self.paint("32", "✓");
        self.write(&format!("  {mark} {step:<20} {remark:<44} {:>9}\n", duration(took)));
    }

    /// A step that failed.
    pub fn failed(&mut self, step: &str, why: &str) {
        let mark = self.paint("31", "✗");
        self.write(&format!("  {mark} {step:<20} {why}\n"));
    }

    /// A step that goes on; shown on terminals only, and rewritten by whatever is shown next.
    pub fn running(&mut self, step: &str, remark: &str) {
        if self.terminal {
            self.spinner = (self.spinner + 1) % SPINNER.len();
            let mark = self.paint("36", SPINNER[self.spinner]);
            self.write(&format!("  {mark} {step:<20} {remark}"));
            self.shown = true;
        }
    }

    /// Time since the first step.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A text in bold on terminals.
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        let clear = if std::mem::take(&mut self.shown) { "\r\x1b[2K" } else { "" };
        // A closed standard output is no reason to stop a cluster.
        let _ = write!(out, "{clear}{text}").and_then(|()| out.flush());
    }
}

/// A duration as a person reads it: `0.4 ms`, `12 ms`, `1.25 s`.
pub fn duration(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    match milliseconds {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (micros, text) in [(400, "0.4 ms"), (12_300, "12 ms"), (999_000, "999 ms"), (1_250_000, "1.25 s")]
        {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }
}
