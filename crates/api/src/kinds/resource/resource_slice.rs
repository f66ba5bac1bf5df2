//! ResourceSlice: devices that a driver offers.
//! Upstream: pkg/registry/resource/resourceslice.

use crate::kind::{Descriptor, Scope, SelectableField};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        selectable_fields: vec![
            SelectableField::new("spec.nodeName", "/spec/nodeName"),
            SelectableField::new("spec.driver", "/spec/driver"),
        ],
        generation: true,
        ..Descriptor::new("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", Scope::Cluster)
    }
}
