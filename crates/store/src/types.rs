//! The vocabulary of the contract: keys with their revisions, transactions, watches, leases.
//!
//! Plain data. Upstream: etcd's `api/v3/mvccpb` and `etcdserverpb`, whose terms these are.

use bytes::Bytes;

/// Counts the writing transactions of a store, from 1 (the empty store). Never goes back.
pub type Revision = u64;

/// Names a lease; positive.
pub type LeaseId = i64;

/// A key with its value as of some revision. Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty when only keys were asked for, and for deletions.
    pub value: Bytes,
    /// The revision that made the key (the last time it was made).
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// How many times the key has been written since it was made, from 1; 0 for deletions.
    pub version: u64,
    /// The lease the key is attached to, or 0.
    pub lease: LeaseId,
}

/// The first key after all keys that start with `prefix`; empty when there is none (then it means the
/// end of all keys).
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Which keys to read, as of when, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Range {
    /// The first key.
    pub start: Bytes,
    /// The first key no longer wanted; empty means that there is no end.
    pub end: Bytes,
    /// Read as of this revision; 0 is the latest.
    pub revision: Revision,
    /// At most so many keys; 0 is all.
    pub limit: usize,
    /// Only count.
    pub count_only: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Stop at the limit. `count` is then only that of the keys returned, and a read costs its limit and not what
    /// the range holds.
    pub uncounted: bool,
    /// What the process that is asked knows will do: no agreement is waited for, and what was acknowledged lately may be
    /// missing.
    pub serializable: bool,
}

impl Range {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let end = after(&start);
        Self { start, end, ..Self::default() }
    }

    /// All keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end, ..Self::default() }
    }

    /// The same range as of `revision`.
    pub fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }

    /// The same range as far as the process that is asked knows it.
    pub fn serializable(self) -> Self {
        Self { serializable: true, ..self }
    }

    /// The same range with at most `limit` keys.
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

/// The very next key after `key`.
fn after(key: &[u8]) -> Bytes {
    let mut end = Vec::with_capacity(key.len() + 1);
    end.extend_from_slice(key);
    end.push(0);
    end.into()
}

/// What a [`Range`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeResponse {
    /// The store's revision at the time of the read (not the revision that was asked for).
    pub revision: Revision,
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the result short.
    pub more: bool,
    /// How many keys the range holds at the revision read, whatever the limit (unless `uncounted` was asked for).
    pub count: u64,
}

/// A value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutValue {
    /// These bytes. They are copied, so that a slice of a large buffer does not keep it alive.
    Plain(Bytes),
    /// `head`, the decimal digits of the transaction's revision, `tail`: how an object carries its own
    /// revision while the stored buffer can be cached and sent as it is. Put together in one allocation.
    Stamped {
        /// What comes before the revision.
        head: Bytes,
        /// What comes after it.
        tail: Bytes,
    },
}

/// A condition of a transaction: what every key of a range must be. Where the range holds no key, it is what a key
/// that does not exist is: revision, version and lease 0, and no value (which no comparison of values holds for).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The first key to look at.
    pub start: Bytes,
    /// The first key no longer looked at; empty means that there is no end. `None`: only `start` itself.
    pub end: Option<Bytes>,
    /// How what is found must stand to `target`.
    pub relation: Relation,
    /// What is looked at, and what it is compared with.
    pub target: Target,
}

/// How what is found must stand to what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Greater; of values: later in byte order.
    Greater,
    /// Less; of values: earlier in byte order.
    Less,
}

/// What of a key is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The revision that last wrote it.
    ModRevision(Revision),
    /// The revision that made it.
    CreateRevision(Revision),
    /// How often it has been written.
    Version(u64),
    /// Its value.
    Value(Bytes),
    /// The lease it is attached to.
    Lease(LeaseId),
}

impl Compare {
    /// One key's property is exactly this.
    pub fn equal(key: impl Into<Bytes>, target: Target) -> Self {
        Self { start: key.into(), end: None, relation: Relation::Equal, target }
    }

    /// The key was last written by `revision`.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::equal(key, Target::ModRevision(revision))
    }

    /// There is no such key.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::equal(key, Target::CreateRevision(0))
    }

    /// Whether it holds for a key, or for `None`, one that does not exist.
    pub fn holds_for(&self, kv: Option<&KeyValue>) -> bool {
        let number = |of: fn(&KeyValue) -> u64| kv.map_or(0, of);
        let found = match &self.target {
            Target::ModRevision(wanted) => number(|kv| kv.mod_revision).cmp(wanted),
            Target::CreateRevision(wanted) => number(|kv| kv.create_revision).cmp(wanted),
            Target::Version(wanted) => number(|kv| kv.version).cmp(wanted),
            Target::Lease(wanted) => kv.map_or(0, |kv| kv.lease).cmp(wanted),
            Target::Value(wanted) => match kv {
                Some(kv) => (*kv.value).cmp(&**wanted),
                None => return false,
            },
        };
        match self.relation {
            Relation::Equal => found.is_eq(),
            Relation::NotEqual => found.is_ne(),
            Relation::Greater => found.is_gt(),
            Relation::Less => found.is_lt(),
        }
    }
}

/// One step of a transaction; sees what the steps before it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key. A transaction writes each key at most once, whichever branches are taken.
    Put {
        /// The key; not empty.
        key: Bytes,
        /// Its new value.
        value: PutValue,
        /// The lease to attach it to, or 0 for none.
        lease: LeaseId,
    },
    /// Deletes every key of a range.
    Delete {
        /// The first key.
        start: Bytes,
        /// The first key no longer meant; empty means that there is no end.
        end: Bytes,
    },
    /// Reads.
    Range(Range),
    /// A transaction in the transaction. Its comparisons see the state before the outermost one, as all do.
    Txn(Txn),
}

impl Op {
    /// Writes `value` to `key`, without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: PutValue::Plain(value.into()), lease: 0 }
    }

    /// Deletes `key`.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let end = after(&start);
        Self::Delete { start, end }
    }
}

/// If every comparison holds, `success`, otherwise `failure`, atomically.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold; none always holds.
    pub compare: Vec<Compare>,
    /// What to do if they hold.
    pub success: Vec<Op>,
    /// What to do if they do not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction without a condition.
    pub fn of(success: Vec<Op>) -> Self {
        Self { success, ..Self::default() }
    }

    /// Refuses what every backend refuses, whatever is stored: an empty key, and a key that would be put twice, or put
    /// and deleted, in one revision.
    pub fn check(&self) -> Result<(), crate::Error> {
        crate::overlap::check(self)
    }
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResponse {
    /// The revision of this transaction's writes, or of the store if it wrote nothing.
    pub revision: Revision,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One per operation of the branch taken.
    pub results: Vec<OpResult>,
}

/// What an [`Op`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// A key was written.
    Put {
        /// The key as it is now; its value is the stored buffer.
        kv: KeyValue,
        /// The key as it was before, if it existed.
        prev: Option<KeyValue>,
    },
    /// Keys were deleted.
    Delete {
        /// The keys as they were.
        prev: Vec<KeyValue>,
    },
    /// Keys were read.
    Range(RangeResponse),
    /// A transaction in the transaction was carried out.
    Txn {
        /// Whether its comparisons held.
        succeeded: bool,
        /// One per operation of the branch taken.
        results: Vec<OpResult>,
    },
}

/// Which changes to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchRequest {
    /// The first key.
    pub start: Bytes,
    /// The first key no longer wanted; empty means that there is no end.
    pub end: Bytes,
    /// The first revision to deliver; 0 is the one after the latest.
    pub start_revision: Revision,
    /// Add to each event what the key was before.
    pub prev_kv: bool,
    /// Also deliver a batch without events when other keys have moved the revision on, so that the
    /// watcher knows how far it has seen. Many revisions give one batch when it reads slowly.
    pub progress: bool,
}

impl WatchRequest {
    /// The changes to all keys that start with `prefix`, from `start_revision` on.
    pub fn prefix(prefix: impl Into<Bytes>, start_revision: Revision) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end, start_revision, ..Self::default() }
    }
}

/// Changes of one or more whole revisions, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Every change up to here has been delivered with this batch.
    pub revision: Revision,
    /// The changes; `kv.mod_revision` is the revision of each. None: only progress.
    pub events: Vec<Event>,
}

/// Whether a key was written or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Made or changed.
    Put,
    /// Deleted, by a transaction or with its lease.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after the change; for a deletion only its name and the revision.
    pub kv: KeyValue,
    /// The key before the change, if asked for and if it existed.
    pub prev: Option<KeyValue>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its name.
    pub id: LeaseId,
    /// Its full length in seconds.
    pub granted_ttl: i64,
    /// The seconds left, rounded up.
    pub ttl: i64,
    /// The keys attached to it, in order (only `lease_time_to_live` fills it).
    pub keys: Vec<bytes::Bytes>,
}

/// Where a store stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The latest revision.
    pub revision: Revision,
    /// What is older has been forgotten; 0 if nothing has.
    pub compact_revision: Revision,
    /// How many keys exist now.
    pub keys: u64,
    /// How many leases exist now.
    pub leases: u64,
    /// Bytes of keys and values that exist now.
    pub live_bytes: u64,
    /// Bytes kept only for reads and watches of the past.
    pub history_bytes: u64,
    /// Bytes on disk, all files together.
    pub db_size: u64,
    /// Why writes are refused at the moment, if they are; of a disk that refuses, the text of its [`crate::Error`].
    pub alarm: Option<String>,
}

impl Status {
    /// The alarm of a store whose writer has ended: it writes again when it is opened anew, and not before.
    pub(crate) const LOST: &str = "the writer has failed";

    /// Whether writes are refused for good, until the store is opened anew.
    pub fn is_lost(&self) -> bool {
        self.alarm.as_deref() == Some(Self::LOST)
    }

    /// Whether writes are refused because the disk is full.
    pub fn is_full(&self) -> bool {
        self.alarm.as_ref().is_some_and(|alarm| *alarm == crate::Error::NoSpace.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        for (prefix, end) in [
            (&b"/a/"[..], &b"/a0"[..]),
            (b"a\xff", b"b"),
            (b"a\xff\xffb", b"a\xff\xffc"),
            (b"\xff", b""),
            (b"", b""),
        ] {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }
}
