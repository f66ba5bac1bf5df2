//! The supervisor: every spawned future belongs to a [`Tasks`] scope, has a kind, and ends with it.
//!
//! A scope cancels its tasks through a token, waits for them with a deadline, and says which were late.
//! A panic is caught, logged, counted (`task_panics_total{kind}`) and handled as the kind's row in
//! [`KINDS`] says. Not here: restarting; a task that can go on after an error loops itself.

mod kinds;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use kinds::{KINDS, Kind, Policy};

/// A scope of tasks. Clones are the same scope; [`Tasks::child`] makes a scope inside it.
#[derive(Clone)]
pub struct Tasks(Arc<Scope>);

struct Scope {
    path: Arc<str>,
    id: u64,
    token: CancellationToken,
    /// This scope's tracker and those of the scopes around it, innermost last.
    trackers: Vec<TaskTracker>,
    /// The ids of this scope and of the scopes around it.
    lineage: Arc<[u64]>,
    root: Arc<Root>,
}

struct Root {
    token: CancellationToken,
    next: AtomicU64,
    running: Mutex<HashMap<u64, Running>>,
    failures: Mutex<Vec<Failure>>,
}

struct Running {
    path: Arc<str>,
    kind: &'static str,
    lineage: Arc<[u64]>,
    /// Set right after the spawn; a task that ends before that has already removed its row.
    abort: Option<AbortHandle>,
}

/// A task that panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The scope it ran in, as in `ironclad/apiserver`.
    pub scope: String,
    /// Its kind.
    pub kind: &'static str,
    /// What the panic said.
    pub message: String,
    /// What was done about it.
    pub policy: Policy,
}

impl Tasks {
    /// A scope of its own, with nothing around it.
    pub fn new(name: &'static str) -> Self {
        let token = CancellationToken::new();
        let root = Arc::new(Root {
            token: token.clone(),
            next: AtomicU64::new(1),
            running: Mutex::default(),
            failures: Mutex::default(),
        });
        Self(Arc::new(Scope {
            path: name.into(),
            id: 0,
            token,
            trackers: vec![TaskTracker::new()],
            lineage: Arc::new([0]),
            root,
        }))
    }

    /// A scope inside this one: cancelled with it, waited for by it, and able to end earlier.
    pub fn child(&self, name: &'static str) -> Self {
        let scope = &*self.0;
        let id = scope.root.next.fetch_add(1, Ordering::Relaxed);
        let mut trackers = scope.trackers.clone();
        trackers.push(TaskTracker::new());
        Self(Arc::new(Scope {
            path: format!("{}/{name}", scope.path).into(),
            id,
            token: scope.token.child_token(),
            trackers,
            lineage: scope.lineage.iter().copied().chain([id]).collect(),
            root: scope.root.clone(),
        }))
    }

    /// The token that is cancelled when this scope is to end. A task spawned with [`Tasks::spawn`]
    /// watches it.
    pub fn token(&self) -> CancellationToken {
        self.0.token.clone()
    }

    /// Runs `future`, which must watch [`Tasks::token`] and return soon after it is cancelled: it is
    /// the way for tasks that have something to put in order first.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, kind: &'static str, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed(kind, future.boxed())
    }

    /// One kind of future for all tasks: what stands around it is compiled once. And behind a pointer from the start:
    /// each layer around a future by value holds it once more on the stack, and large ones, called through many layers
    /// of an unoptimized build, would overflow it.
    fn spawn_boxed(&self, kind: &'static str, future: BoxFuture<'static, ()>) -> AbortHandle {
        let scope = self.0.clone();
        let id = scope.root.next.fetch_add(1, Ordering::Relaxed);
        let row = Running { path: scope.path.clone(), kind, lineage: scope.lineage.clone(), abort: None };
        scope.root.running.lock().insert(id, row);
        let leave = Leave { root: scope.root.clone(), id };
        let tokens: Vec<_> = scope.trackers.iter().map(TaskTracker::token).collect();
        let handle = tokio::spawn(async move {
            // Dropped in the reverse order: the row goes first, then the scope counts one task less.
            let _tokens = tokens;
            let _leave = leave;
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                scope.panicked(kind, &*panic);
            }
        });
        let abort = handle.abort_handle();
        if let Some(row) = self.0.root.running.lock().get_mut(&id) {
            row.abort = Some(abort.clone());
        }
        abort
    }

    /// Runs `future` and drops it where it stands once the scope is cancelled: for tasks that leave
    /// nothing undone.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_until_cancelled<F>(&self, kind: &'static str, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed_until_cancelled(kind, future.boxed())
    }

    fn spawn_boxed_until_cancelled(&self, kind: &'static str, future: BoxFuture<'static, ()>) -> AbortHandle {
        let token = self.token();
        self.spawn(kind, async move {
            token.run_until_cancelled(future).await;
        })
    }

    /// Cancels this scope, waits up to `deadline` for its tasks and those of its children, and aborts
    /// what is left. Returns the kinds of the tasks that were late, with their scopes.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let scope = &*self.0;
        scope.token.cancel();
        // A scope always has its own tracker.
        let Some(tracker) = scope.trackers.last() else { return Vec::new() };
        tracker.close();
        if tokio::time::timeout(deadline, tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let mut late = Vec::new();
        for row in scope.root.running.lock().values().filter(|row| row.lineage.contains(&scope.id)) {
            late.push(format!("{} in {}", row.kind, row.path));
            if let Some(abort) = &row.abort {
                abort.abort();
            }
        }
        late.sort();
        tracing::warn!(scope = %scope.path, ?late, "tasks did not end in time and were aborted");
        late
    }

    /// The panics so far, in this scope and in every scope that shares its root.
    pub fn failures(&self) -> Vec<Failure> {
        self.0.root.failures.lock().clone()
    }

    /// A health check: fails once a task whose policy is [`Policy::Degrade`] or [`Policy::Stop`] has
    /// panicked.
    pub fn check(&self) -> Result<(), String> {
        match self.0.root.failures.lock().iter().find(|failure| failure.policy != Policy::Contain) {
            None => Ok(()),
            Some(failure) => {
                Err(format!("task {} in {} panicked: {}", failure.kind, failure.scope, failure.message))
            }
        }
    }
}

impl Scope {
    fn panicked(&self, kind: &'static str, panic: &(dyn std::any::Any + Send)) {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "(no message)".to_owned());
        let policy = kinds::policy(kind);
        tracing::error!(scope = %self.path, kind, ?policy, message, "task panicked");
        crate::metrics::registry()
            .counter("task_panics_total", "Tasks that panicked.", &["kind"])
            .with(&[kind])
            .inc();
        let failure = Failure { scope: self.path.to_string(), kind, message, policy };
        let mut failures = self.root.failures.lock();
        // A task that panics for each connection must not fill the memory.
        if failures.len() < 100 {
            failures.push(failure);
        }
        drop(failures);
        if policy == Policy::Stop {
            self.root.token.cancel();
        }
    }
}

/// Removes a task's row when its future is gone, however it went.
struct Leave {
    root: Arc<Root>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.root.running.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_waits_for_the_children_too() {
        let root = Tasks::new("root");
        let child = root.child("child");
        let ended = Arc::new(AtomicU64::new(0));
        child.spawn("test", {
            let (token, ended) = (child.token(), ended.clone());
            async move {
                token.cancelled().await;
                tokio::task::yield_now().await;
                ended.store(1, Ordering::SeqCst);
            }
        });
        root.spawn_until_cancelled("test", std::future::pending());
        assert!(root.shutdown(Duration::from_secs(10)).await.is_empty());
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_child_ends_without_its_parent() {
        let root = Tasks::new("root");
        root.spawn_until_cancelled("test", std::future::pending());
        let child = root.child("child");
        child.spawn_until_cancelled("test", std::future::pending());
        assert!(child.shutdown(Duration::from_secs(10)).await.is_empty());
        assert!(!root.token().is_cancelled());
    }

    #[tokio::test]
    async fn a_late_task_is_named_and_aborted() {
        let root = Tasks::new("root");
        let other = root.child("other");
        other.spawn("deaf", std::future::pending());
        assert_eq!(root.shutdown(Duration::from_millis(1)).await, ["deaf in root/other"]);
        root.0.trackers[0].wait().await;
        assert!(root.0.root.running.lock().is_empty());
    }

    #[tokio::test]
    async fn a_panic_does_what_the_table_says() {
        for (kind, policy, stopped) in [
            ("connection", Policy::Contain, false),
            ("not in the table", Policy::Degrade, false),
            ("store-writer", Policy::Stop, true),
        ] {
            let root = Tasks::new("root");
            root.child("part").spawn(kind, async { panic!("boom") });
            root.0.trackers[0].close();
            root.0.trackers[0].wait().await;
            let failures = root.failures();
            assert_eq!(failures.len(), 1, "{kind}");
            assert_eq!((failures[0].policy, failures[0].message.as_str()), (policy, "boom"), "{kind}");
            assert_eq!(root.check().is_err(), policy != Policy::Contain, "{kind}");
            assert_eq!(root.token().is_cancelled(), stopped, "{kind}");
        }
    }
}
