//! Environment variables, and the references to fields, resources, ConfigMaps and Secrets in them.

use super::Context;
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_subdomain, local_path, qualified_name, quantity, required};
use crate::kinds::optional::text;
use crate::meta_validation::push_invalid;
use crate::names;
use crate::types::core::v1::{EnvFromSource, EnvVar, ObjectFieldSelector, ResourceFieldSelector};

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZE_DIVISORS: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

pub(super) fn variables(errors: &mut ErrorList, variables: &[EnvVar], context: &Context<'_>, path: &Path) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            errors.push(field::required(&path.child("name"), ""));
        } else {
            push_invalid(errors, &path.child("name"), &variable.name, names::is_env_var_name(&variable.name));
        }
        value_from(errors, variable, context, &path.child("valueFrom"));
    }
}

fn value_from(errors: &mut ErrorList, variable: &EnvVar, context: &Context<'_>, path: &Path) {
    let Some(source) = &variable.value_from else { return };
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        field_ref(errors, field, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        resource_ref(errors, resource, false, &path.child("resourceFieldRef"));
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        object_key(errors, &key.name, &key.key, &path.child("configMapKeyRef"));
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        object_key(errors, &key.name, &key.key, &path.child("secretKeyRef"));
    }
    if let Some(file) = &source.file_key_ref {
        sources += 1;
        let path = path.child("fileKeyRef");
        required(errors, &path.child("volumeName"), &file.volume_name);
        required(errors, &path.child("path"), &file.path);
        local_path(errors, &path.child("path"), &file.path);
        if file.key.is_empty() {
            errors.push(field::required(&path.child("key"), ""));
        } else {
            push_invalid(errors, &path.child("key"), &file.key, names::is_env_var_name(&file.key));
        }
        if !file.volume_name.is_empty() {
            match context.volumes.get(&*file.volume_name) {
                None => errors.push(field::not_found(&path.child("volumeName"), &*file.volume_name)),
                Some(volume) if volume.empty_dir.is_none() => errors.push(field::invalid(
                    &path.child("volumeName"),
                    &*file.volume_name,
                    "referenced volume must be of type emptyDir",
                )),
                Some(_) => {}
            }
        }
    }
    let message = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !text(&variable.value).is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    errors.push(field::invalid(path, "", message));
}

fn object_key(errors: &mut ErrorList, name: &str, key: &str, path: &Path) {
    dns_subdomain(errors, &path.child("name"), name);
    if key.is_empty() {
        errors.push(field::required(&path.child("key"), ""));
    } else {
        push_invalid(errors, &path.child("key"), key, names::is_config_map_key(key));
    }
}

/// A reference to a field of the pod. `fields` are those offered besides labels and annotations by key.
pub(super) fn field_ref(
    errors: &mut ErrorList,
    selector: &ObjectFieldSelector,
    fields: &[&str],
    path: &Path,
) {
    let version = text(&selector.api_version);
    if version.is_empty() {
        errors.push(field::required(&path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    let wanted = &*selector.field_path;
    if wanted.is_empty() {
        errors.push(field::required(&at, ""));
        return;
    }
    if version != "v1" {
        let message = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(field::invalid(&at, wanted, message));
        return;
    }
    if let Some((name, subscript)) = subscripted(wanted) {
        match name {
            "metadata.annotations" => qualified_name(errors, path, &subscript.to_ascii_lowercase()),
            "metadata.labels" => qualified_name(errors, path, subscript),
            _ => {
                let message =
                    format!("error converting fieldPath: field label does not support subscript: {wanted}");
                errors.push(field::invalid(&at, wanted, message));
            }
        }
    } else if !is_downward_field(wanted) {
        let message = format!("error converting fieldPath: field label not supported: {wanted}");
        errors.push(field::invalid(&at, wanted, message));
    } else if !fields.contains(&wanted) {
        errors.push(field::not_supported(&at, wanted, fields));
    }
}

/// `metadata.labels['app']` → (`metadata.labels`, `app`).
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (name, subscript) = path.strip_suffix("']")?.split_once("['")?;
    (!name.is_empty()).then_some((name, subscript))
}

fn is_downward_field(name: &str) -> bool {
    ENV_FIELDS.contains(&name)
        || matches!(
            name,
            "metadata.labels"
                | "metadata.annotations"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "status.phase"
                | "spec.host"
        )
}

/// A reference to a resource of a container.
pub(super) fn resource_ref(
    errors: &mut ErrorList,
    selector: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
) {
    let resource = &*selector.resource;
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && text(&selector.container_name).is_empty() {
        errors.push(field::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(field::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(field::not_supported(&path.child("resource"), resource, RESOURCES));
    }
    let divisor = selector.divisor.as_ref().map(quantity).unwrap_or_default();
    if divisor.is_zero() {
        return;
    }
    let written = divisor.to_string();
    let (what, is_right, values) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => ("cpu", matches!(&*written, "1m" | "1"), "1m and 1"),
        Some("memory") => ("memory", is_size_divisor(&written), SIZE_DIVISORS),
        Some("ephemeral-storage") => ("local ephemeral storage", is_size_divisor(&written), SIZE_DIVISORS),
        _ if huge => ("hugepages", is_size_divisor(&written), SIZE_DIVISORS),
        _ => return,
    };
    if !is_right {
        let message = format!("only divisor's values {values} are supported with the {what} resource");
        errors.push(field::invalid(&path.child("divisor"), resource, message));
    }
}

fn is_size_divisor(written: &str) -> bool {
    SIZE_DIVISORS.split(", ").any(|divisor| divisor == written)
}

pub(super) fn sources(errors: &mut ErrorList, sources: &[EnvFromSource], path: &Path) {
    for (index, source) in sources.iter().enumerate() {
        let at = path.index(index);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            push_invalid(errors, &at.child("prefix"), prefix, names::is_env_var_name(prefix));
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|reference| &reference.name)),
            ("secretRef", source.secret_ref.as_ref().map(|reference| &reference.name)),
        ];
        for (field, name) in references {
            let Some(name) = name else { continue };
            let at = at.child(field).child("name");
            if name.is_empty() {
                errors.push(field::required(&at, ""));
            } else {
                push_invalid(errors, &at, name, names::NameRule::DnsSubdomain.check(name, true));
            }
        }
        match references.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.push(field::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => {
                errors.push(field::invalid(path, "", "may not have more than one field specified at a time"))
            }
        }
    }
}
