//! Ingress: HTTP from outside to Services.
//! Upstream: pkg/registry/networking/ingress, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{dns_label, dns_subdomain, ip, json as value_of, port_number};
use crate::kinds::core::service::load_balancer_addresses;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::meta_validation::push_invalid;
use crate::names::{is_dns1123_subdomain, is_path_segment, is_port_name, is_wildcard_dns1123_subdomain};
use crate::types::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressSpec};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ing".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new(
                "Class",
                "string",
                "The name of the IngressClass resource that should be used for additional configuration",
            ),
            Column::new(
                "Hosts",
                "string",
                "Hosts that incoming requests are matched against before the ingress rule",
            ),
            Column::new(
                "Address",
                "string",
                "Address is a list containing ingress points for the load-balancer",
            ),
            Column::new("Ports", "string", "Ports of TLS configurations that open"),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<Ingress>::new()
                .status(|| Some(json!({"loadBalancer": {}})))
                .validate(validate_create)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings_of_new(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("networking.k8s.io", "v1", "Ingress", "ingresses", Scope::Namespaced)
    }
}

fn validate_create(ingress: &Ingress) -> ErrorList {
    let mut errors = validate(ingress, false);
    let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    let annotation = ingress.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    if let (Some(class), Some(annotation)) = (class, annotation)
        && class != annotation
    {
        let path = Path::new("annotations").child(CLASS_ANNOTATION);
        let message = "must match `ingressClassName` when both are specified";
        errors.push(field::invalid(&path, &**annotation, message));
    }
    errors
}

/// Names of Secrets were not always checked: who has a wrong one may keep it.
fn validate_update(new: &Ingress, old: &Ingress) -> ErrorList {
    let tls = old.spec.iter().flat_map(|spec| items(&spec.tls));
    let mut names = tls.map(|tls| text(&tls.secret_name)).filter(|name| !name.is_empty());
    validate(new, names.any(|name| !is_dns1123_subdomain(name).is_empty()))
}

fn validate_status_update(new: &Ingress, _: &Ingress) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let status = new.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = status.and_then(|status| status.ingress.as_ref());
    for (index, point) in points.into_iter().flatten().enumerate() {
        let path = path.index(index);
        if !text(&point.ip).is_empty() {
            ip(&mut errors, &path.child("ip"), text(&point.ip));
        }
        let hostname = text(&point.hostname);
        if !hostname.is_empty() {
            let path = path.child("hostname");
            push_invalid(&mut errors, &path, hostname, is_dns1123_subdomain(hostname));
            if hostname.parse::<std::net::IpAddr>().is_ok() {
                errors.push(field::invalid(&path, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

fn validate(ingress: &Ingress, any_secret_name: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    if items(&spec.rules).is_empty() && spec.default_backend.is_none() {
        let message = "either `defaultBackend` or `rules` must be specified";
        errors.push(field::invalid(&path, value_of(&items(&spec.rules)), message));
    }
    for (index, rule) in items(&spec.rules).iter().enumerate() {
        let path = path.child("rules").index(index);
        host(&mut errors, text(&rule.host), &path.child("host"));
        let Some(http) = &rule.http else { continue };
        let path = path.child("http").child("paths");
        if http.paths.is_empty() {
            errors.push(field::required(&path, ""));
        }
        for (index, one) in http.paths.iter().enumerate() {
            http_path(&mut errors, one, &path.index(index));
        }
    }
    if let Some(default) = &spec.default_backend {
        backend(&mut errors, default, &path.child("defaultBackend"));
    }
    for (index, tls) in items(&spec.tls).iter().enumerate() {
        if !any_secret_name && !text(&tls.secret_name).is_empty() {
            let path = path.child("tls").index(index).child("secretName");
            dns_subdomain(&mut errors, &path, text(&tls.secret_name));
        }
        for (host_index, name) in items(&tls.hosts).iter().enumerate() {
            let path = path.child("tls").index(index).child("hosts").index(host_index);
            if name.contains('*') {
                push_invalid(&mut errors, &path, name, is_wildcard_dns1123_subdomain(name));
            } else {
                dns_subdomain(&mut errors, &path, name);
            }
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        dns_subdomain(&mut errors, &path.child("ingressClassName"), class);
    }
    errors
}

fn host(errors: &mut ErrorList, host: &str, path: &Path) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.push(field::invalid(path, host, "must be a DNS name, not an IP address"));
    } else if host.contains('*') {
        push_invalid(errors, path, host, is_wildcard_dns1123_subdomain(host));
    } else {
        dns_subdomain(errors, path, host);
    }
}

fn http_path(errors: &mut ErrorList, path: &HTTPIngressPath, at: &Path) {
    const KINDS: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    let target = text(&path.path);
    let path_path = at.child("path");
    match &*path.path_type {
        "" => errors.push(field::required(&at.child("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                errors.push(field::invalid(&path_path, target, "must be an absolute path"));
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if target.contains(sequence) {
                    errors.push(field::invalid(&path_path, target, format!("must not contain '{sequence}'")));
                }
            }
            for ending in ["/..", "/."] {
                if target.ends_with(ending) {
                    errors.push(field::invalid(&path_path, target, format!("cannot end with '{ending}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                errors.push(field::invalid(&path_path, target, "must be an absolute path"));
            }
        }
        other => errors.push(field::not_supported(&at.child("pathType"), other, &KINDS)),
    }
    backend(errors, &path.backend, &at.child("backend"));
}

fn backend(errors: &mut ErrorList, backend: &IngressBackend, path: &Path) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => {
            errors.push(field::invalid(path, "", "cannot set both resource and service backends"));
        }
        (None, None) => errors.push(field::invalid(path, "", "resource or service backend is required")),
        (Some(service), None) => {
            let path = path.child("service");
            if service.name.is_empty() {
                errors.push(field::required(&path.child("name"), ""));
            } else {
                dns_label(errors, &path.child("name"), &service.name);
            }
            let port = service.port.clone().unwrap_or_default();
            let (name, number) = (text(&port.name), port.number.unwrap_or(0));
            match (name.is_empty(), number) {
                (false, 0) => {
                    push_invalid(errors, &path.child("port").child("name"), name, is_port_name(name));
                }
                (false, _) => {
                    errors.push(field::invalid(&path, "", "cannot set both port name & port number"))
                }
                (true, 0) => errors.push(field::required(&path, "port name or number is required")),
                (true, number) => port_number(errors, &path.child("port").child("number"), number),
            }
        }
        (None, Some(resource)) => {
            let path = path.child("resource");
            if let Some(group) = &resource.api_group {
                dns_subdomain(errors, &path.child("apiGroup"), group);
            }
            for (member, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                let path = path.child(member);
                if value.is_empty() {
                    errors.push(field::required(&path, format!("{member} is required")));
                } else {
                    push_invalid(errors, &path, value, is_path_segment(value));
                }
            }
        }
    }
}

fn warnings(ingress: &Ingress) -> Vec<String> {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let annotated =
        ingress.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(CLASS));
    let named = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
    let message =
        || format!("annotation \"{CLASS}\" is deprecated, please use 'spec.ingressClassName' instead");
    (annotated && !named).then(message).into_iter().collect()
}

/// The first three hosts. As upstream, how many more there are is counted by rules, whether these have a host or not.
fn shown_hosts(rules: &[IngressRule]) -> String {
    let mut hosts = Vec::new();
    for rule in rules {
        if hosts.len() == 3 {
            return format!("{} + {} more...", hosts.join(","), rules.len() - 3);
        }
        hosts.extend(rule.host.as_deref().filter(|host| !host.is_empty()));
    }
    if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") }
}

fn cells(ingress: &Ingress, now: Timestamp) -> Vec<Value> {
    let empty = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&empty);
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.map_or(&[][..], |balancer| items(&balancer.ingress));
    let address = load_balancer_addresses(points.iter().map(|one| (one.ip.clone(), one.hostname.clone())));
    vec![
        row::name(&ingress.metadata),
        row::or_none(text(&spec.ingress_class_name)),
        shown_hosts(items(&spec.rules)).into(),
        address.into(),
        if items(&spec.tls).is_empty() { "80" } else { "80, 443" }.into(),
        row::age(&ingress.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks() {
        let path = |path: &str, kind: &str| {
            json!({"rules": [{"http": {"paths": [{"path": path, "pathType": kind,
                "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]})
        };
        for (spec, errors) in [
            (path("/", "Prefix"), 0),
            (path("x", "Exact"), 1),
            (path("/", "exact"), 1),
            (path("/a//b", "Prefix"), 1),
            (path("", "ImplementationSpecific"), 0),
            (json!({}), 1),
            (json!({"defaultBackend": {}}), 1),
            (json!({"defaultBackend": {"service": {"name": "s"}}}), 1),
        ] {
            let ingress: Ingress = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(validate(&ingress, false).len(), errors, "{spec}");
        }
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn ingress(spec: Value, status: Value) -> Ingress {
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn resources_may_be_behind_it() {
        let of = |resource: Value| {
            let backend = json!({"defaultBackend": {"resource": resource}});
            texts(validate(&ingress(backend, Value::Null), false))
        };
        assert_eq!(of(json!({"apiGroup": "k8s.example.org", "kind": "Bucket", "name": "b"})), [""; 0]);
        let wrong = of(json!({"apiGroup": "k8s.Example", "kind": "", "name": "a/b"}));
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].starts_with("spec.defaultBackend.resource.apiGroup: Invalid value"), "{wrong:?}");
        assert_eq!(wrong[1], "spec.defaultBackend.resource.kind: Required value: kind is required");
        let name = r#"spec.defaultBackend.resource.name: Invalid value: "a/b": may not contain '/'"#;
        assert_eq!(wrong[2], name);
    }

    #[test]
    fn a_wrong_secret_name_may_stay() {
        let with = |secret: &str| {
            let spec = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}, "tls": [{"secretName": secret}]});
            ingress(spec, Value::Null)
        };
        let (good, bad) = (with("good"), with("Not A Name"));
        assert_eq!(validate_create(&bad).len(), 1);
        assert_eq!(validate_update(&bad, &good).len(), 1);
        assert_eq!(validate_update(&bad, &bad), []);
        assert_eq!(validate_update(&good, &bad), []);
    }

    #[test]
    fn addresses_of_the_balancer_are_checked() {
        let of = |points: Value| {
            let status = json!({"loadBalancer": {"ingress": points}});
            let new = ingress(json!({}), status);
            texts(validate_status_update(&new, &new))
        };
        assert_eq!(of(json!([{"ip": "10.0.0.1"}, {"hostname": "lb.example.org"}])), [""; 0]);
        let wrong = of(json!([{"ip": "x"}, {"hostname": "10.0.0.1"}]));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("status.loadBalancer.ingress[0].ip: Invalid value"), "{wrong:?}");
        let name = r#"status.loadBalancer.ingress[1].hostname: Invalid value: "10.0.0.1": must be a DNS name, not an IP address"#;
        assert_eq!(wrong[1], name);
    }
}
