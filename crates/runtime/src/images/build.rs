//! Makes a small image of files of this host: how the demo's image comes from the program itself.
//!
//! Writes one layer and a configuration into the store. The result depends only on the files, so that
//! building again changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::config::{ImageConfig, RootFs, RunConfig, architecture};
use super::layer::Digesting;
use super::reference::Reference;
use super::{Error, Image, Images, io_error};

/// An image to build.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Its name.
    pub name: String,
    /// Files: path in the image → path on this host. Modes are kept, owners are root.
    pub files: BTreeMap<PathBuf, PathBuf>,
    /// Symbolic links: path in the image → what it points to.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// How to run it.
    pub config: RunConfig,
    /// Whether the kubelet should not remove it.
    pub pinned: bool,
}

impl Build {
    /// Adds a program of this host as `target`, with the libraries that the *calling* process has loaded
    /// and the program's loader: so it is for this very program, or one with the same libraries.
    pub fn add_program(&mut self, program: &Path, target: &Path) -> io::Result<()> {
        self.files.insert(target.to_owned(), program.to_owned());
        let Some(loader) = interpreter(&fs::read(program)?) else { return Ok(()) };
        for line in fs::read_to_string("/proc/self/maps")?.lines() {
            if let Some(at) = line.find('/') {
                let path = Path::new(&line[at..]);
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.contains(".so") && path.is_file() {
                    self.files.insert(path.to_owned(), path.to_owned());
                }
            }
        }
        self.files.insert(loader.clone(), fs::canonicalize(&loader)?);
        Ok(())
    }
}

/// The path of the dynamic loader that a 64-bit little-endian ELF file names.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?) as usize);
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (u64_at(32)?, u16_at(54)?, u16_at(56)?);
    (0..count).map(|i| table + usize::from(i) * usize::from(size)).find_map(|header| {
        if u32_at(header)? != PT_INTERP {
            return None;
        }
        let (offset, length) = (u64_at(header + 8)?, u64_at(header + 32)?);
        let text = elf.get(offset..offset + length)?;
        Some(PathBuf::from(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()))
    })
}

/// Builds an image into the store below `root`.
pub fn build(root: &Path, build: &Build) -> Result<Image, Error> {
    let images = Images::open(root)?;
    let name = Reference::parse(&build.name)
        .map_err(|source| Error::Reference { text: build.name.clone(), source })?;
    let path = images.temporary("build");
    let pack = || -> io::Result<(File, String, u64)> {
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        fs::remove_file(&path)?;
        write_layer(build, &file)?;
        let mut reader = Digesting::new(io::BufReader::new(&file));
        io::Seek::rewind(&mut &file)?;
        io::copy(&mut reader, &mut io::sink())?;
        let length = reader.length;
        let digest = reader.digest();
        io::Seek::rewind(&mut &file)?;
        Ok((file, digest, length))
    };
    let (file, diff_id, size) = pack().map_err(io_error("pack the image"))?;
    let _layers = images.working()?;
    images.add_layer(&diff_id, || Ok(Box::new(file)))?;
    let config = ImageConfig {
        architecture: architecture().into(),
        os: "linux".into(),
        config: Some(build.config.clone()),
        rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
    };
    let json = serde_json::to_vec(&config)
        .map_err(|source| Error::Decode { what: "the image's configuration".into(), source })?;
    images.add_image(&json, [name.to_string()], [], size, build.pinned)
}

fn write_layer(build: &Build, file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut archive = tar::Builder::new(io::BufWriter::new(file));
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut directories: Vec<PathBuf> = ["etc", "tmp"].map(PathBuf::from).to_vec();
    let relative = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
    for target in build.files.keys().chain(build.links.keys()) {
        directories.extend(relative(target).ancestors().skip(1).map(Path::to_owned));
    }
    directories.sort();
    directories.dedup();
    for directory in directories.iter().filter(|d| !d.as_os_str().is_empty()) {
        let mode = if directory == Path::new("tmp") { 0o1777 } else { 0o755 };
        archive.append_data(&mut header(tar::EntryType::Directory, mode, 0), directory, io::empty())?;
    }
    for (target, source) in &build.files {
        let source = File::open(source)?;
        let meta = source.metadata()?;
        let mode = meta.permissions().mode() & 0o777;
        archive.append_data(
            &mut header(tar::EntryType::Regular, mode, meta.len()),
            relative(target),
            source,
        )?;
    }
    for (target, points_to) in &build.links {
        archive.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), relative(target), points_to)?;
    }
    io::Write::flush(&mut archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_built_once_and_found_by_name() {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("motd");
        fs::write(&source, "hello").unwrap();
        let wanted = Build {
            name: "demo".into(),
            files: [("/etc/motd".into(), source)].into(),
            links: [("/motd".into(), "etc/motd".into())].into(),
            config: RunConfig { entrypoint: vec!["/bin/demo".into()], ..Default::default() },
            pinned: true,
        };
        let image = build(root.path(), &wanted).unwrap();
        let images = Images::open(root.path()).unwrap();
        assert_eq!(images.text_of(&image, "etc/motd"), "hello");
        assert_eq!(build(root.path(), &wanted).unwrap(), image);
        assert_eq!(images.find("demo:latest").unwrap(), Some(image.clone()));
        assert_eq!(images.find(&image.id).unwrap(), Some(image.clone()));
        assert_eq!(images.find("other").unwrap(), None);
        let pulling = images.working().unwrap();
        images.remove("demo", &Default::default).unwrap();
        assert_eq!(images.list().unwrap(), []);
        // A pull that found the layer there counts on it until its image is recorded.
        assert_eq!(fs::read_dir(images.layers_directory()).unwrap().count(), 1);
        drop(pulling);
        images.collect_garbage(&Default::default).unwrap();
        assert_eq!(fs::read_dir(images.layers_directory()).unwrap().count(), 0);
    }

    #[test]
    fn the_loader_of_a_program_is_found() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        let loader = interpreter(&this).expect("tests are dynamically linked on glibc");
        assert!(loader.to_string_lossy().contains("ld-linux"), "{loader:?}");
        assert_eq!(interpreter(b"#!/bin/sh"), None);
    }
}
