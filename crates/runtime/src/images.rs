//! The image store: what images there are, and the layers they are made of.
//!
//! Read first: [`Images`], [`Image`]. Reads and writes `<root>/images`: `index.json` (all images, written
//! as a whole), `blobs/` (configs and manifests), `layers/` (unpacked, each ready to be an overlayfs lower
//! directory). A lock file lets `ironclad images import` work beside a running server; the index is read
//! again when another process has replaced it.
//!
//! A layer's archive is not kept once it is unpacked. Everything here blocks.
//!
//! Not here: CRI's words for images (`service`), containers' writable layers (`engine`).

pub mod archive;
pub mod build;
pub mod config;
pub mod layer;
pub mod reference;
pub mod registry;
mod reserve;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use archive::import;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
pub use build::{Build, build};
use config::ImageConfig;
use parking_lot::Mutex;
use reference::Reference;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the store.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A document that cannot be read.
    #[error("cannot decode {what}")]
    Decode {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Not an image's name.
    #[error("{text:?}")]
    Reference {
        /// What was given.
        text: String,
        /// Why not.
        #[source]
        source: reference::Error,
    },
    /// Content is not what its digest says.
    #[error("unexpected digest of {what}: {found}, not {expected}")]
    Digest {
        /// Of what.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// No image for this machine.
    #[error("no match for platform in manifest: not found")]
    Platform,
    /// An archive without something it must have.
    #[error("{0}")]
    Archive(String),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: String,
    /// Full names with tags.
    pub names: BTreeSet<String>,
    /// Full names with digests of manifests.
    pub digests: BTreeSet<String>,
    /// Layer directories, bottom first.
    pub layers: Vec<String>,
    /// Bytes as transferred.
    pub size: u64,
    /// Whether the kubelet should not remove it.
    pub pinned: bool,
    /// How to run it.
    pub config: config::RunConfig,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Image>,
}

impl Index {
    fn find(&self, text: &str) -> Option<&Image> {
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        if reference::is_hex64(bare) {
            return self.images.get(&format!("sha256:{bare}"));
        }
        let full = Reference::parse(text).ok()?;
        let digest = full.digest.as_ref().map(|d| format!("{}@{d}", full.name()));
        self.images.values().find(|image| match &digest {
            Some(digest) => image.digests.contains(digest),
            None => image.names.contains(&full.to_string()),
        })
    }
}

/// What tells that the index file was replaced.
type Stamp = (u64, i64, i64);

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
    cached: Arc<Mutex<(Option<Stamp>, Arc<Index>)>>,
}

/// Held while the store is changed; other processes wait.
struct Locked(#[expect(dead_code, reason = "the lock is let go when the file is closed")] File);

/// Held while layers are made or taken that no record names yet: meanwhile nothing is collected, by this process or
/// another.
#[derive(Debug)]
pub(crate) struct Working(#[expect(dead_code, reason = "as of `Locked`")] File);

/// Tells which layers containers are made of; asked when nobody can take another one.
pub type InUse<'a> = &'a dyn Fn() -> BTreeSet<String>;

impl Images {
    /// Opens (or makes) the store below a runtime's root.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let directory = root.join("images");
        for part in ["blobs/sha256", "layers", "tmp"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(io_error(format!("create {}", path.display())))?;
        }
        Ok(Self { directory, cached: Arc::default() })
    }

    /// Where layers are.
    pub fn layers_directory(&self) -> PathBuf {
        self.directory.join("layers")
    }

    fn index(&self) -> Result<Arc<Index>, Error> {
        let path = self.directory.join("index.json");
        let mut cached = self.cached.lock();
        let stamp = match fs::metadata(&path) {
            Ok(meta) => Some((meta.ino(), meta.mtime(), meta.mtime_nsec())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_error("read the image index")(e)),
        };
        if stamp != cached.0 || stamp.is_none() {
            let index = if stamp.is_none() {
                Index::default()
            } else {
                let bytes = fs::read(&path).map_err(io_error("read the image index"))?;
                serde_json::from_slice(&bytes)
                    .map_err(|source| Error::Decode { what: "the image index".into(), source })?
            };
            *cached = (stamp, Arc::new(index));
        }
        Ok(cached.1.clone())
    }

    fn lock_file(&self, name: &str) -> Result<File, Error> {
        let path = self.directory.join(name);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        file.map_err(io_error(format!("open {}", path.display())))
    }

    fn lock(&self) -> Result<Locked, Error> {
        let file = self.lock_file("lock")?;
        file.lock().map_err(io_error("lock the image store"))?;
        Ok(Locked(file))
    }

    /// Keeps layers from being collected until the result is dropped. Waits for a collection that is under way.
    pub(crate) fn working(&self) -> Result<Working, Error> {
        let file = self.lock_file("busy")?;
        file.lock_shared().map_err(io_error("lock the image store's layers"))?;
        Ok(Working(file))
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), Error> {
        let mut index = Index::clone(&*self.index()?);
        change(&mut index);
        crate::wire::write_synced(&self.directory.join("index.json"), &index)
            .map_err(io_error("write the image index"))
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.index()?.images.values().cloned().collect())
    }

    /// The image with this ID, name or digest.
    pub fn find(&self, text: &str) -> Result<Option<Image>, Error> {
        Ok(self.index()?.find(text).cloned())
    }

    /// The image's configuration document as it was published.
    pub fn config_json(&self, image: &Image) -> Result<Vec<u8>, Error> {
        fs::read(self.blob(&image.id)).map_err(io_error("read the image's configuration"))
    }

    /// Removes an image with all its names. Layers that neither another image nor `in_use` needs go too, at once or, if
    /// an image is just being pulled, with the next collection.
    pub fn remove(&self, text: &str, in_use: InUse<'_>) -> Result<(), Error> {
        let locked = self.lock()?;
        let Some(image) = self.index()?.find(text).cloned() else { return Ok(()) };
        self.change(|index| drop(index.images.remove(&image.id)))?;
        let _ = fs::remove_file(self.blob(&image.id));
        drop(locked);
        self.collect_garbage(in_use)
    }

    /// Removes layers that nothing needs, and what interrupted work has left; nothing while work is under way.
    pub fn collect_garbage(&self, in_use: InUse<'_>) -> Result<(), Error> {
        let busy = self.lock_file("busy")?;
        match busy.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(()),
            Err(fs::TryLockError::Error(e)) => return Err(io_error("lock the image store's layers")(e)),
        }
        for entry in fs::read_dir(self.directory.join("tmp")).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
        let (index, in_use) = (self.index()?, in_use());
        let needed: BTreeSet<&String> =
            index.images.values().flat_map(|i| &i.layers).chain(&in_use).collect();
        let entries = fs::read_dir(self.layers_directory()).map_err(io_error("list the layers"))?;
        for entry in entries.flatten() {
            if !needed.contains(&entry.file_name().to_string_lossy().into_owned()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// Bytes and inodes the store takes up.
    pub fn usage(&self) -> (u64, u64) {
        crate::stats::disk_usage(&self.directory)
    }

    /// Where the store is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The text of a file of the image; empty if there is none. Only for files that are files in their
    /// layer (`/etc/passwd`, `/etc/group`): links are not followed.
    pub fn text_of(&self, image: &Image, path: &str) -> String {
        for layer in image.layers.iter().rev() {
            let layer = self.layers_directory().join(layer);
            let file = layer.join(path);
            // A link on the way leads to the host's files, and a directory that was removed hides what is below.
            let on_the_way = file.ancestors().skip(1).take_while(|above| *above != layer);
            let is_no_directory = |above: &Path| fs::symlink_metadata(above).is_ok_and(|meta| !meta.is_dir());
            if on_the_way.into_iter().any(is_no_directory) {
                return String::new();
            }
            match fs::symlink_metadata(&file) {
                Ok(meta) if meta.is_file() => return read_start(&file).unwrap_or_default(),
                Ok(_) => return String::new(), // removed, or no file
                Err(_) => {}
            }
        }
        String::new()
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs").join(digest.replace(':', "/"))
    }

    fn has_layer(&self, diff_id: &str) -> bool {
        self.layers_directory().join(layer_name(diff_id)).exists()
    }

    /// A new file or directory name for work in progress, on the store's filesystem.
    fn temporary(&self, purpose: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.directory.join("tmp").join(format!("{purpose}-{}-{number}", std::process::id()))
    }

    /// Unpacks a layer, unless it is there.
    fn add_layer(
        &self,
        diff_id: &str,
        open: impl FnOnce() -> Result<Box<dyn Read>, Error>,
    ) -> Result<(), Error> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let temporary = self.temporary("layer");
        let result = self.unpack_layer(&temporary, diff_id, open);
        if result.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        result
    }

    fn unpack_layer(
        &self,
        temporary: &Path,
        diff_id: &str,
        open: impl FnOnce() -> Result<Box<dyn Read>, Error>,
    ) -> Result<(), Error> {
        fs::create_dir_all(temporary).map_err(io_error("unpack a layer"))?;
        let found = layer::unpack(open()?, temporary).map_err(io_error("failed to extract layer"))?;
        if found != diff_id {
            return Err(Error::Digest { what: "a layer", found, expected: diff_id.to_owned() });
        }
        let target = self.layers_directory().join(layer_name(diff_id));
        match fs::rename(temporary, &target) {
            // Another import was faster.
            Err(_) if target.exists() => drop(fs::remove_dir_all(temporary)),
            other => other.map_err(io_error("unpack a layer"))?,
        }
        Ok(())
    }

    /// Records an image whose layers are unpacked.
    fn add_image(
        &self,
        config_json: &[u8],
        names: impl IntoIterator<Item = String>,
        digests: impl IntoIterator<Item = String>,
        size: u64,
        pinned: bool,
    ) -> Result<Image, Error> {
        let id = digest_of(config_json);
        let document = parse_config(config_json)?;
        let _locked = self.lock()?;
        crate::wire::write_whole(&self.blob(&id), config_json)
            .map_err(io_error("write the image's configuration"))?;
        let names: BTreeSet<String> = names.into_iter().collect();
        self.change(|index| {
            // A tag that moves leaves its old image.
            for other in index.images.values_mut().filter(|other| other.id != id) {
                other.names.retain(|name| !names.contains(name));
            }
            let image = index.images.entry(id.clone()).or_insert_with(|| Image {
                id: id.clone(),
                names: BTreeSet::new(),
                digests: BTreeSet::new(),
                layers: document.rootfs.diff_ids.iter().map(|d| layer_name(d)).collect(),
                size,
                pinned,
                config: document.config.unwrap_or_default(),
            });
            image.names.extend(names.iter().cloned());
            image.digests.extend(digests);
            image.pinned |= pinned;
        })?;
        self.find(&id)?.ok_or_else(|| Error::Archive(format!("image {id} vanished")))
    }
}

/// Decodes a configuration whose layers have names that the store can use.
fn parse_config(json: &[u8]) -> Result<ImageConfig, Error> {
    let config: ImageConfig = serde_json::from_slice(json)
        .map_err(|source| Error::Decode { what: "the image's configuration".into(), source })?;
    // The image's author writes them, and directories are named after them.
    match config.rootfs.diff_ids.iter().find(|id| !is_digest(id)) {
        Some(id) => Err(Error::Archive(format!("invalid layer digest {id:?} in the image's configuration"))),
        None => Ok(config),
    }
}

/// Whether a text is `sha256:` and 64 digits: the only digests that may become part of a path.
fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(reference::is_hex64)
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Short, because all lower directories (127 at most) must fit one page of mount options: 24 letters of six bits. Two layers of
/// one name would take an author 2⁷² steps; 24 digits, of four bits, would take 2⁴⁸.
fn layer_name(diff_id: &str) -> String {
    // Digits only, although `parse_config` has seen to it: a name must not lead out of the directory.
    let digits: Vec<u32> =
        diff_id.trim_start_matches("sha256:").chars().filter_map(|c| c.to_digit(16)).collect();
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).take(18).collect();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The largest part of a file of an image that is read.
const MOST_TEXT: u64 = 1 << 20;

/// The text a file begins with. An image says how large its files are, and a sparse one costs it nothing.
fn read_start(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MOST_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_leads_out_of_a_layer() {
        let (root, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let images = Images::open(root.path()).unwrap();
        fs::create_dir_all(host.path().join("below")).unwrap();
        fs::write(host.path().join("below/passwd"), "the host's").unwrap();
        let lower = images.layers_directory().join("lower");
        fs::create_dir_all(lower.join("etc/below")).unwrap();
        fs::write(lower.join("etc/below/passwd"), "its own").unwrap();
        let image = |layers: &[&str]| Image {
            id: String::new(),
            names: BTreeSet::new(),
            digests: BTreeSet::new(),
            layers: layers.iter().map(ToString::to_string).collect(),
            size: 0,
            pinned: false,
            config: config::RunConfig::default(),
        };
        fs::create_dir_all(images.layers_directory().join("empty")).unwrap();
        let upper = images.layers_directory().join("upper");
        fs::create_dir_all(&upper).unwrap();
        std::os::unix::fs::symlink(host.path(), upper.join("etc")).unwrap();
        for (layers, expected) in
            [(&["lower", "empty"][..], "its own"), (&["lower", "upper"], ""), (&["upper"], "")]
        {
            assert_eq!(images.text_of(&image(layers), "etc/below/passwd"), expected, "{layers:?}");
        }
    }

    #[test]
    fn names_of_layers_are_short_and_say_much_of_the_digest() {
        let name = |digits: &str| layer_name(&format!("sha256:{digits:0<64}"));
        assert_eq!(name("").len(), 24);
        // 144 bits: what differs in the 36th digit is another layer.
        assert_ne!(name(&"f".repeat(36)), name(&format!("{}e", "f".repeat(35))));
        let odd = name("fbffbf");
        assert!(odd.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{odd}");
        assert_eq!(layer_name("sha256:../../etc"), layer_name("sha256:ec"), "digits only");
    }
}
