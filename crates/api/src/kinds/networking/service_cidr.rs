//! ServiceCIDR: a range from which Services get their addresses.
//! Upstream: pkg/registry/networking/servicecidr, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::addresses::is_canonical_cidr;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::types::networking::v1::ServiceCIDR;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column::new("CIDRs", "string", "The ranges, one for each IP family."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ServiceCIDR>::new()
                .status(|| Some(json!({})))
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", Scope::Cluster)
    }
}

fn ranges(object: &ServiceCIDR) -> &[String] {
    object.spec.as_ref().map_or(&[], |spec| items(&spec.cidrs))
}

fn validate(object: &ServiceCIDR) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("cidrs");
    let ranges = ranges(object);
    match ranges {
        [] => errors.push(field::required(&path, "at least one CIDR required")),
        [a, b] if a.contains(':') == b.contains(':') => {
            let message =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            errors.push(field::invalid(&path, ranges.to_vec(), message));
        }
        [_] | [_, _] => {}
        _ => {
            let message = "only up to 2 values are allowed";
            errors.push(field::invalid(&path, ranges.to_vec(), message));
        }
    }
    for (index, range) in ranges.iter().enumerate() {
        push_invalid(&mut errors, &path.index(index), range, is_canonical_cidr(range));
    }
    errors
}

fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> ErrorList {
    let mut errors = validate(new);
    // A second family may be added to a range of one.
    let (new, old) = (ranges(new), ranges(old));
    if !(old.len() == 1 && new.len() == 2 && new[0] == old[0]) {
        immutable(&mut errors, &Path::new("spec").child("cidrs"), &new, &old);
    }
    errors
}

fn cells(object: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
    vec![row::name(&object.metadata), ranges(object).join(",").into(), row::age(&object.metadata, now)]
}
