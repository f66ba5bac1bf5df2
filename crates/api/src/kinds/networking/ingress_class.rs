//! IngressClass: which controller serves an Ingress.
//! Upstream: pkg/registry/networking/ingressclass, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{one_of_if_set, required};
use crate::kinds::optional::{default_text, text};
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::is_domain_prefixed_path;
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
        required(&mut errors, &path.child("kind"), &parameters.kind);
        required(&mut errors, &path.child("name"), &parameters.name);
        one_of_if_set(&mut errors, &path.child("scope"), &parameters.scope, &["Cluster", "Namespace"]);
        match (text(&parameters.scope), &parameters.namespace) {
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
