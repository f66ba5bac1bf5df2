//! VolumeAttributesClass: attributes of volumes that can change.
//! Upstream: pkg/registry/storage/volumeattributesclass.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["vac".into()],
        ..Descriptor::new(
            "storage.k8s.io",
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            Scope::Cluster,
        )
    }
}
