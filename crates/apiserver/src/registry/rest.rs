//! What a resource may do differently: the seam between the engine and what needs the cluster's state.

use std::sync::Arc;

use api::field::ErrorList;
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::engine::Call;
use crate::response::Response;
use crate::storage::{Claims, Written};

/// Takes back what was reserved for a write that does not happen: when it is dropped, until the write is asked for.
pub struct Undo(Option<Box<dyn FnOnce() + Send>>);

impl Undo {
    /// Nothing to take back.
    pub fn nothing() -> Self {
        Self(None)
    }

    /// Runs `undo` unless the write stands.
    pub fn with(undo: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(undo)))
    }

    /// Waits for the write, and takes back what was reserved for it if it was refused. A request that is given up
    /// meanwhile takes nothing back: the store may still do what it was asked for.
    pub async fn unless_written(
        mut self,
        write: impl Future<Output = Result<Written, Status>> + Send,
    ) -> Result<Written, Status> {
        let undo = self.0.take();
        let written = write.await;
        if !matches!(written, Ok(Written::Stored(_))) {
            drop(Self(undo));
        }
        written
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

/// What a request to delete does to an object.
#[derive(Debug)]
pub enum Deletion {
    /// The usual: grace period, finalizers, then gone.
    Usual,
    /// Store this instead, and answer with it.
    Update(Object),
    /// It is being deleted already: answer with it as it is.
    Pending,
}

/// A resource's own behaviour. Every method has the usual behaviour as its default.
#[async_trait]
pub trait Rest: Send + Sync + 'static {
    /// Answers a POST without storing anything (reviews); `None`: store it as usual.
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        let _ = (call, object);
        Ok(None)
    }

    /// Whether [`Rest::before_create`] does anything: if not, preparing and validating a new object are one step.
    fn reserves(&self) -> bool {
        false
    }

    /// Reserves what a new object needs, filling it in, where [`Rest::reserves`] says so. Runs after defaulting, before
    /// validation.
    async fn before_create(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        let _ = (call, object);
        Ok(Undo::nothing())
    }

    /// Reserves what a changed object needs, filling it in.
    async fn before_update(&self, call: &Call, new: &mut Object, old: &Object) -> Result<Undo, Status> {
        let _ = (call, new, old);
        Ok(Undo::nothing())
    }

    /// Fills in, and reserves, what depends on what others have at the moment of the write: the last thing that is done to an
    /// object that has passed every check. Not run for a dry run.
    async fn before_store(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        let _ = (call, object);
        Ok(Undo::nothing())
    }

    /// What `new` (`None`: it is deleted) alone may hold beyond what `old` (`None`: it is made) has, and what is given up: keys
    /// of the store that are written with the object.
    async fn claims(
        &self,
        call: &Call,
        new: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Claims, Status> {
        let _ = (call, new, old);
        Ok(Claims::default())
    }

    /// Learns that something claimed was another's: what is reserved next must be something else.
    async fn lost(&self, call: &Call) -> Result<(), Status> {
        let _ = call;
        Ok(())
    }

    /// Fills in what a changed status says of itself. `now` is the present as RFC 3339 with seconds.
    fn before_status(&self, new: &mut Object, old: &Object, now: &str) {
        let _ = (new, old, now);
    }

    /// What is wrong with the expressions of an object, for which there is a compiler here and none in `api`: told with
    /// whatever else its validation finds. Not asked about changes of subresources.
    fn expressions(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let _ = (new, old);
        ErrorList::new()
    }

    /// Checks that need the cluster's state or the caller (RBAC escalation), before a write is stored.
    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let _ = (call, new, old);
        Ok(())
    }

    /// Runs after an object was created, changed or deleted (`new` is `None`); releases what it held.
    async fn after(&self, call: &Call, new: Option<&Object>, old: Option<&Object>) {
        let _ = (call, new, old);
    }

    /// How a request to delete `object` proceeds. `now` is the present as RFC 3339 with seconds.
    fn deletion(&self, object: &Object, now: &str) -> Deletion {
        let _ = (object, now);
        Deletion::Usual
    }

    /// Whether storing `new` in place of `old` ends a deletion that was waiting for it.
    fn finishes_deletion(&self, new: &Object, old: &Object) -> bool {
        new.finalizers().is_empty()
            && old.0.pointer("/metadata/deletionTimestamp").is_some_and(|v| !v.is_null())
            && matches!(old.deletion_grace_period_seconds(), None | Some(0))
    }

    /// The handler of a subresource that is neither `status` nor `scale`.
    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        let _ = name;
        None
    }

    /// The body of a GET, where it is not what is stored (ComponentStatus).
    async fn items(&self, call: &Call) -> Result<Option<Vec<Value>>, Status> {
        let _ = call;
        Ok(None)
    }
}

/// Nothing special.
pub struct Plain;

impl Rest for Plain {}

/// The handler of one subresource. It has been authorized; admission is its own to run.
#[async_trait]
pub trait Subresource: Send + Sync + 'static {
    /// Serves the call, whatever its verb; answers 405 to verbs that it does not have.
    async fn serve(&self, call: Call) -> Result<Response, Status>;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::storage::Stored;

    /// A reservation, and whether it was taken back.
    fn reserved() -> (Undo, Arc<AtomicBool>) {
        let taken_back = Arc::new(AtomicBool::new(false));
        let seen = taken_back.clone();
        (Undo::with(move || seen.store(true, Ordering::SeqCst)), taken_back)
    }

    #[tokio::test]
    async fn what_was_reserved_is_taken_back_only_from_a_write_that_did_not_happen() {
        let stored =
            Stored { object: Object(Value::Null), revision: 1, bytes: Bytes::new(), value: Bytes::new() };
        for (write, expected) in [
            (Ok(Written::Stored(stored)), false),
            (Ok(Written::Outdated), true),
            (Ok(Written::Claimed), true),
            (Err(Status::internal("no")), true),
        ] {
            let what = format!("{write:?}");
            let (undo, taken_back) = reserved();
            let _ = undo.unless_written(async { write }).await;
            assert_eq!(taken_back.load(Ordering::SeqCst), expected, "{what}");
        }
        let (undo, taken_back) = reserved();
        drop(undo);
        assert!(taken_back.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_request_that_runs_out_of_time_does_not_know_what_the_store_does() {
        let (undo, taken_back) = reserved();
        let write = undo.unless_written(std::future::pending::<Result<Written, Status>>());
        assert!(futures::FutureExt::now_or_never(write).is_none());
        assert!(!taken_back.load(Ordering::SeqCst));
    }
}
