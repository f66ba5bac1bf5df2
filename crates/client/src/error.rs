//! What can go wrong with a call: the server said no, the server was not reached, or its answer made no sense.

use crate::TransportError;

/// The error of every call of [`crate::Client`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a failure; code, reason, message and details are upstream's.
    #[error("{0}")]
    Status(Box<api::Status>),
    /// No answer came.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The answer could not be decoded.
    #[error("decode {what}: {source}")]
    Decode {
        /// What was expected.
        what: String,
        /// Where decoding stopped.
        #[source]
        source: serde_json::Error,
    },
    /// The caller's object cannot be sent (it has no name, or does not serialize).
    #[error("{0}")]
    Request(String),
}

impl From<api::Status> for Error {
    fn from(status: api::Status) -> Error {
        Error::Status(Box::new(status))
    }
}

impl Error {
    /// The server's `Status`, if it answered with one.
    pub fn status(&self) -> Option<&api::Status> {
        match self {
            Error::Status(status) => Some(status),
            _ => None,
        }
    }

    fn is(&self, predicate: fn(&api::Status) -> bool) -> bool {
        self.status().is_some_and(predicate)
    }

    /// 404: the object (or its kind, or its namespace) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.is(api::Status::is_not_found)
    }

    /// 409 `AlreadyExists`: the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.is(api::Status::is_already_exists)
    }

    /// 409 `Conflict`: the resourceVersion or a precondition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.is(api::Status::is_conflict)
    }

    /// 403.
    pub fn is_forbidden(&self) -> bool {
        self.is(api::Status::is_forbidden)
    }

    /// 422: the object breaks a rule of its kind.
    pub fn is_invalid(&self) -> bool {
        self.is(api::Status::is_invalid)
    }

    /// 410 `Expired` or `Gone`: the resourceVersion is too old to continue from.
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(|status| status.code == 410)
    }

    /// 429: the server (or a disruption budget) asks to come back later.
    pub fn is_too_many_requests(&self) -> bool {
        self.status().is_some_and(|status| status.code == 429)
    }

    /// Whether the server refuses to create things in a namespace that is being deleted (`NamespaceTerminating`).
    pub fn is_namespace_terminating(&self) -> bool {
        self.is(api::Status::is_namespace_terminating)
    }
}
