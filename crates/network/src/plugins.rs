//! The list of plugins in this binary.
//!
//! Not here: what each does; see its file.

pub mod bridge;
pub mod host_local;
pub mod loopback;
pub mod portmap;

use crate::plugin::Plugin;

/// Every plugin by the name under which a runtime runs it.
pub const NAMES: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// The plugin of a name.
pub fn find(name: &str) -> Option<&'static dyn Plugin> {
    match name {
        "bridge" => Some(&bridge::Bridge),
        "host-local" => Some(&host_local::HostLocal),
        "loopback" => Some(&loopback::Loopback),
        "portmap" => Some(&portmap::Portmap),
        _ => None,
    }
}
