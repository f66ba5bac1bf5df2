//! The group `storage.k8s.io`.

use crate::kind::Descriptor;

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        storage_class::descriptor(),
        volume_attachment::descriptor(),
        csi_driver::descriptor(),
        csi_node::descriptor(),
        csi_storage_capacity::descriptor(),
        volume_attributes_class::descriptor(),
    ]
}
