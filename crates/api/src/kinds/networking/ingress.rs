//! Ingress: HTTP from outside to Services.
//! Upstream: pkg/registry/networking/ingress.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::networking::v1::Ingress;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ing".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<Ingress>::new().status(|| Some(json!({"loadBalancer": {}})))),
        ..Descriptor::new("networking.k8s.io", "v1", "Ingress", "ingresses", Scope::Namespaced)
    }
}
