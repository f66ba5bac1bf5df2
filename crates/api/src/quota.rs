//! What objects use of that which a ResourceQuota bounds, and which objects a quota is about.
//!
//! Pure functions over objects, one vocabulary for the two who count: admission, before an object is stored, and the
//! resourcequota controller, which counts anew.
//! Not here: refusing (admission), writing the count (both).
//! Upstream: `pkg/quota/v1`, `apiserver/pkg/quota/v1`.

mod scope;
mod usage;

pub use scope::{matches, scopes, within};
pub use usage::{
    Usage, changes_with_updates, counted, difference, ends_at, is_over, is_pod, missing, must_be_given, of,
    of_pod_object, resources_behind,
};

use crate::meta;
use crate::quantity::Quantity;
use crate::types::core::v1 as core;

/// What a quota bounds.
pub fn hard(quota: &core::ResourceQuota) -> Usage {
    parse(quota.spec.iter().filter_map(|spec| spec.hard.as_ref()).flatten())
}

/// Amounts as they are on the wire; what is no amount is left out.
pub fn parse<'a>(resources: impl IntoIterator<Item = (&'a String, &'a meta::Quantity)>) -> Usage {
    let resources = resources.into_iter();
    resources.filter_map(|(name, wire)| Some((name.clone(), Quantity::from_wire(wire).ok()?))).collect()
}
