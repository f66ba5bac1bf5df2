//! Reads and writes the files of the PKI: private modes, whole-file replacement, durable where losing the file
//! would lose the cluster's identity.
//! Not here: what is in the files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::Error;

/// Mode of files that hold a private key.
pub(crate) const SECRET: u32 = 0o600;
/// Mode of files that anybody may read.
pub(crate) const PUBLIC: u32 = 0o644;

fn fail(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Makes the directory (and its parents) with mode 0700, or narrows an existing one to it.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail("create", path))?;
    let mode = fs::metadata(path).map_err(fail("read", path))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail("protect", path))?;
    }
    Ok(())
}

/// The text of a file, or `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail("read", path)(e)),
    }
}

/// Replaces a file whole: readers see the old content or the new, never a part.
pub(crate) fn replace(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    write(path, content, mode, false)
}

/// Like [`replace`], and on disk before it returns.
pub(crate) fn replace_durably(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    write(path, content, mode, true)
}

fn write(path: &Path, content: &str, mode: u32, durable: bool) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A left-over of an interrupted write could have a wider mode, which `mode` below would not change.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(fail("write", path)(e)),
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(content.as_bytes())?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&new, path)
    };
    write().map_err(fail("write", path))
}

/// Puts the names in a directory on disk.
pub(crate) fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(fail("write", path))
}
