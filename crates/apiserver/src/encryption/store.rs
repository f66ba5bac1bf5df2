//! A store that keeps chosen resources encrypted in another one.
//!
//! Reads and writes the other store. An encrypted object has no room for its resourceVersion, which the store
//! knows only while it writes: it is put in when the object is read. A value that cannot be decrypted is an error to
//! whoever reads it, and in a watch, which carries everybody's changes, an empty value.
//! Not here: which resources (`configuration`), how (`transformer`).

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use store::{
    Error, KeyValue, LeaseId, LeaseInfo, Op, OpResult, PutValue, Range, RangeResponse, Revision, Status,
    Store, Txn, TxnResponse, UNREADABLE, Unreadable, WatchRequest, WatchStream,
};

use super::configuration::Configuration;
use super::transformer::{self, Opened, Transformer};
use crate::encoding;

/// A store behind encryption. Clones are the same.
#[derive(Clone)]
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    configuration: Arc<ArcSwap<Configuration>>,
}

/// A value that cannot be opened, and why.
struct Unopened {
    key: Bytes,
    why: transformer::Error,
}

impl Unopened {
    fn named(&self) -> Unreadable {
        Unreadable::new(&self.key, self.why.to_string())
    }
}

impl From<Unopened> for Error {
    fn from(unopened: Unopened) -> Self {
        Self::Unreadable { values: vec![unopened.named()], more: false }
    }
}

/// What is said of a value that cannot be sealed: nothing that is stored is damaged.
fn unsealed(key: &[u8], detail: String) -> Error {
    let path = PathBuf::from(String::from_utf8_lossy(key).into_owned());
    Error::Corrupt { path, offset: 0, detail: format!("unable to transform key: {detail}") }
}

/// A value of this transaction, before and after.
struct Sealed {
    stored: Bytes,
    plain: Bytes,
}

impl EncryptedStore {
    /// Encrypts what goes to `inner` as `configuration` says at the time.
    pub fn new(inner: Arc<dyn Store>, configuration: Arc<ArcSwap<Configuration>>) -> Self {
        Self { inner, configuration }
    }

    fn transformer(&self, key: &[u8]) -> Option<Arc<Transformer>> {
        let mut parts = std::str::from_utf8(key).ok()?.strip_prefix("/registry/")?.splitn(3, '/');
        let (group, resource) = (parts.next()?, parts.next()?);
        let group = if group == "core" { "" } else { group };
        self.configuration.load().find(group, resource).cloned()
    }

    async fn open(&self, kv: KeyValue) -> Result<KeyValue, Unopened> {
        // Without a value there is nothing to read: keys only, or a deletion.
        if kv.value.is_empty() {
            return Ok(kv);
        }
        let Some(transformer) = self.transformer(&kv.key) else { return Ok(kv) };
        match transformer.open(&kv.value, &kv.key).await {
            Ok(Opened::AsStored) => Ok(kv),
            Ok(Opened::Decrypted(plain)) => {
                let value = encoding::with_revision(&plain, kv.mod_revision);
                Ok(KeyValue { value, ..kv })
            }
            Err(why) => Err(Unopened { key: kv.key, why }),
        }
    }

    async fn open_range(&self, mut found: RangeResponse) -> Result<RangeResponse, Error> {
        // All that cannot be read are named: who is to mend it wants to know of them at once. But nobody waits for a plugin
        // that gives no answer once for each of them.
        let mut unread = Vec::new();
        let mut more = false;
        let mut left = found.kvs.iter_mut();
        while let Some(kv) = left.next() {
            match self.open(std::mem::take(kv)).await {
                Ok(opened) => *kv = opened,
                Err(_) if unread.len() == UNREADABLE => {
                    more = true;
                    break;
                }
                Err(unopened) => {
                    unread.push(unopened.named());
                    if matches!(unopened.why, transformer::Error::Plugin(_)) {
                        more = left.len() > 0;
                        break;
                    }
                }
            }
        }
        if unread.is_empty() { Ok(found) } else { Err(Error::Unreadable { values: unread, more }) }
    }

    /// Decrypts what a transaction gave, where `sealed` is what it was asked to write.
    async fn open_results(&self, results: &mut [OpResult], sealed: &[Sealed]) -> Result<(), Error> {
        for result in results {
            match result {
                OpResult::Put { kv, .. } => match sealed.iter().find(|own| own.stored == kv.value) {
                    // What was written a moment ago is known: reading it back could only fail.
                    Some(own) => kv.value = encoding::with_revision(&own.plain, kv.mod_revision),
                    None => *kv = self.open(std::mem::take(kv)).await?,
                },
                OpResult::Range(found) => *found = self.open_range(std::mem::take(found)).await?,
                OpResult::Txn { results, .. } => Box::pin(self.open_results(results, sealed)).await?,
                OpResult::Delete { .. } => {}
            }
        }
        Ok(())
    }

    /// Encrypts what is to be; `sealed` gets what was made of what.
    async fn seal(&self, ops: &mut [Op], sealed: &mut Vec<Sealed>) -> Result<(), Error> {
        for op in ops {
            if let Op::Txn(txn) = op {
                Box::pin(self.seal(&mut txn.success, sealed)).await?;
                Box::pin(self.seal(&mut txn.failure, sealed)).await?;
            }
            let Op::Put { key, value, .. } = op else { continue };
            let Some(transformer) = self.transformer(key).filter(|transformer| transformer.encrypts()) else {
                continue;
            };
            let plain = match &*value {
                PutValue::Plain(plain) => plain.clone(),
                PutValue::Stamped { head, tail } => {
                    let mut plain = BytesMut::with_capacity(head.len() + tail.len());
                    plain.extend_from_slice(head);
                    plain.extend_from_slice(tail);
                    plain.freeze()
                }
            };
            let value_of = transformer.seal(&plain, key).await.map_err(|detail| unsealed(key, detail))?;
            let stored = Bytes::from(value_of);
            *value = PutValue::Plain(stored.clone());
            sealed.push(Sealed { stored, plain });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for EncryptedStore {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.open_range(self.inner.range(range).await?).await
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResponse, Error> {
        let mut sealed = Vec::new();
        self.seal(&mut txn.success, &mut sealed).await?;
        self.seal(&mut txn.failure, &mut sealed).await?;
        let mut answer = self.inner.txn(txn).await?;
        self.open_results(&mut answer.results, &sealed).await?;
        Ok(answer)
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        let stream = self.inner.watch(request).await?;
        let store = self.clone();
        let opened = stream.then(move |batch| {
            let store = store.clone();
            async move {
                let mut batch = batch?;
                for event in &mut batch.events {
                    let mut kv = std::mem::take(&mut event.kv);
                    event.kv = match store.open(kv.clone()).await {
                        Ok(opened) => opened,
                        Err(Unopened { why: error, .. }) => {
                            tracing::error!(%error, key = %String::from_utf8_lossy(&kv.key), "a value that was written cannot be read");
                            kv.value = Bytes::new();
                            kv
                        }
                    };
                    // As if it were compacted: what the change means cannot be said.
                    if let Some(prev) = event.prev.take() {
                        event.prev = store.open(prev).await.ok();
                    }
                }
                Ok(batch)
            }
        });
        Ok(opened.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, ttl: i64, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_grant(ttl, id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease_time_to_live(id).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.inner.leases().await
    }

    async fn is_current(&self, key: &[u8]) -> Result<bool, Error> {
        let Some(transformer) = self.transformer(key) else { return Ok(true) };
        let found = self.inner.range(Range::key(key.to_vec())).await?;
        match found.kvs.first() {
            Some(kv) => Ok(transformer.is_current(&kv.value, key).await),
            None => Ok(true),
        }
    }

    async fn defragment(&self) -> Result<(), Error> {
        self.inner.defragment().await
    }

    async fn warnings(&self) -> Result<Vec<String>, Error> {
        self.inner.warnings().await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.inner.status().await
    }
}
