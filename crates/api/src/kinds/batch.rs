//! The group `batch`.

use crate::kind::Descriptor;

mod cron_job;
mod job;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![job::descriptor(), cron_job::descriptor()]
}
