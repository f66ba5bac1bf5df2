//! The core group.

use crate::kind::Descriptor;

mod binding;
mod component_status;
mod config_map;
mod endpoints;
pub(crate) mod event;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub mod pod;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
pub(crate) mod service;
mod service_account;

/// Its kinds.
pub(super) fn all() -> Vec<Descriptor> {
    vec![
        binding::descriptor(),
        component_status::descriptor(),
        config_map::descriptor(),
        endpoints::descriptor(),
        event::descriptor(),
        limit_range::descriptor(),
        namespace::descriptor(),
        node::descriptor(),
        persistent_volume::descriptor(),
        persistent_volume_claim::descriptor(),
        pod::descriptor(),
        pod_template::descriptor(),
        replication_controller::descriptor(),
        resource_quota::descriptor(),
        secret::descriptor(),
        service::descriptor(),
        service_account::descriptor(),
    ]
}
