//! Refuses a transaction that could change a key twice in one revision, whichever branches are taken.
//!
//! Pure; looks at the request alone, never at the state, so that a transaction is refused or not whatever is stored.
//! Upstream: `checkIntervals` of etcd's `server/etcdserver/api/v3rpc`.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::error::Error;
use crate::types::{Op, Txn};

/// How deep transactions may stand in one another. The wire's own limit of nesting lies above it.
const DEPTH: usize = 32;

/// What the operations of a branch may change.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a Bytes>,
    /// Start and end of what is deleted. Deletions that overlap are harmless: the second finds nothing.
    deletions: Vec<(&'a Bytes, &'a Bytes)>,
}

impl<'a> Changes<'a> {
    fn deletes(&self, key: &Bytes) -> bool {
        self.deletions.iter().any(|(start, end)| *start <= key && (end.is_empty() || key < *end))
    }

    fn put(&mut self, key: &'a Bytes) -> Result<(), Error> {
        if self.deletes(key) || !self.puts.insert(key) {
            return Err(Error::Invalid("duplicate key given in txn request"));
        }
        Ok(())
    }
}

/// Refuses an empty key, and a key that is put twice, or put and deleted.
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    branch(&txn.success, DEPTH)?;
    branch(&txn.failure, DEPTH)?;
    Ok(())
}

fn branch(ops: &[Op], depth: usize) -> Result<Changes<'_>, Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::Invalid("too many nested transactions"));
    };
    let mut changes = Changes::default();
    changes.deletions.extend(ops.iter().filter_map(|op| match op {
        Op::Delete { start, end } => Some((start, end)),
        _ => None,
    }));
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (success, failure) = (branch(&txn.success, depth)?, branch(&txn.failure, depth)?);
        // Only one of the two is taken: both may put the same key.
        for key in success.puts.union(&failure.puts) {
            changes.put(key)?;
        }
        changes.deletions.extend(success.deletions.into_iter().chain(failure.deletions));
    }
    for op in ops {
        if let Op::Put { key, .. } = op {
            if key.is_empty() {
                return Err(Error::Invalid("key is empty"));
            }
            changes.put(key)?;
        }
    }
    Ok(changes)
}
