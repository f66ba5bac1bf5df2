//! PodTemplate: a template for pods, stored by itself.
//! Upstream: pkg/registry/core/podtemplate.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::core::pod::{self, defaults, validation};
use crate::kinds::row;
use crate::kinds::warn;
use crate::types::core::v1::{PodTemplate, PodTemplateSpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Containers", "string", "Names of each container in the template."),
            Column::new("Images", "string", "Images referenced by each container in the template."),
            Column::new("Pod Labels", "string", "The labels for the pod template."),
        ],
        hooks: Arc::new(
            Typed::<PodTemplate>::new()
                .default_with(default)
                .validate(validate)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("", "v1", "PodTemplate", "podtemplates", Scope::Namespaced)
    }
}

fn default(object: &mut PodTemplate) {
    defaults::template(object.template.get_or_insert_default());
}

fn validate(object: &PodTemplate) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = PodTemplateSpec::default();
    validation::template(&mut errors, object.template.as_ref().unwrap_or(&empty), &Path::new("template"));
    errors
}

fn warnings(object: &PodTemplate, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(template) = &object.template
        && warn::is_new_generation(&object.metadata, old)
    {
        pod::warnings::template(&mut warnings, &Path::new("template"), template);
    }
    warnings
}

fn cells(object: &PodTemplate, _: Timestamp) -> Vec<Value> {
    let [containers, images] = row::containers(object.template.as_ref());
    let labels = object.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    vec![row::name(&object.metadata), containers, images, row::labels(labels)]
}
