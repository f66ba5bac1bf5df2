//! fsGroup: the files of a volume belong to the pod's group, which may read (and, unless the volume is read-only,
//! write) them, and new files inherit the group.
//!
//! Changes owners and modes below one directory; never follows a symbolic link.
//! Upstream: `pkg/volume/volume_linux.go`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use crate::Error;

/// Whether the whole tree is gone through even if its root looks right already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Always.
    Always,
    /// Only if the root's group or mode is not as it is to be.
    OnRootMismatch,
}

/// Gives `root` and everything below it to `group`.
pub fn apply(root: &Path, group: u32, read_only: bool, policy: Policy) -> Result<(), Error> {
    if policy == Policy::OnRootMismatch {
        let metadata = fs::symlink_metadata(root).map_err(|e| Error::host("read", root, e))?;
        let wanted = bits(true, read_only);
        if metadata.gid() == group && metadata.mode() & wanted == wanted {
            return Ok(());
        }
    }
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).map_err(|e| Error::host("read", &path, e))?;
        lchown(&path, None, Some(group)).map_err(|e| Error::host("chown", &path, e))?;
        if metadata.is_symlink() {
            continue;
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).map_err(|e| Error::host("read", &path, e))? {
                open.push(entry.map_err(|e| Error::host("read", &path, e))?.path());
            }
        }
        let mode = (metadata.mode() & 0o7777) | bits(metadata.is_dir(), read_only);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(|e| Error::host("chmod", &path, e))?;
    }
    Ok(())
}

/// The bits that the group must have.
fn bits(directory: bool, read_only: bool) -> u32 {
    let access = if read_only { 0o440 } else { 0o660 };
    if directory { access | 0o2110 } else { access }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_may_use_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        // The process's own group: works without root too.
        let group = fs::metadata(&file).unwrap().gid();
        apply(directory.path(), group, true, Policy::Always).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o440);
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o2110, 0o2110);
        apply(directory.path(), group, false, Policy::Always).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o660);
    }
}
