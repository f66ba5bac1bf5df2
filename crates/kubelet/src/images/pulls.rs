//! Which images this kubelet has pulled, and with whose credentials: so that an image that one tenant's secret has brought to
//! the node is not everybody's.
//!
//! Reads and writes `<kubelet root>/image_manager`: `pulled/` has a record for each image that was pulled, `pulling/` a mark
//! for each pull that is under way. An image of which there is no record was there before (imported, or pulled by somebody
//! else), and is everybody's: upstream's policy `NeverVerifyPreloadedImages`. The marks are why a kubelet that dies between
//! pull and record does not take its own image for such a one.
//! Not here: pulling ([`super`]), whether a registry accepts credentials (it alone knows).
//! Upstream: `pkg/kubelet/images/pullmanager` (KubeletEnsureSecretPulledImages).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// Credentials of one image that are remembered, at most; upstream's bound on records that are only matched.
const MOST_SECRETS: usize = 100;
/// Records, at most, before those of images that are gone are dropped.
const MANY_RECORDS: usize = 512;

/// A Secret whose credentials a registry has accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Of the credentials themselves: the same ones in another Secret are as good.
    pub hash: String,
}

impl Source {
    fn is_as_good_as(&self, known: &Source) -> bool {
        let same_secret =
            (&self.uid, &self.namespace, &self.name) == (&known.uid, &known.namespace, &known.name);
        self.hash == known.hash || (same_secret && !self.uid.is_empty())
    }
}

/// Who may use an image under one of its names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Access {
    /// It was pulled without credentials.
    everybody: bool,
    secrets: Vec<Source>,
}

/// One image that was pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    image_ref: String,
    /// By the name that pods give, without tag and digest.
    names: BTreeMap<String, Access>,
}

/// A pull that is under way.
#[derive(Serialize, Deserialize)]
struct Mark {
    image: String,
}

/// What a pod must show to use an image that is there.
#[derive(Debug, PartialEq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// One of these, or as good as one of these.
    OneOf(Vec<Source>),
    /// The registry must be asked.
    Pull,
}

/// See the module.
#[derive(Debug)]
pub struct Pulls {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<String, Record>,
    /// Pulls under way by image, also those that a kubelet before this one did not end.
    pulling: BTreeMap<String, usize>,
}

/// A pull that is under way. If it is dropped without a word (a pod that is deleted meanwhile), the image may be there or
/// may come yet: the mark stays, and the next pod has to pull.
#[derive(Debug)]
#[must_use = "say how the pull has ended"]
pub struct Pulling<'a> {
    pulls: &'a Pulls,
    image: String,
    ended: bool,
}

impl Pulls {
    /// Reads what is remembered below a kubelet's root.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        let directory = root.join("image_manager");
        let mut state = State::default();
        for record in read_all::<Record>(&directory.join("pulled"))? {
            state.records.insert(record.image_ref.clone(), record);
        }
        for mark in read_all::<Mark>(&directory.join("pulling"))? {
            state.pulling.insert(mark.image, 0);
        }
        Ok(Self { directory, state: Mutex::new(state) })
    }

    fn path(&self, kind: &str, what: &str) -> PathBuf {
        self.directory.join(kind).join(format!("sha256-{:x}", Sha256::digest(what)))
    }

    /// What a pod needs that names an image which is there as `image_ref`.
    pub fn needs(&self, image: &str, image_ref: &str) -> Needs {
        let state = self.state.lock();
        match state.records.get(image_ref) {
            None if state.pulling.contains_key(image) => Needs::Pull,
            None => Needs::Nothing,
            Some(record) => match record.names.get(bare(image)) {
                Some(Access { everybody: true, .. }) => Needs::Nothing,
                Some(access) if !access.secrets.is_empty() => Needs::OneOf(access.secrets.clone()),
                _ => Needs::Pull,
            },
        }
    }

    /// Whether what a pod has is enough. Credentials that are known by their Secret or by themselves only are remembered whole.
    pub fn accepts(&self, image: &str, image_ref: &str, known: &[Source], offered: &[Source]) -> bool {
        let good = |offer: &&Source| known.iter().any(|known| offer.is_as_good_as(known));
        let Some(accepted) = offered.iter().find(good) else { return false };
        if !known.contains(accepted) && known.len() < MOST_SECRETS {
            self.remember(image, image_ref, Some(accepted));
        }
        true
    }

    /// A pull begins. It fails only if that cannot be written down.
    pub fn begin(&self, image: &str) -> std::io::Result<Pulling<'_>> {
        let mut state = self.state.lock();
        write(&self.path("pulling", image), &Mark { image: image.to_owned() })?;
        *state.pulling.entry(image.to_owned()).or_default() += 1;
        Ok(Pulling { pulls: self, image: image.to_owned(), ended: false })
    }

    /// Whether there are so many records that those of images that are gone should go.
    pub fn are_many(&self) -> bool {
        self.state.lock().records.len() > MANY_RECORDS
    }

    /// Drops the records of all images but these.
    pub fn keep(&self, image_refs: &[String]) {
        let mut state = self.state.lock();
        state.records.retain(|image_ref, _| {
            let is_there = image_refs.contains(image_ref);
            if !is_there {
                let _ = std::fs::remove_file(self.path("pulled", image_ref));
            }
            is_there
        });
    }

    /// Whether it could be written down.
    fn remember(&self, image: &str, image_ref: &str, source: Option<&Source>) -> bool {
        let mut state = self.state.lock();
        let record = state.records.entry(image_ref.to_owned()).or_default();
        image_ref.clone_into(&mut record.image_ref);
        let access = record.names.entry(bare(image).to_owned()).or_default();
        match source {
            None => access.everybody = true,
            Some(source) => {
                // Changed credentials of a Secret take the place of those it had.
                access.secrets.retain(|known| (&known.uid, &known.name) != (&source.uid, &source.name));
                access.secrets.push(source.clone());
            }
        }
        let written = write(&self.path("pulled", image_ref), record);
        if let Err(error) = &written {
            tracing::error!(image, %error, "cannot record that an image was pulled");
        }
        written.is_ok()
    }
}

impl Pulling<'_> {
    /// The image is there; `source` has opened the registry, or nothing was needed.
    pub fn done(self, image_ref: &str, source: Option<&Source>) {
        // Where it cannot be written down the mark stays: without it the next kubelet would take the image for everybody's.
        if self.pulls.remember(&self.image, image_ref, source) {
            self.end();
        }
    }

    /// The runtime has said that the image was not pulled.
    pub fn failed(self) {
        self.end();
    }

    fn end(mut self) {
        self.ended = true;
    }
}

/// The mark goes with the last pull of this image that is under way, if that has ended.
impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        let mut state = self.pulls.state.lock();
        let Some(count) = state.pulling.get_mut(&self.image) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 && self.ended {
            state.pulling.remove(&self.image);
            let _ = std::fs::remove_file(self.pulls.path("pulling", &self.image));
        }
    }
}

/// An image's name without tag and digest.
fn bare(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

fn read_all<T: DeserializeOwned>(directory: &Path) -> std::io::Result<Vec<T>> {
    std::fs::create_dir_all(directory)?;
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory)?.flatten() {
        // Half a file is none: whoever wrote it has not acted on it either.
        let read = std::fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        all.extend(read);
    }
    Ok(all)
}

/// Writes a file whole.
fn write(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(value).map_err(std::io::Error::from)?)?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "reg.example.com/team/app:1";
    const REF: &str = "sha256:aa";

    fn source(uid: &str, hash: &str) -> Source {
        Source { uid: uid.into(), namespace: "a".into(), name: "pull".into(), hash: hash.into() }
    }

    #[test]
    fn who_may_use_an_image_that_is_there() {
        let anybody = |pulls: &Pulls| pulls.begin(IMAGE).unwrap().done(REF, None);
        let with_secret = |pulls: &Pulls| pulls.begin(IMAGE).unwrap().done(REF, Some(&source("s", "h")));
        let failed = |pulls: &Pulls| pulls.begin(IMAGE).unwrap().failed();
        let given_up = |pulls: &Pulls| drop(pulls.begin(IMAGE).unwrap());
        type Past<'a> = &'a dyn Fn(&Pulls);
        let of_secret = || Needs::OneOf(vec![source("s", "h")]);
        let cases: [(&str, Past<'_>, &str, Needs); 8] = [
            ("was there before", &|_| {}, IMAGE, Needs::Nothing),
            ("pulled without credentials", &anybody, IMAGE, Needs::Nothing),
            ("with another tag", &anybody, "reg.example.com/team/app@sha256:00", Needs::Nothing),
            ("pulled with a secret", &with_secret, IMAGE, of_secret()),
            ("by another name", &with_secret, "mirror.example.com/app:1", Needs::Pull),
            ("a pull that failed", &failed, IMAGE, Needs::Nothing),
            ("a pull that nobody ended", &given_up, IMAGE, Needs::Pull),
            (
                "both ways",
                &|pulls| {
                    with_secret(pulls);
                    anybody(pulls)
                },
                IMAGE,
                Needs::Nothing,
            ),
        ];
        for (what, past, image, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            let pulls = Pulls::open(root.path()).unwrap();
            past(&pulls);
            assert_eq!(pulls.needs(image, REF), expected, "{what}");
            let again = Pulls::open(root.path()).unwrap();
            assert_eq!(again.needs(image, REF), expected, "{what}, after a restart");
        }
    }

    #[test]
    fn the_next_pull_that_ends_takes_an_old_mark_away() {
        let root = tempfile::tempdir().unwrap();
        let pulls = Pulls::open(root.path()).unwrap();
        drop(pulls.begin(IMAGE).unwrap());
        pulls.begin(IMAGE).unwrap().done(REF, None);
        assert_eq!(std::fs::read_dir(root.path().join("image_manager/pulling")).unwrap().count(), 0);
        assert_eq!(
            pulls.needs(IMAGE, "sha256:bb"),
            Needs::Nothing,
            "another image of that name, loaded by hand"
        );
    }

    #[test]
    fn which_credentials_are_enough() {
        for (what, offered, expected) in [
            ("none", vec![], false),
            ("another's", vec![source("t", "x")], false),
            ("the same secret", vec![source("t", "x"), source("s", "h")], true),
            ("the same credentials in another secret", vec![source("t", "h")], true),
            ("the secret, changed", vec![source("s", "new")], true),
        ] {
            let root = tempfile::tempdir().unwrap();
            let pulls = Pulls::open(root.path()).unwrap();
            pulls.begin(IMAGE).unwrap().done(REF, Some(&source("s", "h")));
            let Needs::OneOf(known) = pulls.needs(IMAGE, REF) else { panic!("{what}") };
            assert_eq!(pulls.accepts(IMAGE, REF, &known, &offered), expected, "{what}");
            if expected {
                let Needs::OneOf(known) = pulls.needs(IMAGE, REF) else { panic!("{what}") };
                assert!(offered.iter().any(|offer| known.contains(offer)), "{what}: remembered");
            }
        }
    }

    #[test]
    fn records_of_images_that_are_gone_go() {
        let root = tempfile::tempdir().unwrap();
        let pulls = Pulls::open(root.path()).unwrap();
        pulls.begin(IMAGE).unwrap().done(REF, Some(&source("s", "h")));
        pulls.keep(&["sha256:bb".to_owned()]);
        // The same content, imported by the administrator.
        assert_eq!(Pulls::open(root.path()).unwrap().needs(IMAGE, REF), Needs::Nothing);
    }
}
