//! subPath: one file or directory inside a volume, found without ever leaving the volume.
//!
//! A container may have filled the volume with symbolic links; every step is therefore resolved by the kernel below
//! the volume's root (`openat2` with `RESOLVE_BENEATH`), and what was found is bind-mounted by its descriptor to a place
//! that no container can change. Not here: expansion of `subPathExpr` (that is the container's environment).
//! Upstream: `pkg/volume/util/subpath`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::{Error, Host};

/// Mounts `sub_path` of the volume at `volume` onto `target` (made as a file or directory, whichever it is) and
/// returns `target`. A sub-path that does not exist becomes a directory.
pub fn prepare(host: &dyn Host, volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, Error> {
    let found = open(volume, sub_path)?;
    let handle = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let directory = fs::metadata(&handle).map_err(|e| Error::host("read", volume, e))?.is_dir();
    if host.is_mount_point(target).map_err(|e| Error::host("inspect", target, e))? {
        host.unmount(target).map_err(|e| Error::host("unmount", target, e))?;
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::host("create", parent, e))?;
    }
    if directory {
        fs::create_dir_all(target).map_err(|e| Error::host("create", target, e))?;
    } else {
        fs::write(target, b"").map_err(|e| Error::host("create", target, e))?;
    }
    host.mount_bind(&handle, target).map_err(|e| Error::host("mount", target, e))?;
    Ok(target.to_owned())
}

/// Opens `sub_path` below `volume`, making directories that are missing.
fn open(volume: &Path, sub_path: &str) -> Result<OwnedFd, Error> {
    let relative = Path::new(sub_path);
    if relative.components().any(|component| !matches!(component, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::Invalid(format!(
            "subPath {sub_path:?} must be relative and must not contain '..'"
        )));
    }
    let failed = |error: nix::Error| Error::host("open", volume.join(relative), io::Error::from(error));
    let root = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed)?;
    let beneath = |path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&root, path, how)
    };
    match beneath(relative) {
        Ok(found) => return Ok(found),
        Err(nix::Error::ENOENT) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut path = PathBuf::from(".");
    let mut parent = beneath(&path).map_err(failed)?;
    for component in relative.components() {
        path.push(component);
        parent = match beneath(&path) {
            Err(nix::Error::ENOENT) => {
                let name = Path::new(component.as_os_str());
                mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o750)).map_err(failed)?;
                beneath(&path).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_leaves_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        fs::create_dir_all(volume.join("a")).unwrap();
        fs::write(directory.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("escape")).unwrap();
        std::os::unix::fs::symlink("a", volume.join("inside")).unwrap();
        for (path, ok) in [
            ("a", true),
            ("inside", true),
            ("new/deep", true),
            ("escape", false),
            ("../outside", false),
            ("/etc", false),
        ] {
            assert_eq!(open(&volume, path).is_ok(), ok, "{path}");
        }
        assert!(volume.join("new/deep").is_dir());
    }
}
