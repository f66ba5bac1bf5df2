//! IPAddress: an address of a Service range that is taken.
//! Upstream: pkg/registry/networking/ipaddress, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::dns_subdomain;
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::{NameRule, is_path_segment};
use crate::types::networking::v1::IPAddress;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ip".into()],
        name_rule: NameRule::IpAddress,
        columns: vec![
            Column::object_name(),
            Column::new("ParentRef", "string", "The object that has the address."),
        ],
        hooks: Arc::new(
            Typed::<IPAddress>::new().validate(validate).validate_update(validate_update).cells(cells),
        ),
        ..Descriptor::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses", Scope::Cluster)
    }
}

fn validate(address: &IPAddress) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("parentRef");
    let parent = &address.spec.parent_ref;
    // Services are of the group without a name.
    if !text(&parent.group).is_empty() {
        dns_subdomain(&mut errors, &path.child("group"), text(&parent.group));
    }
    for (member, value, demanded) in [
        ("resource", parent.resource.as_str(), true),
        ("name", parent.name.as_str(), true),
        ("namespace", text(&parent.namespace), false),
    ] {
        let path = path.child(member);
        match value {
            "" if demanded => errors.push(field::required(&path, "")),
            "" => {}
            value => push_invalid(&mut errors, &path, value, is_path_segment(value)),
        }
    }
    errors
}

fn validate_update(new: &IPAddress, old: &IPAddress) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("parentRef");
    immutable(&mut errors, &path, &new.spec.parent_ref, &old.spec.parent_ref);
    errors
}

/// Upstream gives each row an age, for which there is no column.
fn cells(address: &IPAddress, now: Timestamp) -> Vec<Value> {
    let parent = &address.spec.parent_ref;
    let resource = match text(&parent.group) {
        "" => parent.resource.clone(),
        group => format!("{}.{group}", parent.resource),
    };
    let name = match text(&parent.namespace) {
        "" => parent.name.clone(),
        namespace => format!("{namespace}/{}", parent.name),
    };
    vec![row::name(&address.metadata), format!("{resource}/{name}").into(), row::age(&address.metadata, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_have_upstreams_third_cell() {
        let address = serde_json::from_value(json!({
            "metadata": {"name": "10.0.0.1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "s"}},
        }))
        .unwrap();
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        assert_eq!(cells(&address, now), [json!("10.0.0.1"), json!("services/a/s"), json!("5m")]);
    }

    #[test]
    fn the_owner_is_named() {
        for (parent, wrong) in [
            (json!({"resource": "services", "namespace": "a", "name": "s"}), vec![]),
            (json!({"group": "example.org", "resource": "gateways", "name": "g"}), vec![]),
            (
                json!({"group": "Example", "resource": "", "namespace": "a/b", "name": ".."}),
                vec![
                    "spec.parentRef.group",
                    "spec.parentRef.resource",
                    "spec.parentRef.name",
                    "spec.parentRef.namespace",
                ],
            ),
        ] {
            let address: IPAddress = serde_json::from_value(json!({"spec": {"parentRef": parent}})).unwrap();
            let fields: Vec<String> = validate(&address).into_iter().map(|error| error.field).collect();
            assert_eq!(fields, wrong, "{parent}");
        }
    }
}
