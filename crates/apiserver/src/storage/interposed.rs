//! A store that does something else first, or fails: for the tests of what must not depend on its good will.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use foundation::{CancellationToken, SystemClock};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use store::embedded::Engine;
use store::{
    Error, LeaseId, LeaseInfo, Op, Range, RangeResponse, Revision, Status, Store, Txn, TxnResponse,
    WatchRequest, WatchStream,
};

type Hook = Box<dyn FnOnce(Arc<Engine>) -> BoxFuture<'static, Result<(), Error>> + Send>;

/// The embedded store with hooks before its methods.
pub(crate) struct Interposed {
    pub(crate) inner: Arc<Engine>,
    hooks: Mutex<HashMap<&'static str, VecDeque<Hook>>>,
    watches: Mutex<CancellationToken>,
    _directory: tempfile::TempDir,
}

impl Interposed {
    pub(crate) fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let inner = Engine::open(directory.path(), Default::default(), SystemClock::shared()).unwrap();
        Arc::new(Self { inner, hooks: Mutex::default(), watches: Mutex::default(), _directory: directory })
    }

    /// Runs `hook` before the next call of `method` (after those set before it); its error is the call's.
    pub(crate) fn before<F>(&self, method: &'static str, hook: impl FnOnce(Arc<Engine>) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let hook: Hook = Box::new(move |store| hook(store).boxed());
        self.hooks.lock().entry(method).or_default().push_back(hook);
    }

    /// Ends every watch.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.watches.lock()).cancel();
    }

    async fn run(&self, method: &'static str) -> Result<(), Error> {
        let hook = self.hooks.lock().get_mut(method).and_then(VecDeque::pop_front);
        match hook {
            Some(hook) => hook(self.inner.clone()).await,
            None => Ok(()),
        }
    }
}

/// Writes an empty object.
pub(crate) async fn put(store: &dyn Store, key: &str) {
    store.txn(Txn::of(vec![Op::put(key.to_owned(), "{}")])).await.unwrap();
}

#[async_trait]
impl Store for Interposed {
    async fn range(&self, range: Range) -> Result<RangeResponse, Error> {
        self.run("range").await?;
        self.inner.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, Error> {
        self.run("txn").await?;
        self.inner.txn(txn).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, Error> {
        self.run("watch").await?;
        let token = self.watches.lock().clone();
        let stream = self.inner.watch(request).await?;
        Ok(stream.take_until(async move { token.cancelled().await }).boxed())
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

    async fn revision(&self) -> Result<Revision, Error> {
        self.run("revision").await?;
        self.inner.revision().await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.inner.leases().await
    }

    async fn defragment(&self) -> Result<(), Error> {
        self.inner.defragment().await
    }

    async fn warnings(&self) -> Result<Vec<String>, Error> {
        self.inner.warnings().await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.run("status").await?;
        self.inner.status().await
    }
}
