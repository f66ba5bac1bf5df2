//! The core group, `v1`.

use crate::kind::Descriptor;

mod config_map;

pub(super) fn all() -> Vec<Descriptor> {
    vec![config_map::descriptor()]
}
