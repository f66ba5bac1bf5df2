//! CustomResourceDefinition: a kind made by the user.
//! Upstream: pkg/registry/apiextensions/customresourcedefinition.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::apiextensions::v1::CustomResourceDefinition;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
short_names: vec!["crd".into(), "crds".into()],
categories: vec!["api-extensions".into()],
subresources: Subresources { status: true, ..Subresources::default() },
generation: true,
hooks: Arc::new(Typed::<CustomResourceDefinition>::new().status(|| Some(json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null})))),
..Descriptor::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", Scope::Cluster)
}
}
