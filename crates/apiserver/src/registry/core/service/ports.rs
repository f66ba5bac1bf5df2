//! Whose the node ports of a block are: 64 neighbours in one key of the store, written as a whole.
//!
//! Pure. So a Service with hundreds of node ports is written in one transaction that any etcd takes (128 operations by its
//! default), and the default range is 44 keys. Not here: reading and writing the keys (`claims`).
//! Upstream keeps all of them in one key (pkg/registry/core/service/portallocator).

use std::collections::BTreeMap;

use api::{Object, Status};
use bytes::Bytes;

/// Where the blocks are.
pub(super) const PREFIX: &str = "/registry/ranges/nodeports/";
/// Ports of a block.
const SIZE: u16 = 64;

/// The owners of a block's ports, as `namespace/name`; free ones are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Block(pub(super) BTreeMap<u16, String>);

/// Which block a port is in: its first port.
pub(super) fn first(port: u16) -> u16 {
    port - port % SIZE
}

/// The key of the block that starts with a port.
pub(super) fn key(first: u16) -> Bytes {
    format!("{PREFIX}{first:05}").into()
}

/// How a Service is called there.
pub(super) fn owner(service: &Object) -> String {
    format!("{}/{}", service.namespace().unwrap_or_default(), service.name())
}

impl Block {
    /// What is stored.
    pub(super) fn read(value: &[u8]) -> Result<Self, Status> {
        serde_json::from_slice(value).map(Self).map_err(Status::internal)
    }

    /// What to store: nothing, where nobody has anything.
    pub(super) fn value(&self) -> Option<Bytes> {
        // Numbers and strings: always JSON.
        (!self.0.is_empty()).then(|| serde_json::to_vec(&self.0).unwrap_or_default().into())
    }

    /// Gives a port to an owner; false if it is another's.
    #[must_use]
    pub(super) fn take(&mut self, port: u16, owner: &str) -> bool {
        self.0.entry(port).or_insert_with(|| owner.to_owned()) == owner
    }

    /// Takes a port from an owner, whose it may not be any more.
    pub(super) fn free(&mut self, port: u16, owner: &str) {
        if self.0.get(&port).is_some_and(|found| found == owner) {
            self.0.remove(&port);
        }
    }

    /// Brings it in line with what Services have (port, owner), as far as `ours` says that a port is this server's
    /// business. Whoever has a port that two want keeps it.
    pub(super) fn put_right(&mut self, wanted: &BTreeMap<u16, String>, ours: impl Fn(u16) -> bool) {
        self.0.retain(|port, _| wanted.contains_key(port) || !ours(*port));
        for (port, owner) in wanted {
            self.0.entry(*port).or_insert_with(|| owner.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ports: &[(u16, &str)]) -> Block {
        Block(ports.iter().map(|(port, owner)| (*port, (*owner).to_owned())).collect())
    }

    #[test]
    fn a_port_is_its_owners_until_he_gives_it_up() {
        let mut block = Block::default();
        assert!(block.take(30_080, "a/web") && block.take(30_080, "a/web"), "it may ask twice");
        assert!(!block.take(30_080, "b/web"));
        block.free(30_080, "b/web");
        let stored = block.value().unwrap();
        assert_eq!(stored, r#"{"30080":"a/web"}"#);
        assert_eq!(Block::read(&stored).unwrap(), block);
        block.free(30_080, "a/web");
        assert_eq!(block.value(), None);
        assert!(Block::read(b"[]").is_err());
    }

    #[test]
    fn blocks_part_the_range() {
        assert_eq!(
            [29_999, 30_000, 30_015, 30_016, 0, 65_535].map(first),
            [29_952, 29_952, 29_952, 30_016, 0, 65_472]
        );
        assert!(key(64) < key(30_016), "keys are in the order of the ports");
    }

    #[test]
    fn what_services_have_is_put_right_and_other_ranges_are_left_alone() {
        let mut found =
            block(&[(30_000, "a/old"), (30_001, "a/kept"), (30_002, "a/first"), (31_000, "a/other")]);
        let wanted = block(&[(30_001, "a/kept"), (30_002, "a/second"), (30_003, "a/new")]);
        found.put_right(&wanted.0, |port| port < 31_000);
        let expected =
            block(&[(30_001, "a/kept"), (30_002, "a/first"), (30_003, "a/new"), (31_000, "a/other")]);
        assert_eq!(found, expected);
    }
}
