//! IPAddress: an address of a Service range that is taken.
//! Upstream: pkg/registry/networking/ipaddress.

use crate::kind::{Descriptor, Scope};
use crate::names::NameRule;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ip".into()],
        name_rule: NameRule::IpAddress,
        ..Descriptor::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses", Scope::Cluster)
    }
}
