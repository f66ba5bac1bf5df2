//! ConfigMap: configuration as text and bytes.
//! Upstream: pkg/apis/core/validation, pkg/registry/core/configmap.

use crate::kind::{Descriptor, Scope};

/// How ConfigMaps are served.
pub fn descriptor() -> Descriptor {
    Descriptor::new("", "v1", "ConfigMap", "configmaps", Scope::Namespaced)
}
