//! Checks the rules (`x-kubernetes-validations`) of a CustomResourceDefinition as it is stored.
//! Not here: compiling and costs (`schema::structural`).
//! Upstream: apiextensions-apiserver/pkg/apis/apiextensions/validation.

use api::field::{ErrorList, Path};
use api::{GroupVersionKind, Object};
use schema::Structural;

/// What is wrong with the rules of all versions. A schema that is no structural one is refused elsewhere.
pub(in crate::registry) fn check(definition: &Object) -> ErrorList {
    let versions = definition.0["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let schema = |index: usize| &versions[index]["schema"]["openAPIV3Schema"];
    let spec = Path::new("spec");
    // Upstream keeps a schema that all versions share in one place, and names that one.
    let shared = (1..versions.len()).all(|index| schema(index) == schema(0));
    let count = if shared { versions.len().min(1) } else { versions.len() };
    let mut errors = ErrorList::new();
    for index in 0..count {
        let path = match shared {
            true => spec.child("validation").child("openAPIV3Schema"),
            false => spec.child("versions").index(index).child("schema").child("openAPIV3Schema"),
        };
        if let Ok(structural) = Structural::parse(GroupVersionKind::new("", "", ""), schema(index)) {
            errors.extend(structural.check_rules(&path));
        }
    }
    errors
}
