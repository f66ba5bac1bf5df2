//! IngressClass: which controller serves an Ingress.
//! Upstream: pkg/registry/networking/ingressclass, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{dns_label, dns_subdomain, one_of_if_set, required};
use crate::kinds::optional::{default_text, text};
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::{is_domain_prefixed_path, is_path_segment};
use crate::types::networking::v1::{IngressClass, IngressClassSpec};

const CONTROLLER_MAX: usize = 250;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Controller", "string", "Controller that is responsible for handling this class"),
            Column::new("Parameters", "string", "A reference to a resource with additional parameters"),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<IngressClass>::new()
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("networking.k8s.io", "v1", "IngressClass", "ingressclasses", Scope::Cluster)
    }
}

fn default(class: &mut IngressClass) {
    if let Some(parameters) = class.spec.get_or_insert_default().parameters.as_mut() {
        default_text(&mut parameters.scope, "Cluster");
    }
}

fn validate(class: &IngressClass) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = IngressClassSpec::default();
    let spec = class.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let controller = text(&spec.controller);
    if controller.len() > CONTROLLER_MAX {
        errors.push(field::too_long(&path.child("controller"), CONTROLLER_MAX));
    }
    let messages = match controller {
        "" => Vec::new(),
        controller => is_domain_prefixed_path(controller),
    };
    required(&mut errors, &path.child("controller"), controller);
    push_invalid(&mut errors, &path.child("controller"), controller, messages);
    if let Some(parameters) = &spec.parameters {
        let path = path.child("parameters");
        if let Some(group) = &parameters.api_group {
            dns_subdomain(&mut errors, &path.child("apiGroup"), group);
        }
        for (member, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
            let path = path.child(member);
            match &**value {
                "" => errors.push(field::required(&path, format!("{member} is required"))),
                value => push_invalid(&mut errors, &path, value, is_path_segment(value)),
            }
        }
        if parameters.scope.is_none() {
            errors.push(field::required(&path.child("scope"), ""));
            return errors;
        }
        one_of_if_set(&mut errors, &path.child("scope"), &parameters.scope, &["Cluster", "Namespace"]);
        match (text(&parameters.scope), &parameters.namespace) {
            ("Namespace", Some(namespace)) => dns_label(&mut errors, &path.child("namespace"), namespace),
            ("Namespace", None) => {
                let message = "`parameters.scope` is set to 'Namespace'";
                errors.push(field::required(&path.child("namespace"), message));
            }
            ("Cluster", Some(_)) => {
                let message = "`parameters.scope` is set to 'Cluster'";
                errors.push(field::forbidden(&path.child("namespace"), message));
            }
            _ => {}
        }
    }
    errors
}

fn validate_update(new: &IngressClass, old: &IngressClass) -> ErrorList {
    let mut errors = validate(new);
    let controller =
        |class: &IngressClass| class.spec.as_ref().map_or("", |spec| text(&spec.controller)).to_owned();
    immutable(&mut errors, &Path::new("spec").child("controller"), &controller(new), &controller(old));
    errors
}

fn cells(class: &IngressClass, now: Timestamp) -> Vec<Value> {
    let empty = IngressClassSpec::default();
    let spec = class.spec.as_ref().unwrap_or(&empty);
    let parameters = spec.parameters.as_ref().map_or_else(
        || row::NONE.to_owned(),
        |parameters| match &parameters.api_group {
            Some(group) => format!("{}.{group}/{}", parameters.kind, parameters.name),
            None => format!("{}/{}", parameters.kind, parameters.name),
        },
    );
    vec![
        row::name(&class.metadata),
        text(&spec.controller).into(),
        parameters.into(),
        row::age(&class.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_checked() {
        let right = json!({"apiGroup": "example.com", "kind": "K", "name": "n", "scope": "Namespace", "namespace": "a"});
        for (field, value, expected) in [
            ("name", json!("n"), None),
            ("apiGroup", json!("A"), Some("spec.parameters.apiGroup: Invalid value: \"A\"")),
            ("kind", json!(""), Some("spec.parameters.kind: Required value: kind is required")),
            ("name", json!("a/b"), Some("spec.parameters.name: Invalid value: \"a/b\": may not contain '/'")),
            ("scope", json!(null), Some("spec.parameters.scope: Required value")),
            ("namespace", json!("A"), Some("spec.parameters.namespace: Invalid value: \"A\"")),
            (
                "namespace",
                json!(null),
                Some("spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"),
            ),
        ] {
            let mut parameters = right.clone();
            parameters[field] = value;
            let class = json!({"spec": {"controller": "example.com/c", "parameters": parameters}});
            let errors = validate(&serde_json::from_value(class).unwrap());
            match expected {
                None => assert_eq!(errors, []),
                Some(expected) => {
                    assert_eq!(errors.len(), 1, "{errors:?}");
                    assert!(errors[0].to_string().starts_with(expected), "{}", errors[0]);
                }
            }
        }
    }
}
