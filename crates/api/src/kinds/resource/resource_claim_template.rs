//! ResourceClaimTemplate: makes a ResourceClaim for each pod.
//! Upstream: pkg/registry/resource/resourceclaimtemplate.

use std::sync::Arc;

use super::requests;
use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::row;
use crate::meta_validation::{annotations_errors, immutable, labels_errors};
use crate::types::resource::v1::ResourceClaimTemplate;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        columns: vec![Column::object_name(), Column::age()],
        hooks: Arc::new(
            Typed::<ResourceClaimTemplate>::new()
                .default_with(|template| {
                    requests::default(template.spec.as_mut().and_then(|spec| spec.spec.as_mut()))
                })
                .validate(validate)
                .validate_update(validate_update)
                .cells(|template, now| {
                    vec![row::name(&template.metadata), row::age(&template.metadata, now)]
                }),
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

fn validate(template: &ResourceClaimTemplate) -> ErrorList {
    let spec = template.spec.as_ref();
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    if let Some(meta) = spec.and_then(|spec| spec.metadata.as_ref()) {
        let path = path.child("metadata");
        errors.extend(annotations_errors(
            &meta.annotations.clone().unwrap_or_default(),
            &path.child("annotations"),
        ));
        errors.extend(labels_errors(&meta.labels.clone().unwrap_or_default(), &path.child("labels")));
    }
    errors.extend(requests::validate(spec.and_then(|spec| spec.spec.as_ref()), &path.child("spec")));
    errors
}

fn validate_update(new: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, &Path::new("spec"), &new.spec, &old.spec);
    errors
}
