//! The group `storagemigration.k8s.io`.

use crate::kind::Descriptor;

mod storage_version_migration;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![storage_version_migration::descriptor()]
}
