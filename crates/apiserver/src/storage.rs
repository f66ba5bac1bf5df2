//! Objects in the store: one key each, written by compare-and-swap.
//!
//! Reads and writes the store. Knows keys and revisions, not what objects mean.

pub mod expiry;
#[cfg(test)]
pub(crate) mod interposed;
pub(crate) mod unreadable;

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use store::{Compare, KeyValue, LeaseId, Op, OpResult, PutValue, Range, Store, Txn, TxnResponse};
use tokio::sync::OwnedMutexGuard;

use self::expiry::Expiry;
use crate::encoding;
use crate::registry::Resource;
use crate::traces::{self, Span};

/// One object as stored, decoded.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The object in the served version.
    pub object: Object,
    /// The revision of its last write.
    pub revision: u64,
    /// Its canonical bytes in the served version.
    pub bytes: Bytes,
    /// Its bytes in the version in which it is stored; empty for what was never stored.
    pub value: Bytes,
}

/// How a write of an object ended.
#[derive(Debug)]
pub enum Written {
    /// It stands.
    Stored(Stored),
    /// The object was written, made or deleted by someone else meanwhile.
    Outdated,
    /// What it would hold alone is another's.
    Claimed,
}

impl Written {
    /// The object, if the write stands.
    pub fn stored(self) -> Option<Stored> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::Outdated | Self::Claimed => None,
        }
    }
}

/// What an object alone may hold, as a key of its own: taken and given up in the transactions that write the object, so that
/// no two objects ever hold it, however many servers write.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The key; it exists while it is held.
    pub key: Bytes,
    /// What is stored there.
    pub value: PutValue,
}

/// The claims that a write changes.
#[derive(Debug, Default)]
pub struct Claims {
    /// What must be nobody's yet.
    pub takes: Vec<Claim>,
    /// What is given up, with the revision that it was found at: what has become somebody else's since is left alone.
    pub frees: Vec<(Bytes, u64)>,
    /// What is held by many together, and replaced as a whole.
    pub shares: Vec<Share>,
    /// Something is already known to be another's: nothing is to be written.
    pub is_lost: bool,
    /// Others of this server wait for this write before they change shares.
    pub turn: Option<OwnedMutexGuard<()>>,
}

/// A key that says of several things whose they are.
#[derive(Debug, Clone)]
pub struct Share {
    /// The key.
    pub key: Bytes,
    /// The revision at which it was found; 0 if it was not there.
    pub revision: u64,
    /// What it is to be: nothing, if nobody holds anything.
    pub value: Option<Bytes>,
}

impl Share {
    /// That nobody has changed it since it was found.
    pub fn condition(&self) -> Compare {
        Compare::mod_revision(self.key.clone(), self.revision)
    }

    /// The change.
    pub fn op(&self) -> Op {
        match &self.value {
            Some(value) => Op::Put { key: self.key.clone(), value: PutValue::Plain(value.clone()), lease: 0 },
            None => Op::delete(self.key.clone()),
        }
    }
}

impl Claims {
    fn freeing(frees: Vec<(Bytes, u64)>) -> impl Iterator<Item = Op> {
        frees.into_iter().map(|(key, revision)| {
            let compare = vec![Compare::mod_revision(key.clone(), revision)];
            Op::Txn(Txn { compare, success: vec![Op::delete(key)], failure: Vec::new() })
        })
    }
}

/// The store, seen as a place for objects.
#[derive(Clone)]
pub struct Storage {
    /// The store itself.
    pub store: Arc<dyn Store>,
    expiry: Arc<Expiry>,
}

impl Storage {
    /// The store, with the leases of what goes away by itself.
    pub fn new(store: Arc<dyn Store>, expiry: Expiry) -> Self {
        Self { store, expiry: Arc::new(expiry) }
    }

    /// The newest state of an object, as bytes.
    pub async fn read(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<KeyValue>, Status> {
        let _span = traced("Get etcd3", resource);
        let found = self.store.range(Range::key(resource.key(namespace, name))).await.map_err(status)?;
        Ok(found.kvs.into_iter().next())
    }

    /// The newest state of an object; 404 if there is none.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Stored, Status> {
        match self.read(resource, namespace, name).await? {
            Some(kv) => stored(resource, &kv).await,
            None => Err(Status::not_found(&resource.group_resource, name)),
        }
    }

    /// Stores a new object, unless there is one of that name already.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        object: Object,
        claims: Claims,
    ) -> Result<Written, Status> {
        let _span = traced("Create etcd3", resource);
        let key = resource.key(namespace, name);
        let compare = Compare::absent(key.clone());
        self.put(resource, key, object, compare, claims).await
    }

    /// Replaces an object last written at `revision`; `None` if it was written or deleted since.
    pub async fn replace(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: u64,
        object: Object,
    ) -> Result<Option<Stored>, Status> {
        let written = self.replace_with(resource, namespace, name, revision, object, Claims::default());
        Ok(written.await?.stored())
    }

    /// Replaces an object last written at `revision`, and what it holds alone.
    pub async fn replace_with(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: u64,
        object: Object,
        claims: Claims,
    ) -> Result<Written, Status> {
        let _span = traced("GuaranteedUpdate etcd3", resource);
        let key = resource.key(namespace, name);
        let compare = Compare::mod_revision(key.clone(), revision);
        self.put(resource, key, object, compare, claims).await
    }

    async fn put(
        &self,
        resource: &Resource,
        key: Bytes,
        mut object: Object,
        condition: Compare,
        claims: Claims,
    ) -> Result<Written, Status> {
        if claims.is_lost {
            return Ok(Written::Claimed);
        }
        let value = resource.to_storage(&object).await?.into_put();
        let mut txn = Txn { compare: vec![condition.clone()], ..Txn::default() };
        if !claims.takes.is_empty() || !claims.shares.is_empty() {
            // Of a refusal, whose condition it was that did not hold.
            txn.failure.push(Op::Range(Range::key(key.clone())));
        }
        let lease = match resource.descriptor.expires {
            true => self.expiry.lease(&*self.store).await.map_err(status)?,
            false => 0,
        };
        txn.success.push(Op::Put { key, value, lease });
        for Claim { key, value } in claims.takes {
            txn.compare.push(Compare::absent(key.clone()));
            txn.success.push(Op::Put { key, value, lease: 0 });
        }
        txn.compare.extend(claims.shares.iter().map(Share::condition));
        txn.success.extend(claims.shares.iter().map(Share::op));
        txn.success.extend(Claims::freeing(claims.frees));
        let answer = match lease {
            0 => self.store.txn(txn).await,
            lease => self.put_with_lease(txn, lease).await,
        };
        drop(claims.turn);
        let answer = answer.map_err(status)?;
        if !answer.succeeded {
            return Ok(match answer.results.first() {
                Some(OpResult::Range(found)) if condition.holds_for(found.kvs.first()) => Written::Claimed,
                _ => Written::Outdated,
            });
        }
        let Some(OpResult::Put { kv, .. }) = answer.results.into_iter().next() else {
            return Err(Status::internal("the store answered a put with something else"));
        };
        if resource.is_converted_by_webhook() {
            // As upstream: what was stored is read back, and so converted back.
            return stored(resource, &kv).await.map(Written::Stored);
        }
        object.metadata_mut().insert("resourceVersion".into(), kv.mod_revision.to_string().into());
        let bytes = resource.view.served(&kv.value).await?;
        Ok(Written::Stored(Stored { object, revision: kv.mod_revision, bytes, value: kv.value }))
    }

    /// A transaction whose first operation puts under a lease. If the store has lost that lease (a restored one, most
    /// likely), it is tried once more with a new one: whoever writes could do nothing else, and recorders of Events do not.
    async fn put_with_lease(&self, txn: Txn, lease: LeaseId) -> Result<TxnResponse, store::Error> {
        let mut again = txn.clone();
        let answer = self.store.txn(txn).await;
        if !matches!(answer, Err(store::Error::LeaseNotFound { .. })) {
            return answer;
        }
        self.expiry.forget(lease);
        let new = self.expiry.lease(&*self.store).await?;
        if let Some(Op::Put { lease, .. }) = again.success.first_mut() {
            *lease = new;
        }
        self.store.txn(again).await
    }

    /// Whether an object is stored as it would be if it were written now: in today's version of its kind, with today's key.
    /// Else writing it again, unchanged, is of use (that is how keys and versions are rotated).
    pub async fn is_current(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        stored: &Stored,
    ) -> Result<bool, Status> {
        if !resource.is_stored_version(&stored.value) {
            return Ok(false);
        }
        self.store.is_current(&resource.key(namespace, name)).await.map_err(status)
    }

    /// Deletes an object last written at `revision`; returns the revision of the deletion, `None` if it was
    /// written or deleted since.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: u64,
    ) -> Result<Option<u64>, Status> {
        self.delete_with(resource, namespace, name, revision, Claims::default()).await
    }

    /// Deletes an object last written at `revision`, and gives up what it held alone; `None` also if what it shares with
    /// others was written meanwhile.
    pub async fn delete_with(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: u64,
        claims: Claims,
    ) -> Result<Option<u64>, Status> {
        let _span = traced("Delete etcd3", resource);
        let key = resource.key(namespace, name);
        let mut txn = Txn {
            compare: vec![Compare::mod_revision(key.clone(), revision)],
            success: vec![Op::delete(key)],
            failure: Vec::new(),
        };
        txn.compare.extend(claims.shares.iter().map(Share::condition));
        txn.success.extend(claims.shares.iter().map(Share::op));
        txn.success.extend(Claims::freeing(claims.frees));
        let answer = self.store.txn(txn).await.map_err(status)?;
        Ok(answer.succeeded.then_some(answer.revision))
    }
}

/// The span of a call of the store.
fn traced(name: &'static str, resource: &Resource) -> Span {
    let mut span = traces::span(name);
    if span.is_recording() {
        span.set("resource", resource.group_resource.to_string());
        span.set("type", resource.descriptor.kind.as_ref());
    }
    span
}

/// Decodes what the store returned.
pub async fn stored(resource: &Resource, kv: &KeyValue) -> Result<Stored, Status> {
    let bytes = resource.view.served(&kv.value).await?;
    let object = match resource.is_converted_by_webhook() {
        true => resource.read(&bytes)?,
        false => {
            let decoded = resource.decode(&kv.value).ok().filter(|_| encoding::is_object(&kv.value));
            decoded.ok_or_else(|| {
                unreadable::check(kv).err().unwrap_or_else(|| unreadable::one(kv, "it is no object"))
            })?
        }
    };
    Ok(Stored { object, revision: kv.mod_revision, bytes, value: kv.value.clone() })
}

/// What a client is told of a store's error.
pub fn status(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        store::Error::Unreadable { values, .. } => unreadable::sealed(&values),
        store::Error::Unavailable { .. } => Status::service_unavailable(error.to_string()),
        other => Status::internal(other),
    }
}
