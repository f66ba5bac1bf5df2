//! Why a store refuses.
//!
//! The engine's own errors with file and offset are carried as text, so that every backend can speak
//! the same enum.

use std::path::PathBuf;
use std::sync::Arc;

use crate::types::{LeaseId, Revision};

/// Why a store refused or failed a call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The revision asked for has been forgotten.
    #[error("the required revision has been compacted (compact revision {revision})")]
    Compacted {
        /// The oldest revision that can still be read, and the smallest that a watch can start after.
        revision: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("the required revision is a future revision (current revision {current})")]
    FutureRevision {
        /// The latest revision.
        current: Revision,
    },
    /// No such lease: it never existed, was revoked, or has expired.
    #[error("requested lease {id} not found")]
    LeaseNotFound {
        /// The lease asked for.
        id: LeaseId,
    },
    /// The lease to be made already exists.
    #[error("lease {id} already exists")]
    LeaseExists {
        /// The lease asked for.
        id: LeaseId,
    },
    /// The request makes no sense, whatever the state of the store.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
    /// The transaction is larger than the store accepts.
    #[error("transaction of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The disk is full. Reads and watches go on; writes work again once there is room.
    #[error("no space left on the store's disk")]
    NoSpace,
    /// The files contradict themselves where a crash cannot be the reason.
    #[error("store is corrupt: {path}, offset {offset}: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// Values that are there and cannot be read: what was made of them when they were written cannot be undone. The engine
    /// itself never says so; a store that seals values in another one does.
    #[error("unable to transform key {}: {}", values.first().map_or("", |value| &value.key), values.first().map_or("", |value| &value.detail))]
    Unreadable {
        /// Which, at most as many as [`UNREADABLE`].
        values: Vec<Unreadable>,
        /// There are others, or may be.
        more: bool,
    },
    /// The files are of a format this version does not know.
    #[error("{path} has format version {found}, this version reads up to {known}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// Another process has the store open.
    #[error("store {path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("store i/o failed: {context}")]
    Io {
        /// What was attempted.
        context: String,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The store is shut down, or cannot be reached; the reasons that somebody tells apart are in [`unavailable`].
    #[error("store is unavailable: {0}")]
    Unavailable(&'static str),
    /// The call was abandoned before it was carried out.
    #[error("request was cancelled")]
    Cancelled,
}

/// So many keys are named by one [`Error::Unreadable`].
pub const UNREADABLE: usize = 100;

/// A value that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Unreadable {
    /// The value at `key`.
    pub fn new(key: &[u8], detail: impl Into<String>) -> Self {
        Self { key: String::from_utf8_lossy(key).into_owned(), detail: detail.into() }
    }
}

impl Error {
    /// Wraps what the operating system said about `context`; a full disk becomes [`Error::NoSpace`].
    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io { context: context.into(), source: Arc::new(source) },
        }
    }
}

/// Reasons of [`Error::Unavailable`] that callers are told apart by.
pub mod unavailable {
    /// The store does not serve any more.
    pub const STOPPED: &str = "the store is shut down";
    /// Those who keep the store together did not agree in time: a majority does not hear of one another, or is slow.
    pub const UNDECIDED: &str = "the members did not agree in time";
    /// Who led is gone, and nobody here will learn what became of the request.
    pub const LEADER_LOST: &str = "another member leads now, and what became of the request is not known";
    /// Nobody leads, and nothing was done.
    pub const LEADERLESS: &str = "no member of the store leads";
    /// Who leads does not answer.
    pub const LEADER_SILENT: &str = "the leader cannot be reached";
    /// A member is not removed: without it there would be no majority. Nothing was done.
    pub const UNHEARD: &str = "most of the members that would be left are not heard of";
}
