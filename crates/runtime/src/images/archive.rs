//! Imports archives: OCI layouts and what `docker save` writes, as tar, also compressed.
//!
//! Upstream: the OCI image specification's image-layout.md; containerd images/archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::config::{self, Descriptor, Manifest};
use super::reference::Reference;
use super::{Error, Image, Images, digest_of, io_error, layer, parse_config};

/// Annotations that carry a name: containerd's, then the specification's.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Imports every image of an archive into the store below `root`; the first gets the name `name`, if given.
pub fn import(root: &Path, input: impl Read, name: Option<&str>) -> Result<Vec<Image>, Error> {
    Images::open(root)?.import(input, name)
}

/// An archive on disk, uncompressed, with the places of its files.
struct Contents {
    file: File,
    /// Offset and length.
    entries: BTreeMap<String, (u64, u64)>,
    links: BTreeMap<String, String>,
}

impl Contents {
    fn read(file: File) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut links = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let path = clean(&entry.path()?.to_string_lossy());
            match entry.link_name()? {
                // `docker save` of old links equal layers: relative to the link's directory.
                Some(target) => {
                    let base = path.rsplit_once('/').map_or("", |(d, _)| d);
                    let target = match entry.header().entry_type() {
                        tar::EntryType::Symlink => resolve(base, &target.to_string_lossy()),
                        _ => clean(&target.to_string_lossy()),
                    };
                    links.insert(path, target);
                }
                None => {
                    entries.insert(path, (entry.raw_file_position(), entry.size()));
                }
            }
        }
        Ok(Self { file, entries, links })
    }

    fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn open(&self, name: &str) -> Result<io::Take<File>, Error> {
        let name = clean(name);
        let name = self.links.get(&name).unwrap_or(&name);
        let (offset, length) =
            self.entries.get(name).ok_or_else(|| Error::Archive(format!("the archive has no {name}")))?;
        let open = || {
            // A descriptor of its own, so that positions do not meet.
            let mut file =
                File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)))?;
            file.seek(SeekFrom::Start(*offset))?;
            Ok(file.take(*length))
        };
        open().map_err(io_error(format!("read {name}")))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        // Documents are small; a layer under a document's name shall not fill the memory.
        self.open(name)?.take(8 << 20).read_to_end(&mut bytes).map_err(io_error(format!("read {name}")))?;
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(name)?)
            .map_err(|source| Error::Decode { what: name.to_owned(), source })
    }

    fn length(&self, name: &str) -> u64 {
        let name = clean(name);
        self.entries.get(self.links.get(&name).unwrap_or(&name)).map_or(0, |e| e.1)
    }
}

fn clean(path: &str) -> String {
    path.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/').to_owned()
}

fn resolve(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

impl Images {
    /// Imports every image of an archive (see [`import`]).
    pub fn import(&self, input: impl Read, name: Option<&str>) -> Result<Vec<Image>, Error> {
        let name = name
            .map(|text| {
                Reference::parse(text).map_err(|source| Error::Reference { text: text.into(), source })
            })
            .transpose()?
            .map(|r| r.to_string());
        let _layers = self.working()?;
        let path = self.temporary("import");
        let spool = || {
            let mut file = File::options().create_new(true).read(true).write(true).open(&path)?;
            std::fs::remove_file(&path)?; // gone with its descriptor, whatever happens
            io::copy(&mut layer::decompressed(input)?, &mut file)?;
            file.rewind()?;
            Contents::read(file)
        };
        let contents = spool().map_err(io_error("read the archive"))?;
        if contents.has("index.json") {
            self.import_oci(&contents, name)
        } else if contents.has("manifest.json") {
            self.import_docker(&contents, name)
        } else {
            Err(Error::Archive(
                "neither an OCI layout (index.json) nor a Docker archive (manifest.json)".into(),
            ))
        }
    }

    fn import_docker(&self, contents: &Contents, mut name: Option<String>) -> Result<Vec<Image>, Error> {
        let mut images = Vec::new();
        for entry in contents.json::<Vec<DockerEntry>>("manifest.json")? {
            let names = match name.take() {
                Some(name) => vec![name],
                None => full_names(entry.repo_tags.unwrap_or_default()),
            };
            let config = contents.bytes(&entry.config)?;
            let diff_ids = parse_config(&config)?.rootfs.diff_ids;
            if diff_ids.len() != entry.layers.len() {
                return Err(Error::Archive("the image's configuration has another number of layers".into()));
            }
            let mut size = config.len() as u64;
            for (diff_id, path) in diff_ids.iter().zip(&entry.layers) {
                size += contents.length(path);
                self.add_layer(diff_id, || Ok(Box::new(contents.open(path)?)))?;
            }
            images.push(self.add_image(&config, names, [], size, false)?);
        }
        Ok(images)
    }

    fn import_oci(&self, contents: &Contents, mut name: Option<String>) -> Result<Vec<Image>, Error> {
        let index: Manifest = contents.json("index.json")?;
        let mut images = Vec::new();
        for entry in &index.manifests {
            let names = match name.take() {
                Some(name) => vec![name],
                None => full_names(NAMES.iter().find_map(|n| entry.annotations.get(*n)).cloned()),
            };
            images.push(self.import_manifest(contents, entry, names)?);
        }
        Ok(images)
    }

    fn import_manifest(
        &self,
        contents: &Contents,
        entry: &Descriptor,
        names: Vec<String>,
    ) -> Result<Image, Error> {
        let mut digest = entry.digest.clone();
        let mut manifest: Manifest = contents.json(&blob(&digest))?;
        if !manifest.manifests.is_empty() {
            digest = config::pick(&manifest.manifests).ok_or(Error::Platform)?.digest.clone();
            manifest = contents.json(&blob(&digest))?;
        }
        let descriptor =
            manifest.config.ok_or_else(|| Error::Archive(format!("manifest {digest} has no config")))?;
        let config = contents.bytes(&blob(&descriptor.digest))?;
        let found = digest_of(&config);
        if found != descriptor.digest {
            return Err(Error::Digest {
                what: "an image's configuration",
                found,
                expected: descriptor.digest,
            });
        }
        let diff_ids = parse_config(&config)?.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::Archive("mismatched image rootfs and manifest layers".into()));
        }
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            self.add_layer(diff_id, || Ok(Box::new(contents.open(&blob(&layer.digest))?)))?;
        }
        let size = descriptor.size + manifest.layers.iter().map(|l| l.size).sum::<u64>();
        let digests: Vec<String> = names
            .iter()
            .filter_map(|n| Reference::parse(n).ok())
            .map(|r| format!("{}@{}", r.name(), entry.digest))
            .collect();
        self.add_image(&config, names, digests, size, false)
    }
}

/// Full forms of the names that are any.
fn full_names(names: impl IntoIterator<Item = String>) -> Vec<String> {
    names.into_iter().filter_map(|n| Reference::parse(&n).ok()).map(|r| r.to_string()).collect()
}
