//! The group `apps`.

use crate::kind::Descriptor;

mod controller_revision;
mod daemon_set;
mod deployment;
pub(crate) mod replica_set;
mod stateful_set;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        controller_revision::descriptor(),
        daemon_set::descriptor(),
        deployment::descriptor(),
        replica_set::descriptor(),
        stateful_set::descriptor(),
    ]
}
