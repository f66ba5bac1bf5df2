//! ResourceClaimTemplate: makes a ResourceClaim for each pod.
//! Upstream: pkg/registry/resource/resourceclaimtemplate.

use std::sync::Arc;

use super::requests;
use crate::field::{ErrorList, Path};
use crate::kind::{Descriptor, Scope, Typed};
use crate::meta_validation::immutable;
use crate::types::resource::v1::ResourceClaimTemplate;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        hooks: Arc::new(
            Typed::<ResourceClaimTemplate>::new()
                .default_with(|template| {
                    requests::default(template.spec.as_mut().and_then(|spec| spec.spec.as_mut()))
                })
                .validate(|template| {
                    requests::validate(
                        template.spec.as_ref().and_then(|spec| spec.spec.as_ref()),
                        &Path::new("spec").child("spec"),
                    )
                })
                .validate_update(validate_update),
        ),
        ..Descriptor::new(
            "resource.k8s.io",
            "v1",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            Scope::Namespaced,
        )
    }
}

fn validate_update(new: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec);
    errors
}
