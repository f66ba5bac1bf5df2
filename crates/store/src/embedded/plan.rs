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
use crate::types::{
    Compare, LeaseId, Op, OpResult, PutValue, Range, Relation, Revision, Target, Txn, TxnResponse,
};

/// What a batch is about to write.
pub(super) struct Pending {
    records: BTreeMap<Bytes, Arc<Record>>,
    /// The latest revision, once the batch is durable.
    pub revision: Revision,
}

/// A transaction whose branches are chosen.
struct Chosen {
    succeeded: bool,
    ops: Vec<Step>,
}

/// An [`Op`] whose inner transactions are chosen.
enum Step {
    Put { key: Bytes, value: PutValue, lease: LeaseId },
    Delete { start: Bytes, end: Bytes },
    Range(Range),
    Txn(Chosen),
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
        txn.check()?;
        let bytes = size_of(&txn);
        if bytes > self.limit {
            return Err(Error::TooLarge { bytes, limit: self.limit });
        }
        // All comparisons first: none may see what the transaction itself writes.
        let chosen = self.choose(txn);
        self.check(&chosen.ops)?;
        let mut entry = Entry { revision: self.pending.revision + 1, changes: Vec::new() };
        let succeeded = chosen.succeeded;
        let results = self.carry_out_all(chosen, &mut entry);
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

    /// Decides which branches are taken.
    fn choose(&self, txn: Txn) -> Chosen {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.success } else { txn.failure };
        let ops = ops.into_iter().map(|op| match op {
            Op::Put { key, value, lease } => Step::Put { key, value, lease },
            Op::Delete { start, end } => Step::Delete { start, end },
            Op::Range(range) => Step::Range(range),
            Op::Txn(txn) => Step::Txn(self.choose(txn)),
        });
        Chosen { succeeded, ops: ops.collect() }
    }

    /// Everything about the operations that can fail, so that carrying out cannot.
    fn check(&self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            match step {
                Step::Txn(txn) => self.check(&txn.ops)?,
                Step::Put { lease, .. } if *lease != 0 && !self.leases.contains(*lease) => {
                    return Err(Error::LeaseNotFound { id: *lease });
                }
                Step::Range(range) => self.mvcc.check_revision(range.revision)?,
                Step::Put { .. } | Step::Delete { .. } => {}
            }
        }
        Ok(())
    }

    fn carry_out_all(&mut self, chosen: Chosen, entry: &mut Entry) -> Vec<OpResult> {
        chosen.ops.into_iter().map(|step| self.carry_out(step, entry)).collect()
    }

    fn get(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.known(key).filter(|record| !record.is_delete())
    }

    /// The latest version of a key, or its deletion.
    fn known(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.pending.records.get(key).or_else(|| self.mvcc.known(key))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let holds_for = |record: Option<&Arc<Record>>| match (&compare.target, compare.relation, record) {
            // What nearly every transaction of an API server asks, without the copy that the rest takes.
            (Target::ModRevision(wanted), Relation::Equal, record) => {
                record.map_or(0, |record| record.mod_revision) == *wanted
            }
            (_, _, record) => compare.holds_for(record.map(|record| record.kv()).as_ref()),
        };
        match &compare.end {
            None => holds_for(self.get(&compare.start)),
            Some(end) => {
                let mut found = self.latest(&compare.start, end).peekable();
                match found.peek() {
                    None => holds_for(None),
                    Some(_) => found.all(|record| holds_for(Some(record))),
                }
            }
        }
    }

    fn carry_out(&mut self, step: Step, entry: &mut Entry) -> OpResult {
        match step {
            Step::Put { key, value, lease } => {
                // One search: with many keys that is most of what a put costs.
                let known = self.known(&key).cloned();
                let interned = known.as_ref().map(|known| known.key.clone());
                let prev = known.filter(|known| !known.is_delete());
                let record = Arc::new(Record {
                    // Copied when new: the caller's key may be a slice of something large.
                    key: interned.unwrap_or_else(|| Bytes::copy_from_slice(&key)),
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
            Step::Delete { start, end } => {
                let gone: Vec<_> = self.latest(&start, &end).cloned().collect();
                for record in &gone {
                    self.write(deletion(record.key.clone(), entry.revision), entry);
                }
                OpResult::Delete { prev: gone.iter().map(|record| record.kv()).collect() }
            }
            Step::Range(range) => OpResult::Range(self.range(range, entry)),
            Step::Txn(txn) => {
                OpResult::Txn { succeeded: txn.succeeded, results: self.carry_out_all(txn, entry) }
            }
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

/// Bytes that the larger branches of a transaction ask to write.
fn size_of(txn: &Txn) -> usize {
    let branch = |ops: &[Op]| ops.iter().map(size).sum::<usize>();
    branch(&txn.success).max(branch(&txn.failure))
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value: PutValue::Plain(value), .. } => key.len() + value.len(),
        Op::Put { key, value: PutValue::Stamped { head, tail }, .. } => key.len() + head.len() + tail.len(),
        Op::Delete { .. } | Op::Range(_) => 0,
        Op::Txn(txn) => size_of(txn),
    }
}
