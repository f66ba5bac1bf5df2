//! The index and the history in memory: which versions of which keys exist, and what changed when.
//!
//! Pure. Holds only what is durable: the writer applies a change after it is on disk, so that a reader
//! can take whatever it finds. Not here: planning a transaction (`plan`), leases (`lease`).
//!
//! A version of a key is one [`Record`], shared by the index, the history and, as the `prev` of the
//! change that replaced it, by the watchers' events. A key that is written often shares one key buffer
//! among all its records.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::types::{Event, EventKind, KeyValue, LeaseId, Range, RangeResponse, Revision};

/// What an entry of the history costs beside the value it keeps alive: two records and their handles.
const ENTRY_COST: u64 = 128;

/// One version of a key. Version 0 is a deletion.
#[derive(Debug)]
pub(super) struct Record {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: u64,
    pub lease: LeaseId,
}

impl Record {
    pub fn is_delete(&self) -> bool {
        self.version == 0
    }

    pub fn kv(&self) -> KeyValue {
        KeyValue {
            key: self.key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }

    fn kv_without_value(&self) -> KeyValue {
        KeyValue { value: Bytes::new(), ..self.kv() }
    }

    fn size(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }
}

struct Slot {
    latest: Arc<Record>,
    /// Older versions that the history still needs, ascending. Most keys have none.
    #[expect(clippy::box_collection, reason = "most slots have none: a pointer is a third of a vector")]
    older: Option<Box<Vec<Arc<Record>>>>,
}

impl Slot {
    /// The version as of `revision`, unless the key did not exist then.
    fn at(&self, revision: Revision) -> Option<&Arc<Record>> {
        let record = if self.latest.mod_revision <= revision {
            &self.latest
        } else {
            let older = self.older.as_ref()?;
            let newer = older.partition_point(|record| record.mod_revision <= revision);
            older.get(newer.checked_sub(1)?)?
        };
        (!record.is_delete()).then_some(record)
    }
}

/// One change, as watchers see it.
#[derive(Clone)]
pub(super) struct Change {
    pub record: Arc<Record>,
    pub prev: Option<Arc<Record>>,
}

impl Change {
    fn cost(&self) -> u64 {
        ENTRY_COST + self.prev.as_ref().map_or(0, |prev| prev.size())
    }

    pub fn event(&self, with_prev: bool) -> Event {
        Event {
            kind: if self.record.is_delete() { EventKind::Delete } else { EventKind::Put },
            kv: self.record.kv(),
            prev: if with_prev { self.prev.as_ref().map(|prev| prev.kv()) } else { None },
        }
    }
}

/// The whole durable state but the leases.
#[derive(Default)]
pub(super) struct Mvcc {
    index: BTreeMap<Bytes, Slot>,
    history: VecDeque<Change>,
    pub revision: Revision,
    pub compact_revision: Revision,
    pub keys: u64,
    pub live_bytes: u64,
    /// What the history costs, including what is compacted but not dropped yet.
    pub history_bytes: u64,
    /// What the history since the compact revision costs.
    pub kept_bytes: u64,
}

impl Mvcc {
    /// The empty store, at revision 1 as etcd's.
    pub fn new() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    /// The key's own buffer, if the index has one (even for a key that was deleted).
    pub fn interned(&self, key: &[u8]) -> Option<Bytes> {
        self.known(key).map(|record| record.key.clone())
    }

    /// The latest version of a key, or its deletion, if the index still has it.
    pub fn known(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.index.get(key).map(|slot| &slot.latest)
    }

    /// The keys that exist now, in order.
    pub fn latest(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = &Arc<Record>> {
        self.scan(Bound::Included(start), end)
            .map(|(_, slot)| &slot.latest)
            .filter(|record| !record.is_delete())
    }

    /// Applies one version of a key. Records of one revision come one after the other, revisions ascend.
    pub fn apply(&mut self, record: Arc<Record>) -> Change {
        self.revision = record.mod_revision;
        self.add_live(&record);
        let prev = match self.index.entry(record.key.clone()) {
            Entry::Vacant(place) => {
                place.insert(Slot { latest: record.clone(), older: None });
                None
            }
            Entry::Occupied(place) => {
                let slot = place.into_mut();
                let prev = std::mem::replace(&mut slot.latest, record.clone());
                slot.older.get_or_insert_default().push(prev.clone());
                (!prev.is_delete()).then_some(prev)
            }
        };
        if let Some(prev) = &prev {
            self.keys -= 1;
            self.live_bytes -= prev.size();
        }
        let change = Change { record, prev };
        self.history_bytes += change.cost();
        self.kept_bytes += change.cost();
        self.history.push_back(change.clone());
        change
    }

    /// Puts a version in place that is as old as the compaction, without a history: from a checkpoint.
    pub fn load(&mut self, record: Arc<Record>) {
        self.revision = self.revision.max(record.mod_revision);
        self.add_live(&record);
        self.index.insert(record.key.clone(), Slot { latest: record, older: None });
    }

    fn add_live(&mut self, record: &Record) {
        if !record.is_delete() {
            self.keys += 1;
            self.live_bytes += record.size();
        }
    }

    fn scan<'a>(&'a self, start: Bound<&[u8]>, end: &[u8]) -> impl Iterator<Item = (&'a Bytes, &'a Slot)> {
        let empty = match start {
            Bound::Included(start) | Bound::Excluded(start) => !end.is_empty() && *start >= *end,
            Bound::Unbounded => false,
        };
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        // `BTreeMap::range` panics when the bounds cross.
        let range = (!empty).then(|| self.index.range::<[u8], _>((start, end)));
        range.into_iter().flatten()
    }

    /// Refuses a revision that is not there (any longer, or yet). 0 is the latest and always there.
    pub fn check_revision(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::FutureRevision { current: self.revision });
        }
        if revision != 0 && revision < self.compact_revision {
            return Err(Error::Compacted { revision: self.compact_revision });
        }
        Ok(())
    }

    /// Continues a range read for at most `steps` keys, so that a long one does not hold up the writer.
    /// Says whether it is finished.
    pub fn read(&self, cursor: &mut Cursor, steps: usize) -> Result<bool, Error> {
        if cursor.revision == 0 {
            self.check_revision(cursor.range.revision)?;
            cursor.response.revision = self.revision;
            cursor.revision = if cursor.range.revision == 0 { self.revision } else { cursor.range.revision };
        } else if cursor.revision < self.compact_revision {
            if cursor.range.revision != 0 {
                return Err(Error::Compacted { revision: self.compact_revision });
            }
            // The latest was asked for, and meanwhile it is so old that it is gone: start again.
            *cursor = Cursor::new(std::mem::take(&mut cursor.range));
            return self.read(cursor, steps);
        }
        let (after, first, end) = (cursor.after.take(), cursor.range.start.clone(), cursor.range.end.clone());
        let start = after.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
        let mut last: Option<&Bytes> = None;
        for (visited, (key, slot)) in self.scan(start, &end).enumerate() {
            if visited == steps {
                cursor.after = last.cloned();
                return Ok(false);
            }
            last = Some(key);
            if let Some(record) = slot.at(cursor.revision)
                && !cursor.take(record)
            {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// The changes from `from` on that `wanted` says yes to: whole revisions, up to about `most` of
    /// them, having looked at no more than about `steps`. Returns the last revision looked at. The caller
    /// knows that `from` is not compacted.
    pub fn changes(
        &self,
        from: Revision,
        most: usize,
        steps: usize,
        wanted: impl Fn(&[u8]) -> bool,
        found: &mut Vec<Change>,
    ) -> Revision {
        let first = self.history.partition_point(|change| change.record.mod_revision < from);
        let mut seen = from.saturating_sub(1);
        for (visited, change) in self.history.range(first..).enumerate() {
            let revision = change.record.mod_revision;
            if revision != seen && (visited >= steps || found.len() >= most) {
                return seen;
            }
            seen = revision;
            if wanted(&change.record.key) {
                found.push(change.clone());
            }
        }
        // Every revision writes a key, so what the history ends with is the latest; from a checkpoint
        // without a history the revision may stand alone.
        seen.max(self.revision)
    }

    /// The revision in the middle of the history that is kept.
    pub fn middle(&self) -> Revision {
        let first = self.first_kept();
        let middle = self.history.get(first + (self.history.len() - first) / 2);
        middle.map_or(self.revision, |change| change.record.mod_revision)
    }

    fn first_kept(&self) -> usize {
        self.history.partition_point(|change| change.record.mod_revision < self.compact_revision)
    }

    /// Refuses what is older than `revision` from now on; [`Mvcc::drop_compacted`] drops it.
    pub fn compact(&mut self, revision: Revision) {
        let before = self.first_kept();
        self.compact_revision = self.compact_revision.max(revision);
        let after = self.first_kept();
        self.kept_bytes -= self.history.range(before..after).map(Change::cost).sum::<u64>();
    }

    /// Whether [`Mvcc::drop_compacted`] has something to do.
    pub fn has_compacted(&self) -> bool {
        self.history.front().is_some_and(|change| change.record.mod_revision < self.compact_revision)
    }

    /// Drops up to `steps` changes from before the compact revision and the versions that only they
    /// needed. Says whether all are gone.
    pub fn drop_compacted(&mut self, steps: usize) -> bool {
        for _ in 0..steps {
            match self.history.front() {
                Some(change) if change.record.mod_revision < self.compact_revision => {}
                _ => {
                    self.history.shrink_to(self.history.len() * 2);
                    return true;
                }
            }
            // Just looked at.
            let Some(change) = self.history.pop_front() else { return true };
            self.history_bytes -= change.cost();
            self.prune(&change.record.key);
        }
        false
    }

    /// Drops the versions of one key that cannot be read any more.
    fn prune(&mut self, key: &[u8]) {
        let Some(slot) = self.index.get_mut(key) else { return };
        if slot.latest.mod_revision <= self.compact_revision {
            slot.older = None;
            // A deletion at the compact revision itself stays: its event can still be watched.
            if slot.latest.is_delete() && slot.latest.mod_revision < self.compact_revision {
                self.index.remove(key);
            }
            return;
        }
        let Some(older) = &mut slot.older else { return };
        let newer = older.partition_point(|record| record.mod_revision <= self.compact_revision);
        let mut gone = newer.saturating_sub(1);
        if newer > 0 && older[newer - 1].is_delete() {
            gone = newer;
        }
        older.drain(..gone);
        if older.is_empty() {
            slot.older = None;
        }
    }

    /// The versions as of the compact revision, after `after`, at most `steps` keys looked at: what a
    /// checkpoint starts from. Returns where to go on, if there is more.
    pub fn base(
        &self,
        compact_revision: Revision,
        after: Option<&Bytes>,
        steps: usize,
        found: &mut Vec<Arc<Record>>,
    ) -> Option<Bytes> {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(&**after));
        let mut last = None;
        for (visited, (key, slot)) in self.scan(start, &[]).enumerate() {
            if visited == steps {
                return last;
            }
            last = Some(key.clone());
            found.extend(slot.at(compact_revision.max(1)).cloned());
        }
        None
    }
}

/// A range read in progress.
pub(super) struct Cursor {
    range: Range,
    /// The revision that is read; 0 before the first step.
    revision: Revision,
    after: Option<Bytes>,
    pub response: RangeResponse,
}

impl Cursor {
    pub fn new(range: Range) -> Self {
        Self { range, revision: 0, after: None, response: RangeResponse::default() }
    }

    /// Counts a key, and keeps it if it is wanted. Whether any more are of interest.
    #[must_use]
    pub fn take(&mut self, record: &Record) -> bool {
        if self.range.count_only {
            self.response.count += 1;
            return true;
        }
        if self.range.limit != 0 && self.response.kvs.len() == self.range.limit {
            self.response.more = true;
            self.response.count += u64::from(!self.range.uncounted);
            return !self.range.uncounted;
        }
        self.response.count += 1;
        let kv = if self.range.keys_only { record.kv_without_value() } else { record.kv() };
        self.response.kvs.push(kv);
        true
    }
}
