//! Decides what a transaction does, before any of it is written.
//!
//! Pure: looks at the durable state ([`Mvcc`], [`Leases`]) and at what earlier transactions of the same
//! batch are about to write ([`Pending`]); gives an [`Entry`] and the answer. If the batch cannot be
//! made durable, `Pending` is dropped and nothing has happened. Upstream: etcd's `server/etcdserver/txn`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Change, Entry};
use super::lease::Leases;
use super::mvcc::{Cursor, Mvcc, Record};
use crate::error::Error;
use crate::types::{Compare, LeaseId, Op, OpResult, PutValue, Range, Revision, Txn, TxnResponse};

/// What a batch is about to write.
pub(super) struct Pending {
    records: BTreeMap<Bytes, Arc<Record>>,
    /// The latest revision, once the batch is durable.
    pub revision: Revision,
}

/// Plans the transactions of one batch, in order.
pub(super) struct Planner<'a> {
    pub mvcc: &'a Mvcc,
    pub leases: &'a Leases,
    pub pending: Pending,
    /// The largest transaction, in bytes of keys and values.
    pub limit: usize,
}

impl<'a> Planner<'a> {
    pub fn new(mvcc: &'a Mvcc, leases: &'a Leases, limit: usize) -> Self {
        let pending = Pending { records: BTreeMap::new(), revision: mvcc.revision };
        Self { mvcc, leases, pending, limit }
    }

    /// Plans one transaction. The entry is empty when it writes nothing.
    pub fn txn(&mut self, txn: Txn) -> Result<(TxnResponse, Entry), Error> {
        for op in txn.success.iter().chain(&txn.failure) {
            self.check(op)?;
        }
        check_overlap(&txn.success)?;
        check_overlap(&txn.failure)?;
        let bytes = [&txn.success, &txn.failure].map(|ops| ops.iter().map(size).sum()).into_iter().max();
        let bytes = bytes.unwrap_or(0);
        if bytes > self.limit {
            return Err(Error::TooLarge { bytes, limit: self.limit });
        }
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.success } else { txn.failure };
        let mut entry = Entry { revision: self.pending.revision + 1, changes: Vec::new() };
        let results = ops.into_iter().map(|op| self.carry_out(op, &mut entry)).collect();
        if !entry.changes.is_empty() {
            self.pending.revision = entry.revision;
        }
        Ok((TxnResponse { revision: self.pending.revision, succeeded, results }, entry))
    }

    /// Plans the end of a lease and of its keys.
    pub fn revoke(&mut self, id: LeaseId) -> Entry {
        let revision = self.pending.revision + 1;
        let mut entry = Entry { revision, changes: Vec::new() };
        for key in self.leases.keys(id) {
            entry.changes.push(Change::Key(deletion(key.clone(), revision)));
        }
        if entry.changes.is_empty() {
            entry.revision = 0;
        } else {
            self.pending.revision = revision;
        }
        entry.changes.push(Change::Revoke { id });
        entry
    }

    /// Everything about an operation that can fail, so that carrying out cannot.
    fn check(&self, op: &Op) -> Result<(), Error> {
        match op {
            Op::Put { key, .. } if key.is_empty() => Err(Error::Invalid("key is empty")),
            Op::Put { lease, .. } if *lease != 0 && !self.leases.contains(*lease) => {
                Err(Error::LeaseNotFound { id: *lease })
            }
            Op::Put { .. } | Op::Delete { .. } => Ok(()),
            Op::Range(range) => self.mvcc.check_revision(range.revision),
        }
    }

    fn get(&self, key: &[u8]) -> Option<&Arc<Record>> {
        match self.pending.records.get(key) {
            Some(record) => Some(record).filter(|record| !record.is_delete()),
            None => self.mvcc.get(key),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let number = |key: &Bytes, of: fn(&Record) -> u64| self.get(key).map_or(0, |record| of(record));
        match compare {
            Compare::ModRevision { key, equals } => number(key, |record| record.mod_revision) == *equals,
            Compare::CreateRevision { key, equals } => {
                number(key, |record| record.create_revision) == *equals
            }
            Compare::Version { key, equals } => number(key, |record| record.version) == *equals,
            Compare::Value { key, equals } => self.get(key).is_some_and(|record| record.value == *equals),
            Compare::Lease { key, equals } => self.get(key).map_or(0, |record| record.lease) == *equals,
        }
    }

    fn carry_out(&mut self, op: Op, entry: &mut Entry) -> OpResult {
        match op {
            Op::Put { key, value, lease } => {
                let prev = self.get(&key).cloned();
                let known = match &prev {
                    Some(prev) => Some(prev.key.clone()),
                    None => self.mvcc.interned(&key),
                };
                let record = Arc::new(Record {
                    // Copied when new: the caller's key may be a slice of something large.
                    key: known.unwrap_or_else(|| Bytes::copy_from_slice(&key)),
                    value: stored(&value, entry.revision),
                    create_revision: prev.as_ref().map_or(entry.revision, |prev| prev.create_revision),
                    mod_revision: entry.revision,
                    version: prev.as_ref().map_or(0, |prev| prev.version) + 1,
                    lease,
                });
                let result = OpResult::Put { kv: record.kv(), prev: prev.map(|prev| prev.kv()) };
                self.write(record, entry);
                result
            }
            Op::Delete { start, end } => {
                let gone: Vec<_> = self.latest(&start, &end).cloned().collect();
                for record in &gone {
                    self.write(deletion(record.key.clone(), entry.revision), entry);
                }
                OpResult::Delete { prev: gone.iter().map(|record| record.kv()).collect() }
            }
            Op::Range(range) => OpResult::Range(self.range(range, entry)),
        }
    }

    fn write(&mut self, record: Arc<Record>, entry: &mut Entry) {
        self.pending.records.insert(record.key.clone(), record.clone());
        entry.changes.push(Change::Key(record));
    }

    fn range(&self, range: Range, entry: &Entry) -> crate::types::RangeResponse {
        let past = range.revision != 0 && range.revision < self.mvcc.revision;
        let revision = if entry.changes.is_empty() { self.pending.revision } else { entry.revision };
        let (start, end) = (range.start.clone(), range.end.clone());
        let mut cursor = Cursor::new(range);
        if past {
            // The revision was checked, and without a limit of steps the read ends at once.
            let _ = self.mvcc.read(&mut cursor, usize::MAX);
        } else {
            for record in self.latest(&start, &end) {
                if !cursor.take(record) {
                    break;
                }
            }
        }
        cursor.response.revision = revision;
        cursor.response
    }

    /// The keys of a range that exist after what is pending, in order.
    fn latest<'s>(&'s self, start: &'s [u8], end: &[u8]) -> impl Iterator<Item = &'s Arc<Record>> {
        let empty = !end.is_empty() && *start >= *end;
        let bound = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let pending = (!empty)
            .then(|| self.pending.records.range::<[u8], _>((Bound::Included(start), bound)))
            .into_iter()
            .flatten()
            .map(|(_, record)| record);
        Merge { durable: self.mvcc.latest(start, end).peekable(), pending: pending.peekable() }
            .filter(|record| !record.is_delete())
    }
}

/// Two ascending sequences as one; at equal keys the pending one hides the durable one.
struct Merge<A: Iterator, B: Iterator> {
    durable: Peekable<A>,
    pending: Peekable<B>,
}

impl<'a, A, B> Iterator for Merge<A, B>
where
    A: Iterator<Item = &'a Arc<Record>>,
    B: Iterator<Item = &'a Arc<Record>>,
{
    type Item = &'a Arc<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.durable.peek(), self.pending.peek()) {
            (Some(durable), Some(pending)) if durable.key < pending.key => self.durable.next(),
            (Some(durable), Some(pending)) => {
                if durable.key == pending.key {
                    self.durable.next();
                }
                self.pending.next()
            }
            (Some(_), None) => self.durable.next(),
            (None, _) => self.pending.next(),
        }
    }
}

fn deletion(key: Bytes, revision: Revision) -> Arc<Record> {
    Arc::new(Record {
        key,
        value: Bytes::new(),
        create_revision: 0,
        mod_revision: revision,
        version: 0,
        lease: 0,
    })
}

/// The value as it is stored: one buffer of exactly its size.
fn stored(value: &PutValue, revision: Revision) -> Bytes {
    match value {
        PutValue::Plain(value) => Bytes::copy_from_slice(value),
        PutValue::Stamped { head, tail } => {
            let mut digits = [0; 20];
            let mut first = digits.len();
            let mut rest = revision;
            loop {
                first -= 1;
                digits[first] = b'0' + (rest % 10) as u8;
                rest /= 10;
                if rest == 0 {
                    break;
                }
            }
            let mut stored = Vec::with_capacity(head.len() + digits.len() - first + tail.len());
            stored.extend_from_slice(head);
            stored.extend_from_slice(&digits[first..]);
            stored.extend_from_slice(tail);
            stored.into()
        }
    }
}

/// Bytes that an operation asks to write.
fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value: PutValue::Plain(value), .. } => key.len() + value.len(),
        Op::Put { key, value: PutValue::Stamped { head, tail }, .. } => key.len() + head.len() + tail.len(),
        Op::Delete { .. } | Op::Range(_) => 0,
    }
}

/// Refuses to change a key twice in one revision. Deletions that overlap are harmless: the second finds
/// nothing.
fn check_overlap(ops: &[Op]) -> Result<(), Error> {
    let mut puts: Vec<&Bytes> =
        ops.iter().filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None }).collect();
    puts.sort_unstable();
    if puts.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid("duplicate key given in txn request"));
    }
    for op in ops {
        if let Op::Delete { start, end } = op {
            let first = puts.partition_point(|key| *key < start);
            if puts.get(first).is_some_and(|key| end.is_empty() || *key < end) {
                return Err(Error::Invalid("duplicate key given in txn request"));
            }
        }
    }
    Ok(())
}
