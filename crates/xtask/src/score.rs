//! Two scores against what upstream left behind: serialized objects that come out as they went in, and the answers to
//! manifests that a real server was asked.
//! Reads a folder with `api` (one object of each kind as JSON, YAML and protobuf) and `golden` (recorded answers), and
//! the table of `docs/compat.md`; the answers are those of a whole API server in this process.
//! Not here: which rows of the table are right.

mod answers;
mod compare;
mod fixtures;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

/// How many names of what differs are shown.
const SHOWN: usize = 20;

/// Both scores.
#[derive(Debug, Default)]
pub struct Report {
    /// Files that hold the same after they were read and written.
    pub round_trips: usize,
    /// Files of which that is not so, with the reason.
    pub broken: Vec<String>,
    /// Manifests answered as recorded.
    pub same: usize,
    /// Manifests that the recorded client refused by itself; a server was not asked.
    pub unasked: usize,
    /// The rows of `docs/compat.md` that explain the manifests that are answered otherwise, one for each manifest.
    pub known: Vec<String>,
    /// Manifests answered otherwise, with what differs.
    pub different: Vec<String>,
}

impl Report {
    /// Whether nothing differs that is not known to.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.different.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "fixtures: {} of {} round-trip", self.round_trips, self.round_trips + self.broken.len())?;
        for broken in self.broken.iter().take(SHOWN) {
            writeln!(f, "  {broken}")?;
        }
        writeln!(
            f,
            "answers: {} of {} the same, {} known to differ, {} different; {} were the client's alone",
            self.same,
            self.same + self.known.len() + self.different.len(),
            self.known.len(),
            self.different.len(),
            self.unasked
        )?;
        let mut known: std::collections::BTreeMap<&str, usize> = Default::default();
        for row in &self.known {
            *known.entry(row).or_default() += 1;
        }
        for (row, count) in known {
            writeln!(f, "  known: {row} ({count})")?;
        }
        for different in self.different.iter().take(SHOWN) {
            writeln!(f, "  {different}")?;
        }
        Ok(())
    }
}

/// Reads everything in `folder` and scores it; `root` is the workspace.
pub fn report(root: &Path, folder: &Path) -> Result<Report> {
    let mut report = Report::default();
    fixtures::score(&folder.join("api"), &mut report)?;
    let compat = root.join("docs/compat.md");
    let compat =
        std::fs::read_to_string(&compat).with_context(|| format!("cannot read {}", compat.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(answers::score(&folder.join("golden"), &compat, &mut report))?;
    Ok(report)
}

/// The files of a folder in the order of their names.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
