//! Resources of the core group that need the cluster's state.

pub(super) mod binding;
pub(super) mod component_status;
pub(super) mod namespace;
pub(super) mod node;
pub(super) mod persistent_volume;
pub(super) mod pod;
pub(super) mod service;
pub(super) mod service_account;

pub(crate) use service::claims::ip_address;
