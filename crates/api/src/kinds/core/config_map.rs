//! ConfigMap: configuration as text and bytes.
//! Upstream: pkg/registry/core/configmap.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["cm".into()],
        ..Descriptor::new("", "v1", "ConfigMap", "configmaps", Scope::Namespaced)
    }
}
