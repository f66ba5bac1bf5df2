//! Where the programs are that `tests/tools.sh` installs: helm, and the interpreters with the clients written for them.
//!
//! The layout is the script's; it is described at its top. Not here: `kubectl`, which comes in versions (`kubectl.rs`).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folder that `tests/tools.sh --path` prints.
pub fn folder() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    env::var_os("IRONCLAD_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("ironclad/tools")
    })
}

/// A file in that folder, which must be there.
pub fn path(name: &str) -> PathBuf {
    present(folder().join(name))
}

/// What `PYTHONPATH` must be for the official Python client and kopf.
pub fn python_packages() -> PathBuf {
    newest("python-")
}

/// A Node.js with the official JavaScript client: the program, and what `NODE_PATH` must be.
pub fn node() -> (PathBuf, PathBuf) {
    let folder = newest("node-");
    (present(folder.join("bin/node")), present(folder.join("lib/node_modules")))
}

/// The script leaves the folders of versions that it once installed: the last one made is the one it wants.
fn newest(prefix: &str) -> PathBuf {
    let made = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let folders = fs::read_dir(folder()).into_iter().flatten().flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(prefix) && !name.ends_with(".new") && !name.ends_with(".wheel")
    });
    let newest = folders.map(|entry| entry.path()).max_by_key(|path| made(path));
    newest.unwrap_or_else(|| panic!("{prefix}… is not in {}: run tests/tools.sh first", folder().display()))
}

fn present(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is not there: run tests/tools.sh first", path.display());
    path
}
