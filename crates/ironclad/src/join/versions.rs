//! Whether a server's version can take part in a cluster of another one. Pure.
//!
//! Members of the store exchange messages and log entries. Versions that write the same name their protocol alike
//! (`store_raft`'s, in the handshake of TLS) and may be mixed while a cluster is upgraded; others would stop at what they do
//! not understand, and are refused before they are members. Not here: members that are upgraded where they are, which stop by
//! themselves and say so (`store_raft`).

use serde::{Deserialize, Serialize};
use store_raft::transport::tls::PROTOCOL;

/// What a server tells another of its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    version: String,
    protocol: String,
}

impl Default for Version {
    /// What the first versions are, which did not tell.
    fn default() -> Self {
        Self { version: "0.1.0".to_owned(), protocol: "ironclad-raft/1".to_owned() }
    }
}

impl Version {
    /// This program's.
    pub fn own() -> Self {
        let protocol = String::from_utf8_lossy(PROTOCOL).into_owned();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), protocol }
    }

    /// Why a server of this version cannot become a member of a cluster of that one, if it cannot.
    pub fn objection(&self, cluster: &Self) -> Option<String> {
        let differs = self.protocol != cluster.protocol;
        differs.then(|| {
            format!(
                "the server that joins is of version {} and speaks {:?} with other members, those of the cluster are of \
                 version {} and speak {:?}: start it with the cluster's version, or upgrade the cluster first",
                self.version, self.protocol, cluster.version, cluster.protocol
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_write_the_same_may_be_mixed() {
        let of =
            |version: &str, protocol: &str| Version { version: version.into(), protocol: protocol.into() };
        assert_eq!(of("1.3.0", "ironclad-raft/1").objection(&Version::default()), None);
        let said = of("1.3.0", "ironclad-raft/2").objection(&Version::default()).unwrap();
        for part in ["version 1.3.0", "ironclad-raft/2", "version 0.1.0", "ironclad-raft/1", "start it with"]
        {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(Version::own().objection(&Version::own()), None);
    }

    #[test]
    fn what_an_older_server_does_not_say_is_known() {
        #[derive(Deserialize)]
        struct Said {
            #[serde(default)]
            version: Version,
        }
        let said: Said = serde_json::from_str("{}").unwrap();
        assert_eq!(said.version, Version::default());
    }
}
