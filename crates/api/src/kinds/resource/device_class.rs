//! DeviceClass: names a kind of devices.
//! Upstream: pkg/registry/resource/deviceclass.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        generation: true,
        ..Descriptor::new("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", Scope::Cluster)
    }
}
