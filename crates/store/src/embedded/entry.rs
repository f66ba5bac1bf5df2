//! What the log and the checkpoint hold: entries, each an atomic set of changes, and their bytes.
//!
//! Pure. An entry with key changes carries their revision; one that only concerns leases or compaction
//! carries 0. All numbers are little-endian. Not here: checksums and framing (`wal`, `checkpoint`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::mvcc::Record;
use crate::types::{LeaseId, Revision};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const GRANT: u8 = 3;
const REVOKE: u8 = 4;
const COMPACT: u8 = 5;
const UNTIL: u8 = 6;

/// An atomic set of changes.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    /// A new version of a key, or its deletion. Its `mod_revision` is the entry's.
    Key(Arc<Record>),
    /// A new lease, or what is left of an old one, in seconds.
    Grant { id: LeaseId, ttl: i64, remaining: i64 },
    /// The end of a lease, after its keys.
    Revoke { id: LeaseId },
    /// When exactly a lease ends, in a replica's own time and to the millisecond: all members must agree.
    Until { id: LeaseId, deadline: Duration },
    /// What is older has been forgotten.
    Compact { revision: Revision },
}

impl Entry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&(self.changes.len() as u32).to_le_bytes());
        for change in &self.changes {
            match change {
                Change::Key(record) if record.is_delete() => {
                    out.push(DELETE);
                    out.extend_from_slice(&(record.key.len() as u32).to_le_bytes());
                    out.extend_from_slice(&record.key);
                }
                Change::Key(record) => {
                    out.push(PUT);
                    out.extend_from_slice(&(record.key.len() as u32).to_le_bytes());
                    out.extend_from_slice(&(record.value.len() as u32).to_le_bytes());
                    out.extend_from_slice(&record.create_revision.to_le_bytes());
                    out.extend_from_slice(&record.version.to_le_bytes());
                    out.extend_from_slice(&record.lease.to_le_bytes());
                    out.extend_from_slice(&record.key);
                    out.extend_from_slice(&record.value);
                }
                Change::Grant { id, ttl, remaining } => {
                    out.push(GRANT);
                    for number in [id, ttl, remaining] {
                        out.extend_from_slice(&number.to_le_bytes());
                    }
                }
                Change::Revoke { id } => {
                    out.push(REVOKE);
                    out.extend_from_slice(&id.to_le_bytes());
                }
                Change::Until { id, deadline } => {
                    out.push(UNTIL);
                    out.extend_from_slice(&id.to_le_bytes());
                    out.extend_from_slice(&(deadline.as_millis() as u64).to_le_bytes());
                }
                Change::Compact { revision } => {
                    out.push(COMPACT);
                    out.extend_from_slice(&revision.to_le_bytes());
                }
            }
        }
    }

    /// Gives keys the buffers that `intern` has for them, in an entry that nobody else has seen yet.
    pub fn share_keys(&mut self, intern: impl Fn(&[u8]) -> Option<Bytes>) {
        for change in &mut self.changes {
            if let Change::Key(record) = change
                && let Some(record) = Arc::get_mut(record)
                && let Some(key) = intern(&record.key)
            {
                record.key = key;
            }
        }
    }

    /// Reads one entry from the front of `input`. `intern` gives a key's own buffer if there is one.
    /// `None`: these are not the bytes of an entry.
    pub fn decode(input: &mut &[u8], intern: impl Fn(&[u8]) -> Option<Bytes>) -> Option<Self> {
        let revision = u64::from_le_bytes(array(input)?);
        let count = u32::from_le_bytes(array(input)?) as usize;
        let key_of = |key: &[u8]| intern(key).unwrap_or_else(|| Bytes::copy_from_slice(key));
        // A change takes five bytes at least: a wrong count must not reserve memory.
        let mut changes = Vec::with_capacity(count.min(input.len() / 5 + 1));
        for _ in 0..count {
            changes.push(match take(input, 1)?[0] {
                PUT => {
                    let key = u32::from_le_bytes(array(input)?) as usize;
                    let value = u32::from_le_bytes(array(input)?) as usize;
                    let create_revision = u64::from_le_bytes(array(input)?);
                    let version = u64::from_le_bytes(array(input)?);
                    let lease = i64::from_le_bytes(array(input)?);
                    Change::Key(Arc::new(Record {
                        key: key_of(take(input, key)?),
                        value: Bytes::copy_from_slice(take(input, value)?),
                        create_revision,
                        mod_revision: revision,
                        version,
                        lease,
                    }))
                }
                DELETE => {
                    let key = u32::from_le_bytes(array(input)?) as usize;
                    Change::Key(Arc::new(Record {
                        key: key_of(take(input, key)?),
                        value: Bytes::new(),
                        create_revision: 0,
                        mod_revision: revision,
                        version: 0,
                        lease: 0,
                    }))
                }
                GRANT => {
                    let [id, ttl, remaining] =
                        [array(input)?, array(input)?, array(input)?].map(i64::from_le_bytes);
                    Change::Grant { id, ttl, remaining }
                }
                REVOKE => Change::Revoke { id: i64::from_le_bytes(array(input)?) },
                UNTIL => Change::Until {
                    id: i64::from_le_bytes(array(input)?),
                    deadline: Duration::from_millis(u64::from_le_bytes(array(input)?)),
                },
                COMPACT => Change::Compact { revision: u64::from_le_bytes(array(input)?) },
                _ => return None,
            });
        }
        Some(Self { revision, changes })
    }
}

/// Takes `count` bytes from the front.
fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

/// Takes a number's bytes from the front.
pub(super) fn array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    take(input, N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &'static str) -> Change {
        Change::Key(Arc::new(Record {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(value.as_bytes()),
            create_revision: 3,
            mod_revision: 7,
            version: 2,
            lease: -1,
        }))
    }

    #[test]
    fn bytes_round_trip_and_every_cut_is_refused() {
        let changes = vec![
            put("value"),
            Change::Grant { id: 5, ttl: 60, remaining: 12 },
            Change::Until { id: 5, deadline: Duration::from_millis(12_345) },
            Change::Revoke { id: 5 },
            Change::Compact { revision: 4 },
        ];
        let entry = Entry { revision: 7, changes };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let decoded = Entry::decode(&mut &*bytes, |_| None).unwrap();
        assert_eq!(format!("{entry:?}"), format!("{decoded:?}"));
        for cut in 0..bytes.len() {
            assert!(Entry::decode(&mut &bytes[..cut], |_| None).is_none(), "cut at {cut}");
        }
    }
}
