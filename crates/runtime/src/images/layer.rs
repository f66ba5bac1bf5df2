//! Unpacks a layer's archive into a directory that overlayfs takes as a lower layer.
//!
//! Reads a tar stream (plain, gzip or zstd), writes files with owners, modes, times, extended
//! attributes and hard links. Whiteouts become overlayfs's: a character device 0:0 for a removed name,
//! an attribute for a directory whose lower content is hidden.
//!
//! Upstream: the OCI image specification's layer.md; the kernel's overlayfs.rst.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::reserve::Reserve;

/// Reads a stream as what its first bytes say it is.
pub(crate) fn decompressed<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = magic.clone();
    let whole = io::Cursor::new(magic).chain(input);
    Ok(if kind.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(whole))
    } else if kind.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    })
}

/// Counts and digests what passes through.
pub(crate) struct Digesting<R> {
    inner: R,
    hash: Sha256,
    /// Bytes so far.
    pub(crate) length: u64,
}

impl<R: Read> Digesting<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    /// The digest of all that was read, as `sha256:…`.
    pub(crate) fn digest(self) -> String {
        format!("sha256:{:x}", self.hash.finalize())
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

/// Unpacks into `directory`, which is empty; the digest of the uncompressed archive.
pub(crate) fn unpack(input: impl Read, directory: &Path) -> io::Result<String> {
    // Watched behind the decompression: a few bytes may become many.
    let mut input = Digesting::new(Reserve::of(directory).guard(decompressed(input)?));
    {
        let mut archive = tar::Archive::new(&mut input);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.set_unpack_xattrs(true);
        // Directories get their times and modes last: a read-only one must be filled first, and filling
        // changes the time.
        let mut directories = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(".wh."))
            {
                whiteout(directory, path.parent().unwrap_or(Path::new("")), name)?;
                continue;
            }
            match entry.header().entry_type() {
                EntryType::Directory => directories.push(entry),
                EntryType::Char | EntryType::Block | EntryType::Fifo => node(directory, &entry, &path)?,
                _ => {
                    entry.unpack_in(directory)?;
                }
            }
        }
        for mut entry in directories.into_iter().rev() {
            entry.unpack_in(directory)?;
        }
    }
    // What follows the archive's end belongs to the digest.
    io::copy(&mut input, &mut io::sink())?;
    // Without an entry for the root its mode is that of any image.
    Ok(input.digest())
}

/// A path of the archive below the directory, or an error if it leads out of it.
fn inside(directory: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut out = directory.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                if out != directory && fs::symlink_metadata(&out).is_ok_and(|m| m.is_symlink()) {
                    return Err(io::Error::other(format!(
                        "{} leads through a symbolic link",
                        path.display()
                    )));
                }
                out.push(name);
            }
            Component::ParentDir => {
                return Err(io::Error::other(format!("{} leads out of the layer", path.display())));
            }
            _ => {}
        }
    }
    Ok(out)
}

fn whiteout(directory: &Path, parent: &Path, name: &str) -> io::Result<()> {
    // With a name in it, so that the parent itself is looked at too: it may be a link to anywhere on the host.
    let within = inside(directory, &parent.join("x"))?;
    let parent = within.parent().unwrap_or(directory);
    fs::create_dir_all(parent)?;
    if name == ".wh..opq" {
        return set_opaque(parent);
    }
    if name.starts_with(".wh.") {
        return Ok(()); // other names of AUFS carry nothing
    }
    match mknod(&parent.join(name), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
        Err(nix::Error::EEXIST) => Ok(()), // replaced in the same layer
        other => Ok(other?),
    }
}

/// Hides what lower layers have in a directory.
fn set_opaque(directory: &Path) -> io::Result<()> {
    sys::mount::set_attribute(directory, "trusted.overlay.opaque", b"y")
}

fn node<R: Read>(directory: &Path, entry: &tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
    let target = inside(directory, path)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let device =
        makedev(header.device_major()?.unwrap_or(0).into(), header.device_minor()?.unwrap_or(0).into());
    let _ = fs::remove_file(&target);
    mknod(&target, kind, Mode::empty(), device)?;
    std::os::unix::fs::lchown(&target, Some(header.uid()? as u32), Some(header.gid()? as u32))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(header.mode()? & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &str, mode: u32) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }

    #[test]
    fn files_owners_links_and_whiteouts_arrive() {
        let bytes = archive(|b| {
            file(b, "etc/motd", "hello", 0o4755);
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(EntryType::Link);
            link.set_size(0);
            b.append_link(&mut link, "etc/copy", "etc/motd").unwrap();
            file(b, "etc/.wh.gone", "", 0);
            file(b, "var/.wh..wh..opq", "", 0);
        });
        let expected = format!("sha256:{:x}", Sha256::digest(&bytes));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
        for packed in [&bytes, &gzip, &zstd] {
            let directory = tempfile::tempdir().unwrap();
            assert_eq!(unpack(&packed[..], directory.path()).unwrap(), expected);
            let motd = fs::metadata(directory.path().join("etc/motd")).unwrap();
            assert_eq!((motd.uid(), motd.gid(), motd.mode() & 0o7777, motd.nlink()), (7, 8, 0o4755, 2));
            let gone = fs::symlink_metadata(directory.path().join("etc/gone")).unwrap();
            assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        }
    }

    #[test]
    fn an_archive_cannot_leave_its_directory() {
        let outside = tempfile::tempdir().unwrap();
        let bytes = archive(|b| {
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(EntryType::Symlink);
            link.set_size(0);
            link.set_mode(0o777);
            link.set_uid(0);
            link.set_gid(0);
            link.set_mtime(0);
            b.append_link(&mut link, "out", outside.path()).unwrap();
            file(b, "out/.wh.x", "", 0);
        });
        let directory = tempfile::tempdir().unwrap();
        let refused = unpack(&bytes[..], directory.path()).unwrap_err();
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
