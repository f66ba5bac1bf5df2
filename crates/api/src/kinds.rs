//! The built-in kinds: one file each, `kinds/<group>/<kind>.rs`.

use std::sync::Arc;

use crate::kind::Descriptor;

mod core;

/// Every built-in kind, in the order of its group's file.
pub fn all() -> Vec<Arc<Descriptor>> {
    [core::all()].into_iter().flatten().map(Arc::new).collect()
}
