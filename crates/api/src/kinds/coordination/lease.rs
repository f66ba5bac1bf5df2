//! Lease: who holds something until when: leadership, the life of a node.
//! Upstream: pkg/registry/coordination/lease, pkg/apis/coordination.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{not_negative_if_set, one_of_if_set, required};
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::types::coordination::v1::{Lease, LeaseSpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        create_on_update: true,
        unconditional_update: false,
        columns: vec![
            Column::object_name(),
            Column::new("Holder", "string", "Who holds the lease."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<Lease>::new()
                .default_with(|lease| {
                    lease.spec.get_or_insert_default();
                })
                .validate(validate)
                .cells(cells),
        ),
        ..Descriptor::new("coordination.k8s.io", "v1", "Lease", "leases", Scope::Namespaced)
    }
}

fn validate(lease: &Lease) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = LeaseSpec::default();
    let spec = lease.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|&seconds| seconds <= 0) {
        errors.push(field::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    not_negative_if_set(&mut errors, &path.child("leaseTransitions"), spec.lease_transitions);
    let strategies = ["OldestEmulationVersion"];
    one_of_if_set(&mut errors, &path.child("strategy"), &spec.strategy, &strategies);
    if let Some(holder) = &spec.preferred_holder {
        required(&mut errors, &path.child("preferredHolder"), holder);
        if spec.strategy.is_none() {
            let message = "may only be specified when `strategy` is defined";
            errors.push(field::forbidden(&path.child("preferredHolder"), message));
        }
    }
    errors
}

fn cells(lease: &Lease, now: Timestamp) -> Vec<Value> {
    let holder = lease.spec.as_ref().map_or("", |spec| text(&spec.holder_identity));
    vec![row::name(&lease.metadata), holder.into(), row::age(&lease.metadata, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks() {
        for (spec, errors) in [
            (json!({"leaseDurationSeconds": 40}), 0),
            (json!({"leaseDurationSeconds": 0}), 1),
            (json!({"leaseTransitions": -1}), 1),
            (json!({"preferredHolder": "a"}), 1),
        ] {
            let lease: Lease = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(validate(&lease).len(), errors, "{spec}");
        }
    }
}
