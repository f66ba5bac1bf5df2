//! Which member of which cluster a directory belongs to.
//!
//! Reads and writes the file `member`: two lines that people can read. Chosen at random when the member is made, and
//! never changed after; an address or a name may change.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use store::Error;

/// A member's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster. One that was reset after the loss of its majority is another one: members of the old one must not
    /// talk to it.
    pub cluster: u64,
    /// The member.
    pub member: u64,
}

fn failed(context: String) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { context: context.clone(), source: Arc::new(source) }
}

impl Identity {
    /// What a directory says; `None` if no member was made there.
    pub fn load(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join("member");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed(format!("reading {}", path.display())))?,
        };
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.and_then(|number| u64::from_str_radix(number, 16).ok()).filter(|number| *number != 0)
        };
        match (number("cluster"), number("member")) {
            (Some(cluster), Some(member)) => Ok(Some(Self { cluster, member })),
            _ => Err(Error::Corrupt { path, offset: 0, detail: "it names no cluster and member".into() }),
        }
    }

    /// Writes it, durably and as a whole.
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        let (path, temporary) = (directory.join("member"), directory.join("member.tmp"));
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            write!(file, "cluster {:016x}\nmember {:016x}\n", self.cluster, self.member)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(directory)?.sync_all()
        };
        write().map_err(failed(format!("writing {}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_damage_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), None);
        let identity = Identity { cluster: 0xabc, member: u64::MAX };
        identity.save(directory.path()).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), Some(identity));
        for text in ["", "cluster 1\n", "cluster 0\nmember 1\n", "cluster x\nmember 1\n"] {
            fs::write(directory.path().join("member"), text).unwrap();
            assert!(matches!(Identity::load(directory.path()), Err(Error::Corrupt { .. })), "{text:?}");
        }
    }
}
