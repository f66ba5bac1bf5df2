//! The texts and codes of refusals, which clients compare.
//!
//! Pure; both directions: what a store's error is on the wire, and which error a text on the wire means. Upstream:
//! etcd's `api/v3rpc/rpctypes/error.go`.

use store::{Error, unavailable};
use tonic::{Code, Status};

use crate::{NotRemoved, snapshot};

/// A key is missing in a request.
pub const EMPTY_KEY: &str = "etcdserver: key is not provided";
/// A put is to keep the value or lease of a key that does not exist.
pub const KEY_NOT_FOUND: &str = "etcdserver: key not found";
/// A put is to keep the value, and has one.
pub const VALUE_PROVIDED: &str = "etcdserver: value is provided";
/// A put is to keep the lease, and has one.
pub const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
/// A transaction has too many steps.
pub const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
/// A transaction writes a key twice.
pub const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
/// A range is to be sorted in an order that does not exist.
pub const INVALID_SORT: &str = "etcdserver: invalid sort option";
/// A revision is compacted.
pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
/// A revision is in the future.
pub const FUTURE_REVISION: &str = "etcdserver: mvcc: required revision is a future revision";
/// The disk is full.
pub const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// There is no such lease.
pub const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
/// There is such a lease.
pub const LEASE_EXISTS: &str = "etcdserver: lease already exists";
/// A lease is to be too long.
pub const LEASE_TTL_TOO_LARGE: &str = "etcdserver: too large lease TTL";
/// A request is larger than the store takes.
pub const REQUEST_TOO_LARGE: &str = "etcdserver: request is too large";
/// The members did not agree in time; what became of the request is not known.
pub const TIMEOUT: &str = "etcdserver: request timed out";
/// Who led was lost meanwhile; what became of the request is not known.
pub const LEADER_FAILED: &str = "etcdserver: request timed out, possibly due to previous leader failure";
/// Another member leads.
pub const NOT_LEADER: &str = "etcdserver: not leader";
/// The member has no leader: told only where nothing was done.
pub const NO_LEADER: &str = "etcdserver: no leader";
/// The leader changed while the request was on its way.
pub const LEADER_CHANGED: &str = "etcdserver: leader changed";
/// The member is stopping.
pub const STOPPED: &str = "etcdserver: server stopped";
/// The data contradicts itself.
pub const CORRUPT: &str = "etcdserver: corrupt cluster";
/// The lead is to be given to who cannot have it.
pub const BAD_TRANSFEREE: &str = "etcdserver: bad leader transferee";
/// Who was to be given the lead did not take it in time.
pub const TRANSFER_TIMEOUT: &str = "etcdserver: request timed out, leader transfer took too long";

/// Those who would be left without a member are too few.
pub const NOT_ENOUGH_STARTED: &str = "etcdserver: re-configuration failed due to not enough started members";
/// Most of those who would be left without a member are not heard of: of this, clients ask again.
pub const UNHEALTHY: &str = "etcdserver: unhealthy cluster";

/// What a store's error is on the wire.
pub fn status(error: Error) -> Status {
    match error {
        Error::Compacted { .. } => Status::new(Code::OutOfRange, COMPACTED),
        Error::FutureRevision { .. } => Status::new(Code::OutOfRange, FUTURE_REVISION),
        Error::LeaseNotFound { .. } => Status::new(Code::NotFound, LEASE_NOT_FOUND),
        Error::LeaseExists { .. } => Status::new(Code::FailedPrecondition, LEASE_EXISTS),
        Error::Invalid("key is empty") => Status::new(Code::InvalidArgument, EMPTY_KEY),
        Error::Invalid("duplicate key given in txn request") => {
            Status::new(Code::InvalidArgument, DUPLICATE_KEY)
        }
        Error::Invalid(text) => Status::new(Code::InvalidArgument, format!("etcdserver: {text}")),
        Error::TooLarge { .. } => Status::new(Code::InvalidArgument, REQUEST_TOO_LARGE),
        Error::NoSpace => Status::new(Code::ResourceExhausted, NO_SPACE),
        Error::Corrupt { .. } => Status::new(Code::DataLoss, CORRUPT),
        Error::Unavailable(unavailable::UNDECIDED) => Status::new(Code::Unavailable, TIMEOUT),
        Error::Unavailable(unavailable::LEADER_LOST | unavailable::LEADER_SILENT) => {
            Status::new(Code::Unavailable, LEADER_FAILED)
        }
        Error::Unavailable(unavailable::LEADERLESS) => Status::new(Code::Unavailable, NO_LEADER),
        Error::Unavailable(unavailable::STOPPED) => Status::new(Code::Unavailable, STOPPED),
        Error::Unavailable(unavailable::UNHEARD) => Status::new(Code::Unavailable, UNHEALTHY),
        // What etcd has no words for. Of this code, clients ask again.
        Error::Unavailable(reason) => Status::new(Code::Unavailable, format!("etcdserver: {reason}")),
        Error::Cancelled => Status::new(Code::Cancelled, error.to_string()),
        other => Status::new(Code::Unknown, other.to_string()),
    }
}

/// What keeps a member from being removed is on the wire.
pub(crate) fn not_removed(error: NotRemoved) -> Status {
    match error {
        NotRemoved::NobodyLeft => Status::failed_precondition(NOT_ENOUGH_STARTED),
        NotRemoved::Unheard => Status::unavailable(UNHEALTHY),
        NotRemoved::Store(error) => status(error),
    }
}

/// What keeps a snapshot from being made is on the wire.
pub(crate) fn of_snapshot(error: snapshot::Error) -> Status {
    match error {
        snapshot::Error::Store(error) => status(error),
        // Not etcd's text of a full disk, which clients take for an alarm: writes go on.
        snapshot::Error::NoRoom { .. } => Status::resource_exhausted(format!("etcdserver: {error}")),
        snapshot::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Status::resource_exhausted("etcdserver: the snapshot has filled the disk")
        }
        other => Status::new(Code::Unknown, other.to_string()),
    }
}

/// A refusal for a reason that lies in the request.
pub(crate) fn invalid(text: &'static str) -> Status {
    Status::new(Code::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_needed_stays_by_etcds_words() {
        for (why, code, text) in [
            (
                NotRemoved::NobodyLeft,
                Code::FailedPrecondition,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            (NotRemoved::Unheard, Code::Unavailable, "etcdserver: unhealthy cluster"),
            (
                Error::Unavailable(unavailable::UNDECIDED).into(),
                Code::Unavailable,
                "etcdserver: request timed out",
            ),
        ] {
            let status = not_removed(why);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn clients_compare_code_and_text() {
        for (error, code, text) in [
            (
                Error::Compacted { revision: 5 },
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (Error::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Error::LeaseNotFound { id: 1 }, Code::NotFound, "etcdserver: requested lease not found"),
            (Error::Invalid("key is empty"), Code::InvalidArgument, "etcdserver: key is not provided"),
            (Error::Unavailable(unavailable::STOPPED), Code::Unavailable, "etcdserver: server stopped"),
            (Error::Unavailable(unavailable::UNDECIDED), Code::Unavailable, "etcdserver: request timed out"),
            (
                Error::Unavailable(unavailable::LEADER_LOST),
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (Error::Unavailable(unavailable::UNHEARD), Code::Unavailable, "etcdserver: unhealthy cluster"),
            (
                Error::Unavailable("this member has been removed from the cluster"),
                Code::Unavailable,
                "etcdserver: this member has been removed from the cluster",
            ),
        ] {
            let status = status(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
