//! Files with configurations of admission (`staticManifestsDir`): reads them, and has them taken into force.
//!
//! Not here: what they say (`apiserver::admission::manifests`), seeing that they change (`roles::apiserver`).

use std::path::{Path, PathBuf};

use ::apiserver::admission::manifests::{Manifests, is_manifest};
use anyhow::Context as _;

/// Puts the files of the directory of `manifests` into force, if it has one; says whether that changes anything.
pub fn take(manifests: &Manifests) -> anyhow::Result<bool> {
    let Some(directory) = manifests.directory() else { return Ok(false) };
    let files = read(directory).with_context(|| format!("staticManifestsDir {}", directory.display()))?;
    Ok(manifests.take(&files)?)
}

/// The manifests of a directory, in the order of their names; those of directories in it are not looked at.
fn read(directory: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).context("it cannot be read")? {
        let path = entry.context("it cannot be read")?.path();
        if is_manifest(&path) && !path.is_dir() {
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
            found.push((path, text));
        }
    }
    found.sort_unstable();
    Ok(found)
}
