//! IPAddress: an address of a Service range that is taken.
//! Upstream: pkg/registry/networking/ipaddress, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::required;
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::names::NameRule;
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
    required(&mut errors, &path.child("resource"), &address.spec.parent_ref.resource);
    required(&mut errors, &path.child("name"), &address.spec.parent_ref.name);
    errors
}

fn validate_update(new: &IPAddress, old: &IPAddress) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("parentRef");
    immutable(&mut errors, &path, &new.spec.parent_ref, &old.spec.parent_ref);
    errors
}

fn cells(address: &IPAddress, _: Timestamp) -> Vec<Value> {
    let parent = &address.spec.parent_ref;
    let resource = match text(&parent.group) {
        "" => parent.resource.clone(),
        group => format!("{}.{group}", parent.resource),
    };
    let name = match text(&parent.namespace) {
        "" => parent.name.clone(),
        namespace => format!("{namespace}/{}", parent.name),
    };
    vec![row::name(&address.metadata), format!("{resource}/{name}").into()]
}
