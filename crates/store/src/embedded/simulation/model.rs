//! What a store is to be: every state it was in, as plain maps.
//!
//! Pure. Written from the contract alone, without a look at how the engine does it. Not here: what is done to both
//! (`world`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::types::{
    Compare, KeyValue, LeaseId, Op, OpResult, PutValue, RangeResponse, Revision, Txn, TxnResponse,
};

pub type Keys = BTreeMap<Bytes, KeyValue>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub ttl: i64,
    pub deadline: Duration,
}

/// A state between two batches.
#[derive(Debug, Clone)]
pub struct State {
    pub revision: Revision,
    pub compacted: Revision,
    pub keys: Arc<Keys>,
    pub leases: BTreeMap<LeaseId, Lease>,
}

/// One revision: what it changed, in order, and what was there after it.
#[derive(Debug)]
pub struct Written {
    /// Each key with its new version, or `None` for a deletion.
    pub changes: Vec<(Bytes, Option<KeyValue>)>,
    pub keys: Arc<Keys>,
}

/// A state that may come about, and the revisions that lead to it from the one it was made of.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub state: State,
    pub log: Vec<Arc<Written>>,
}

impl Candidate {
    pub fn of(state: &State) -> Self {
        Self { state: state.clone(), log: Vec::new() }
    }

    /// What a transaction is to answer. `None`: it names a lease that does not exist.
    pub fn txn(&mut self, txn: &Txn) -> Option<TxnResponse> {
        let holds = |compare: &Compare| compare.holds_for(self.state.keys.get(&compare.start));
        let succeeded = txn.compare.iter().all(holds);
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let unknown = |op: &Op| matches!(op, Op::Put { lease, .. } if *lease != 0 && !self.state.leases.contains_key(lease));
        if ops.iter().any(unknown) {
            return None;
        }
        let revision = self.state.revision + 1;
        let mut keys = (*self.state.keys).clone();
        let (mut changes, mut results) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let prev = keys.get(key).cloned();
                    let value = match value {
                        PutValue::Plain(value) => value.clone(),
                        PutValue::Stamped { head, tail } => {
                            [head, revision.to_string().as_bytes(), tail].concat().into()
                        }
                    };
                    let kv = KeyValue {
                        key: key.clone(),
                        value,
                        create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
                        mod_revision: revision,
                        version: prev.as_ref().map_or(0, |prev| prev.version) + 1,
                        lease: *lease,
                    };
                    keys.insert(key.clone(), kv.clone());
                    changes.push((key.clone(), Some(kv.clone())));
                    results.push(OpResult::Put { kv, prev });
                }
                Op::Delete { start, end } => {
                    let gone: Vec<_> = within(&keys, start, end).cloned().collect();
                    for kv in &gone {
                        keys.remove(&kv.key);
                        changes.push((kv.key.clone(), None));
                    }
                    results.push(OpResult::Delete { prev: gone });
                }
                Op::Range(range) => {
                    let kvs: Vec<_> = within(&keys, &range.start, &range.end).cloned().collect();
                    let revision = self.state.revision + u64::from(!changes.is_empty());
                    let count = kvs.len() as u64;
                    results.push(OpResult::Range(RangeResponse { revision, kvs, more: false, count }));
                }
                Op::Txn(_) => unreachable!("the schedules do not nest"),
            }
        }
        self.write(keys, changes);
        Some(TxnResponse { revision: self.state.revision, succeeded, results })
    }

    fn write(&mut self, keys: Keys, changes: Vec<(Bytes, Option<KeyValue>)>) {
        if changes.is_empty() {
            return;
        }
        self.state.revision += 1;
        self.state.keys = Arc::new(keys);
        self.log.push(Arc::new(Written { changes, keys: self.state.keys.clone() }));
    }

    /// Ends a lease with its keys.
    pub fn revoke(&mut self, id: LeaseId) {
        let mut keys = (*self.state.keys).clone();
        let gone = attached(&keys, id);
        for key in &gone {
            keys.remove(key);
        }
        self.write(keys, gone.into_iter().map(|key| (key, None)).collect());
        self.state.leases.remove(&id);
    }
}

/// The keys that belong to a lease, in order.
pub fn attached(keys: &Keys, id: LeaseId) -> Vec<Bytes> {
    keys.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect()
}

fn within<'a>(keys: &'a Keys, start: &'a Bytes, end: &'a Bytes) -> impl Iterator<Item = &'a KeyValue> {
    keys.values().filter(move |kv| kv.key >= *start && (end.is_empty() || kv.key < *end))
}

/// Everything that has come about, and what may yet turn out to have.
pub struct Model {
    pub state: State,
    /// The state after each batch, oldest first, with how many revisions there were.
    pub states: Vec<State>,
    /// Every revision, from 2 on.
    pub log: Vec<Arc<Written>>,
    /// Batches that failed since the last one that did not: each may have happened.
    pub maybe: Vec<Candidate>,
}

impl Model {
    pub fn new() -> Self {
        let state = State { revision: 1, compacted: 0, keys: Arc::default(), leases: BTreeMap::new() };
        Self { states: vec![state.clone()], state, log: Vec::new(), maybe: Vec::new() }
    }

    /// A batch has come about.
    pub fn adopt(&mut self, candidate: Candidate) {
        self.log.extend(candidate.log);
        self.state = candidate.state;
        self.states.push(self.state.clone());
        self.maybe.clear();
    }

    /// Goes back to an earlier state: what came after was lost.
    pub fn rewind(&mut self, state: State) {
        self.log.truncate(state.revision as usize - 1);
        let is = |earlier: &State| earlier.same(&state) && earlier.compacted == state.compacted;
        let kept = self.states.iter().rposition(is).map_or(0, |at| at + 1);
        self.states.truncate(kept);
        self.state = state;
        self.maybe.clear();
    }

    /// What was there at a revision.
    pub fn at(&self, revision: Revision) -> Arc<Keys> {
        match revision {
            0 | 1 => Arc::default(),
            revision => self.log[revision as usize - 2].keys.clone(),
        }
    }

    /// The changes of every revision from `from` on.
    pub fn since(&self, from: Revision) -> impl Iterator<Item = (Revision, &(Bytes, Option<KeyValue>))> {
        let from = from.max(2);
        let numbered = (2..).zip(&self.log).skip(from as usize - 2);
        numbered.flat_map(|(revision, written)| written.changes.iter().map(move |change| (revision, change)))
    }
}

impl State {
    /// Whether both hold the same: revision, keys, and leases but for the time they have left.
    pub fn same(&self, other: &Self) -> bool {
        let ttls = |state: &Self| state.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect::<Vec<_>>();
        self.revision == other.revision && self.keys == other.keys && ttls(self) == ttls(other)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}, compacted {}, keys", self.revision, self.compacted)?;
        for kv in self.keys.values() {
            write!(f, " {}@{}", String::from_utf8_lossy(&kv.key), kv.mod_revision)?;
        }
        write!(f, ", leases {:?}", self.leases.keys())
    }
}
