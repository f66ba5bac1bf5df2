//! Unpacks a layer's archive into a directory that overlayfs takes as a lower layer.
//!
//! Reads a tar stream (plain, gzip or zstd), writes files with owners, modes, times, extended
//! attributes and hard links. Whiteouts become overlayfs's: a character device 0:0 for a removed name,
//! an attribute for a directory whose lower content is hidden.
//!
//! A layer is its author's: what unpacking it takes of memory is bounded here, what it takes of the disk in `reserve`.
//!
//! Upstream: the OCI image specification's layer.md; the kernel's overlayfs.rst.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
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

/// The most that may be read for the headers of one entry: long names and extended attributes are held in memory. Go's
/// archive/tar takes 1 MiB for each of the three that an entry can have.
const MOST_HEADERS: u64 = 4 << 20;
/// The most bytes of names of directories in one layer: they are kept until its end.
const MOST_DIRECTORIES: usize = 64 << 20;

/// Counts what is read, and ends it when more is read than is allowed.
#[derive(Default)]
struct Allowance {
    read: Cell<u64>,
    limit: Cell<u64>,
}

impl Allowance {
    fn allow(&self, more: u64) {
        self.limit.set(self.read.get().saturating_add(more));
    }
}

/// See [`Allowance`].
struct Allowed<'a, R> {
    inner: R,
    allowance: &'a Allowance,
}

impl<R: Read> Read for Allowed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Allowance { read, limit } = self.allowance;
        if read.get() > limit.get() {
            return Err(io::Error::other("the headers of an entry of the layer are too large"));
        }
        let length = self.inner.read(buffer)?;
        read.set(read.get() + length as u64);
        Ok(length)
    }
}

/// Directories with the times they are to have.
#[derive(Default)]
struct Directories {
    times: Vec<(PathBuf, i64)>,
    bytes: usize,
}

impl Directories {
    fn keep(&mut self, path: PathBuf, time: u64) -> io::Result<()> {
        self.bytes += path.as_os_str().len() + size_of::<(PathBuf, i64)>();
        if self.bytes > MOST_DIRECTORIES {
            return Err(io::Error::other("the layer has too many directories"));
        }
        self.times.push((path, i64::try_from(time).unwrap_or(i64::MAX)));
        Ok(())
    }

    /// Sets the times: filling a directory has changed them.
    fn finish(self, directory: &Path) -> io::Result<()> {
        for (path, seconds) in self.times.into_iter().rev() {
            let (target, time) = (inside(directory, &path)?, TimeSpec::new(seconds, 0));
            match utimensat(nix::fcntl::AT_FDCWD, &target, &time, &time, UtimensatFlags::NoFollowSymlink) {
                Ok(()) | Err(nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Unpacks into `directory`, which is empty; the digest of the uncompressed archive.
pub(crate) fn unpack(input: impl Read, directory: &Path) -> io::Result<String> {
    // Watched behind the decompression: a few bytes may become many.
    let mut input = Digesting::new(Reserve::of(directory).guard(decompressed(input)?));
    let allowance = Allowance::default();
    {
        let mut archive = tar::Archive::new(Allowed { inner: &mut input, allowance: &allowance });
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.set_unpack_xattrs(true);
        let mut directories = Directories::default();
        let mut entries = archive.entries()?;
        // What the last entry has left unread, which the next call skips.
        let mut unread = 0;
        loop {
            allowance.allow(MOST_HEADERS + unread);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry?;
            let start = allowance.read.get();
            allowance.allow(u64::MAX);
            unpack_entry(&mut entry, directory, &mut directories)?;
            let taken = allowance.read.get() - start;
            // A sparse file's size is not that of its content, which unpacking has read.
            let content = if entry.header().entry_type().is_gnu_sparse() { 0 } else { entry.size() };
            unread = content.saturating_sub(taken);
        }
        directories.finish(directory)?;
    }
    // What follows the archive's end belongs to the digest.
    io::copy(&mut input, &mut io::sink())?;
    // Without an entry for the root its mode is that of any image.
    Ok(input.digest())
}

fn unpack_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    directory: &Path,
    directories: &mut Directories,
) -> io::Result<()> {
    let path = entry.path()?.into_owned();
    if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(".wh.")) {
        return whiteout(directory, path.parent().unwrap_or(Path::new("")), name);
    }
    match entry.header().entry_type() {
        // No files, and the crate would hold their content in memory.
        EntryType::XGlobalHeader | EntryType::XHeader => Ok(()),
        EntryType::Char | EntryType::Block | EntryType::Fifo => node(directory, entry, &path),
        kind => {
            let unpacked = entry.unpack_in(directory)?;
            if unpacked && kind == EntryType::Directory {
                directories.keep(path, entry.header().mtime()?)?;
            }
            Ok(())
        }
    }
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

    /// A header followed by an endless content of zeros.
    fn endless(kind: EntryType, path: &str) -> impl Read {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(0))
    }

    #[test]
    fn headers_are_bounded_and_contents_are_not() {
        let large = vec![7; MOST_HEADERS as usize + 1024];
        let long_name = format!("{}/end", "directory/".repeat(100));
        let bytes = archive(|b| {
            // Skipped, and longer than any header may be.
            let mut header = tar::Header::new_gnu();
            header.set_size(large.len() as u64);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            b.append_data(&mut header, "a/.wh.gone", &large[..]).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(large.len() as u64);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_mode(0o644);
            b.append_data(&mut header, "large", &large[..]).unwrap();
            file(b, &long_name, "found", 0o644);
        });
        let directory = tempfile::tempdir().unwrap();
        unpack(&bytes[..], directory.path()).unwrap();
        assert_eq!(fs::metadata(directory.path().join("large")).unwrap().len(), large.len() as u64);
        assert_eq!(fs::read(directory.path().join(&long_name)).unwrap(), b"found");

        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            // After a large file: what that leaves unread is nothing that a header may have.
            let start = &bytes[..bytes.len() - 1024];
            let directory = tempfile::tempdir().unwrap();
            let refused = unpack(start.chain(endless(kind, "x")), directory.path()).unwrap_err();
            assert!(refused.to_string().contains("too large"), "{kind:?}: {refused}");
        }
    }

    #[test]
    fn directories_are_bounded_and_have_their_times() {
        let bytes = archive(|b| {
            for path in ["a", "a/b"] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
                header.set_mode(0o511);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(1_000_000_000);
                b.append_data(&mut header, path, &[][..]).unwrap();
            }
            file(b, "a/b/c", "later", 0o644);
        });
        let directory = tempfile::tempdir().unwrap();
        unpack(&bytes[..], directory.path()).unwrap();
        for path in ["a", "a/b"] {
            let found = fs::metadata(directory.path().join(path)).unwrap();
            assert_eq!((found.mtime(), found.mode() & 0o7777), (1_000_000_000, 0o511), "{path}");
        }
        let mut directories = Directories::default();
        let refused = std::iter::from_fn(|| Some("x".repeat(4096)))
            .take(MOST_DIRECTORIES / 4096 + 1)
            .try_for_each(|path| directories.keep(path.into(), 0));
        assert!(refused.is_err());
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
