//! Files that change together: a timestamped directory behind one symbolic link that is renamed into place.
//!
//! Writes below one directory. A reader that opens `key` goes through `..data` and so sees either all of the old
//! files or all of the new. Not here: where the bytes come from, ownership by fsGroup.
//! Upstream: `pkg/volume/util/atomic_writer.go` (layout: `..data`, `..data_tmp`, `..<timestamp>.<random>`).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use crate::{Error, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the directory `target` show exactly `payload`. Returns whether anything changed.
///
/// `stamp` names the new version's directory; it must differ from every earlier one.
/// `finish` is called on that directory before it becomes visible (ownership).
pub fn write(
    target: &Path,
    payload: &Payload,
    stamp: &str,
    finish: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<bool, Error> {
    validate(payload)?;
    let data = target.join(DATA);
    // The link is believed only as far as it names a version beside itself.
    let old = fs::read_link(&data).ok().filter(|old| is_version(old));
    if let Some(old) = &old
        && matches(&target.join(old), payload)
    {
        // A crash may have come between the switch and the links.
        link(target, payload)?;
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let version = target.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&version).map_err(|e| Error::host("create", &version, e))?;
    set_mode(&version, 0o755)?;
    for (path, file) in payload {
        let full = version.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::host("create", parent, e))?;
        }
        fs::write(&full, &file.data).map_err(|e| Error::host("write", &full, e))?;
        set_mode(&full, file.mode)?;
        if let Some(user) = file.user {
            chown(&full, Some(user), None).map_err(|e| Error::host("chown", &full, e))?;
        }
    }
    finish(&version)?;
    let new_data = target.join(NEW_DATA);
    match fs::remove_file(&new_data) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::host("remove", &new_data, error));
        }
        _ => {}
    }
    symlink(&name, &new_data).map_err(|e| Error::host("link", &new_data, e))?;
    fs::rename(&new_data, &data).map_err(|e| Error::host("rename", &new_data, e))?;
    link(target, payload)?;
    if let Some(old) = old {
        let old = target.join(old);
        // The new version is in place; what cannot be removed now is removed with the volume.
        if let Err(error) = fs::remove_dir_all(&old) {
            tracing::warn!(path = %old.display(), %error, "an old version of a volume was not removed");
        }
    }
    Ok(true)
}

/// Whether a link's text names a version's directory: one component, as `..2026_01_02`. What a link names is removed
/// when the next version is in place, and must not lead out of the volume.
fn is_version(link: &Path) -> bool {
    let mut components = link.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => name.as_encoded_bytes().starts_with(b".."),
        _ => false,
    }
}

/// The names at the top of the volume: links into `..data`, and none that the payload no longer has.
fn link(target: &Path, payload: &Payload) -> Result<(), Error> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let path = target.join(name);
        if fs::symlink_metadata(&path).is_err() {
            symlink(Path::new(DATA).join(name), &path).map_err(|e| Error::host("link", &path, e))?;
        }
    }
    for entry in fs::read_dir(target).map_err(|e| Error::host("read", target, e))? {
        let entry = entry.map_err(|e| Error::host("read", target, e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(entry.path()).map_err(|e| Error::host("remove", entry.path(), e))?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Error::host("chmod", path, e))
}

/// Refuses names that would leave the volume or hide its own.
fn validate(payload: &Payload) -> Result<(), Error> {
    for path in payload.keys() {
        let bad = |why: &str| Err(Error::Invalid(format!("invalid path {path:?}: {why}")));
        if path.is_empty() {
            return bad("must not be empty");
        }
        if path.len() > 4096 {
            return bad("must be at most 4096 characters");
        }
        let components: Vec<_> = Path::new(path).components().collect();
        if components.iter().any(|component| !matches!(component, Component::Normal(_))) {
            return bad("must be relative and must not contain '..'");
        }
        if path.starts_with("..") {
            return bad("must not start with '..'");
        }
    }
    Ok(())
}

/// Whether the files below `version` are the payload's, byte for byte, and nothing else.
fn matches(version: &Path, payload: &Payload) -> bool {
    let mut found = 0usize;
    let mut open = vec![version.to_path_buf()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { return false };
        for entry in entries {
            let Ok(entry) = entry else { return false };
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else { return false };
            if metadata.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(version).ok().and_then(Path::to_str);
            let Some(file) = name.and_then(|name| payload.get(name)) else { return false };
            if metadata.len() != file.data.len() as u64
                || file.user.is_some_and(|user| metadata.uid() != user)
            {
                return false;
            }
            if !fs::read(&path).is_ok_and(|data| data == file.data) {
                return false;
            }
            found += 1;
        }
    }
    found == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::File;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| {
                ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o640, user: None })
            })
            .collect()
    }

    #[test]
    fn shows_exactly_the_payload_and_changes_only_when_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();

        let first = payload(&[("a", "1"), ("dir/b", "2")]);
        assert!(write(root, &first, "t1", |_| Ok(())).unwrap());
        assert_eq!((read("a"), read("dir/b")), (Some("1".into()), Some("2".into())));
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(root, &first, "t2", |_| Ok(())).unwrap());
        assert_eq!(fs::read_link(root.join(DATA)).unwrap(), Path::new("..t1"));

        assert!(write(root, &payload(&[("a", "9"), ("c", "3")]), "t3", |_| Ok(())).unwrap());
        assert_eq!((read("a"), read("c"), read("dir/b")), (Some("9".into()), Some("3".into()), None));
        assert!(fs::symlink_metadata(root.join("dir")).is_err());
        assert!(fs::symlink_metadata(root.join("..t1")).is_err(), "the old version is removed");
    }

    #[test]
    fn a_bent_link_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (directory.path().join("volume"), directory.path().join("elsewhere"));
        for link in ["../elsewhere", "..t0/../../elsewhere", "..", "."] {
            fs::create_dir_all(&elsewhere).unwrap();
            fs::create_dir(&root).unwrap();
            fs::write(elsewhere.join("keep"), "x").unwrap();
            fs::create_dir(root.join("..t0")).unwrap();
            symlink(link, root.join(DATA)).unwrap();
            assert!(write(&root, &payload(&[("b", "1")]), "t1", |_| Ok(())).unwrap(), "{link}");
            assert!(elsewhere.join("keep").exists(), "{link}");
            assert_eq!(fs::read_link(root.join(DATA)).unwrap(), Path::new("..t1"), "{link}");
            fs::remove_dir_all(&root).unwrap();
        }
    }

    #[test]
    fn refuses_paths_that_leave_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/passwd", "a/../../b", "", "..hidden"] {
            assert!(write(directory.path(), &payload(&[(path, "x")]), "t", |_| Ok(())).is_err(), "{path}");
        }
    }
}
