//! APIService: a group and version served here or by another server.
//! Upstream: kube-aggregator pkg/registry/apiservice, pkg/apis/apiregistration.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{dns_subdomain, port_number, required};
use crate::kinds::optional::{drop_false, items, text};
use crate::kinds::row;
use crate::meta_validation::push_invalid;
use crate::names::{NameRule, is_dns1035_label};
use crate::types::apiregistration::v1::{APIService, APIServiceSpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        resets: &[("status", &["metadata"])],
        categories: vec!["api-extensions".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        // The name is checked against group and version.
        name_rule: NameRule::PathSegment,
        columns: vec![
            Column::object_name(),
            Column::new("Service", "string", "The reference to the service that hosts this API endpoint."),
            Column::new("Available", "string", "Whether this service is available."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<APIService>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .validate(validate)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new("apiregistration.k8s.io", "v1", "APIService", "apiservices", Scope::Cluster)
    }
}

fn default(object: &mut APIService) {
    if let Some(spec) = &mut object.spec {
        drop_false(&mut spec.insecure_skip_tls_verify);
        if let Some(service) = &mut spec.service {
            service.port.get_or_insert(443);
        }
    }
    object.status.get_or_insert_default();
}

fn validate(object: &APIService) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = APIServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let (group, version) = (text(&spec.group), text(&spec.version));
    let wanted = format!("{version}.{group}");
    let name = text(&object.metadata.name);
    if name != wanted && !(group.is_empty() && name == format!("{version}.")) {
        let message = "must be `spec.version+\".\"+spec.group`";
        errors.push(field::invalid(
            &Path::new("metadata").child("name"),
            name,
            format!("{message}: {wanted:?}"),
        ));
    }
    if group.is_empty() && version != "v1" {
        errors.push(field::required(
            &path.child("group"),
            "only v1 may have an empty group and it better be legacy kube",
        ));
    }
    if !group.is_empty() {
        dns_subdomain(&mut errors, &path.child("group"), group);
    }
    push_invalid(&mut errors, &path.child("version"), version, is_dns1035_label(version));
    let priority = spec.group_priority_minimum;
    if !(1..=20_000).contains(&priority) {
        let message = "must be positive and less than 20000";
        errors.push(field::invalid(&path.child("groupPriorityMinimum"), priority, message));
    }
    let priority = spec.version_priority;
    if !(1..=1000).contains(&priority) {
        let message = "must be positive and less than 1000";
        errors.push(field::invalid(&path.child("versionPriority"), priority, message));
    }
    let insecure = spec.insecure_skip_tls_verify == Some(true);
    let bundle = spec.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty());
    match &spec.service {
        None => {
            for (name, set, message) in [
                ("caBundle", bundle, "local APIServices may not have a caBundle"),
                ("insecureSkipTLSVerify", insecure, "local APIServices may not have insecureSkipTLSVerify"),
            ] {
                if set {
                    errors.push(field::invalid(&path.child(name), "", message));
                }
            }
        }
        Some(service) => {
            let service_path = path.child("service");
            required(&mut errors, &service_path.child("namespace"), text(&service.namespace));
            required(&mut errors, &service_path.child("name"), text(&service.name));
            if let Some(port) = service.port {
                port_number(&mut errors, &service_path.child("port"), port);
            }
            if insecure && bundle {
                let message = "may not be true if caBundle is present";
                errors.push(field::invalid(&path.child("insecureSkipTLSVerify"), true, message));
            }
        }
    }
    errors
}

fn cells(object: &APIService, now: Timestamp) -> Vec<Value> {
    let service = object.spec.as_ref().and_then(|spec| spec.service.as_ref());
    let service = service.map_or_else(
        || "Local".to_owned(),
        |service| format!("{}/{}", text(&service.namespace), text(&service.name)),
    );
    let conditions = object.status.as_ref().map_or(&[][..], |status| items(&status.conditions));
    let available = match conditions.iter().find(|condition| condition.type_ == "Available") {
        None => "Unknown".to_owned(),
        Some(condition) if condition.status == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", condition.status, text(&condition.reason)),
    };
    vec![row::name(&object.metadata), service.into(), available.into(), row::age(&object.metadata, now)]
}
