//! DeviceClass: names a kind of devices.
//! Upstream: pkg/registry/resource/deviceclass, pkg/apis/resource/validation. That selectors compile is checked where
//! there is a compiler, not here.

use std::sync::Arc;

use super::names::configuration;
use super::requests::selectors;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::each;
use crate::kinds::core::pod::resources::is_extended;
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::types::resource::v1::DeviceClass;

/// The most configurations of a class.
const CONFIG_MAX: usize = 32;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        generation: true,
        columns: vec![Column::object_name(), Column::age()],
        hooks: Arc::new(
            Typed::<DeviceClass>::new()
                .validate(validate)
                .cells(|class, now| vec![row::name(&class.metadata), row::age(&class.metadata, now)]),
        ),
        ..Descriptor::new("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", Scope::Cluster)
    }
}

fn validate(class: &DeviceClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let Some(spec) = &class.spec else { return errors };
    selectors(&mut errors, &path.child("selectors"), items(&spec.selectors));
    each(&mut errors, &path.child("config"), items(&spec.config), CONFIG_MAX, |errors, path, config| {
        configuration(errors, path, config.opaque.as_ref());
    });
    if let Some(name) = &spec.extended_resource_name
        && !is_extended(name)
    {
        let path = path.child("extendedResourceName");
        errors.push(field::invalid(&path, name.as_str(), "must be a valid extended resource name"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_are_checked() {
        for (spec, expected) in [
            (json!({}), vec![]),
            (
                json!({"selectors": [{"cel": {"expression": "true"}}], "extendedResourceName": "example.com/gpu",
                       "config": [{"opaque": {"driver": "gpu.example.com", "parameters": {"a": 1}}}]}),
                vec![],
            ),
            (
                json!({"selectors": [{}], "extendedResourceName": "cpu", "config": [{}, {"opaque": {"driver": "", "parameters": 1}}]}),
                vec![
                    "spec.selectors[0].cel: Required value",
                    "spec.config[0].opaque: Required value",
                    "spec.config[1].opaque.driver: Required value",
                    r#"spec.config[1].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object"#,
                    r#"spec.extendedResourceName: Invalid value: "cpu": must be a valid extended resource name"#,
                ],
            ),
        ] {
            let class = json!({"metadata": {"name": "c"}, "spec": spec});
            let errors = validate(&serde_json::from_value(class).unwrap());
            let errors: Vec<_> = errors
                .iter()
                .map(ToString::to_string)
                .filter(|error| !error.contains("RFC 1123 subdomain"))
                .collect();
            assert_eq!(errors, expected);
        }
    }
}
