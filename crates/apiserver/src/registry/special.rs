//! The resources that need more than their descriptor, and the file each has.

use std::sync::Arc;

use api::kind::Descriptor;

use super::{Plain, Rest};

/// What `descriptor`'s resource does differently.
pub(super) fn rest(descriptor: &Descriptor) -> Arc<dyn Rest> {
    let _ = descriptor;
    Arc::new(Plain)
}
