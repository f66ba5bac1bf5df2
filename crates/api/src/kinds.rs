//! The built-in kinds: one file each, `kinds/<group>/<kind>.rs`, listed in the group's file.
//! Every generally available kind of Kubernetes v1.37 is here; betas are added by file when they are served.

use std::sync::Arc;

use crate::kind::Descriptor;

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
mod check;
#[cfg(test)]
mod columns;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod networking;
pub mod node;
mod optional;
pub mod policy;
pub mod rbac;
pub mod resource;
mod row;
pub mod scheduling;
pub mod storage;
pub mod storagemigration;
pub mod switched_off;
mod warn;
mod workload;

/// Every built-in kind. Where a kind has several versions, the preferred one comes first.
pub fn all() -> Vec<Arc<Descriptor>> {
    [
        core::all(),
        apps::all(),
        batch::all(),
        autoscaling::all(),
        policy::all(),
        networking::all(),
        discovery::all(),
        storage::all(),
        rbac::all(),
        authentication::all(),
        authorization::all(),
        certificates::all(),
        admissionregistration::all(),
        coordination::all(),
        events::all(),
        scheduling::all(),
        node::all(),
        flowcontrol::all(),
        resource::all(),
        storagemigration::all(),
        apiextensions::all(),
        apiregistration::all(),
    ]
    .into_iter()
    .flatten()
    .map(Arc::new)
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kinds_and_resources_are_unique() {
        let (mut kinds, mut resources) = (BTreeSet::new(), BTreeSet::new());
        for kind in all() {
            assert!(kinds.insert(kind.group_version_kind()), "{kind:?} twice");
            assert!(resources.insert(kind.group_version_resource()), "{kind:?} twice");
        }
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        for kind in all() {
            let object = serde_json::json!({
                "apiVersion": kind.group_version().to_string(), "kind": kind.kind, "metadata": {"name": "a"}
            });
            // Upstream's rows of addresses have an age, and no column for it.
            let more = usize::from(kind.plural == "ipaddresses");
            assert_eq!(kind.hooks.cells(&object, now).len(), kind.columns.len() + more, "{kind:?}");
        }
    }
}
