//! ControllerRevision: an immutable snapshot of the state of a StatefulSet or DaemonSet.
//! Upstream: pkg/registry/apps/controllerrevision.

use crate::kind::{Descriptor, Scope};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor::new("apps", "v1", "ControllerRevision", "controllerrevisions", Scope::Namespaced)
}
