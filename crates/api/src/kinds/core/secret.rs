//! Secret: bytes that are not for everyone.
//! Upstream: pkg/registry/core/secret.

use crate::kind::{Descriptor, Scope, SelectableField};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        selectable_fields: vec![SelectableField::new("type", "/type")],
        ..Descriptor::new("", "v1", "Secret", "secrets", Scope::Namespaced)
    }
}
