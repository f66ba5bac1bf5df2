//! Service: one address and name for a set of pods.
//! Not here: the allocation of addresses and node ports (the API server).
//! Upstream: pkg/registry/core/service, pkg/apis/core.

mod addresses;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Subresource, Subresources, Typed, Verbs};
use crate::kinds::check::{
    cidr, dns_label, dns_subdomain, ip, json as value_of, one_of, port, port_number, qualified_name,
};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta::IntOrString;
use crate::meta_validation::labels_errors;
use crate::names::{NameRule, is_dns1123_subdomain};
use crate::types::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};

pub(crate) use addresses::special as special_address;

const AFFINITY_SECONDS: i32 = 10_800;
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        subresources: Subresources {
            status: true,
            other: vec![Subresource::new("proxy", "", "v1", "ServiceProxyOptions", Verbs::PROXY)],
            ..Subresources::default()
        },
        selectable_fields: vec![
            SelectableField::new("spec.clusterIP", "/spec/clusterIP"),
            SelectableField::new("spec.type", "/spec/type"),
        ],
        name_rule: NameRule::DnsLabel,
        columns: vec![
            Column::object_name(),
            Column::new("Type", "string", "How the service is exposed."),
            Column::new("Cluster-IP", "string", "The address of the service inside the cluster."),
            Column::new("External-IP", "string", "The addresses of the service outside the cluster."),
            Column::new("Port(s)", "string", "The ports of the service."),
            Column::age(),
            Column::wide("Selector", "string", "Which pods serve it."),
        ],
        hooks: Arc::new(
            Typed::<Service>::new()
                .status(|| Some(json!({"loadBalancer": {}})))
                .default_with(default)
                .prepare_for_create(addresses::normalize_new)
                .prepare_for_update(prepare_for_update)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        create_on_update: true,
        ..Descriptor::new("", "v1", "Service", "services", Scope::Namespaced)
    }
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(items(&spec.cluster_ips), [only] if only == "None")
}

fn is_external(spec: &ServiceSpec) -> bool {
    matches!(text(&spec.type_), "LoadBalancer" | "NodePort")
        || (text(&spec.type_) == "ClusterIP" && !items(&spec.external_ips).is_empty())
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

fn default(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    default_text(&mut spec.session_affinity, "None");
    if text(&spec.session_affinity) == "None" {
        spec.session_affinity_config = None;
    }
    if text(&spec.session_affinity) == "ClientIP" {
        let has_timeout = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
            .is_some();
        if !has_timeout {
            spec.session_affinity_config = Some(SessionAffinityConfig {
                client_ip: Some(ClientIPConfig { timeout_seconds: Some(AFFINITY_SECONDS) }),
            });
        }
    }
    default_text(&mut spec.type_, "ClusterIP");
    for port in items_mut(&mut spec.ports) {
        default_text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if is_external(spec) {
        default_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if matches!(text(&spec.type_), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    let balanced = text(&spec.type_) == "LoadBalancer";
    if balanced {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    let status = service.status.get_or_insert_default().load_balancer.get_or_insert_default();
    for ingress in
        items_mut(&mut status.ingress).iter_mut().filter(|ingress| balanced && ingress.ip.is_some())
    {
        ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
    }
}

fn prepare_for_update(new: &mut Service, old: &Service) {
    if let (Some(spec), Some(old)) = (&mut new.spec, &old.spec) {
        addresses::normalize(spec, Some(old));
        addresses::keep_allocated(spec, old);
        addresses::drop_type_dependent(spec, old);
    }
}

fn validate(service: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let ports = items(&spec.ports);
    let kind = text(&spec.type_);
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(field::required(&path.child("ports"), ""));
    }
    by_type(&mut errors, spec, &path);
    self::ports(&mut errors, spec, &path.child("ports"));
    if let Some(selector) = &spec.selector {
        errors.extend(labels_errors(selector, &path.child("selector")));
    }
    affinity(&mut errors, spec, &path);
    addresses::validate(&mut errors, spec, &path);
    for (index, address) in items(&spec.external_ips).iter().enumerate() {
        let path = path.child("externalIPs").index(index);
        let before = errors.len();
        ip(&mut errors, &path, address);
        if errors.len() == before {
            special_address(&mut errors, address, &path);
        }
    }
    one_of(
        &mut errors,
        &path.child("type"),
        kind,
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    node_ports(&mut errors, spec, &path.child("ports"));
    source_ranges(&mut errors, service, spec, &path);
    if spec.allocate_load_balancer_node_ports.is_some() && kind != "LoadBalancer" {
        let path = path.child("allocateLoadBalancerNodePorts");
        errors.push(field::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = path.child("loadBalancerClass");
        if kind != "LoadBalancer" {
            errors.push(field::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
        }
        qualified_name(&mut errors, &path, class);
    }
    traffic(&mut errors, spec, &path);
    errors
}

/// Where kubelets listen. Clouds that open a port of a balancer on the nodes would open this one.
const KUBELET_PORT: i32 = 10250;

fn by_type(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let kind = text(&spec.type_);
    for (index, port) in items(&spec.ports).iter().enumerate() {
        if kind == "LoadBalancer" && port.port == KUBELET_PORT {
            let message =
                format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
            errors.push(field::invalid(&path.child("ports").index(index), port.port, message));
        }
    }
    match kind {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            let path = path.child("clusterIPs").index(0);
            errors.push(field::invalid(
                &path,
                "None",
                format!("may not be set to 'None' for {kind} services"),
            ));
        }
        "ExternalName" => {
            const UNFIT: &str = "may not be set for ExternalName services";
            for (name, set) in [
                ("clusterIPs", !items(&spec.cluster_ips).is_empty()),
                ("ipFamilies", !items(&spec.ip_families).is_empty()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if set {
                    errors.push(field::forbidden(&path.child(name), UNFIT));
                }
            }
            let name = text(&spec.external_name);
            let name = name.strip_suffix('.').unwrap_or(name);
            let path = path.child("externalName");
            if name.is_empty() {
                errors.push(field::required(&path, ""));
            } else {
                dns_subdomain(errors, &path, name);
            }
        }
        _ => {}
    }
}

fn ports(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let ports = items(&spec.ports);
    let mut names = BTreeSet::new();
    for (index, ServicePort { name, protocol, port: number, target_port, app_protocol, .. }) in
        ports.iter().enumerate()
    {
        let path = path.index(index);
        let name = text(name);
        if name.is_empty() && ports.len() > 1 {
            errors.push(field::required(&path.child("name"), ""));
        } else if !name.is_empty() {
            dns_label(errors, &path.child("name"), name);
            if !names.insert(name) {
                errors.push(field::duplicate(&path.child("name"), name));
            }
        }
        port_number(errors, &path.child("port"), *number);
        one_of(errors, &path.child("protocol"), text(protocol), &["SCTP", "TCP", "UDP"]);
        port(errors, &path.child("targetPort"), target_port.as_ref().unwrap_or(&IntOrString::Int(0)));
        if let Some(protocol) = app_protocol {
            qualified_name(errors, &path.child("appProtocol"), protocol);
        }
    }
}

fn node_ports(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    let listed = items(&spec.ports);
    for (index, port) in listed.iter().enumerate() {
        let Some(number) = port.node_port.filter(|&number| number != 0) else { continue };
        let path = path.index(index).child("nodePort");
        if text(&spec.type_) == "ClusterIP" {
            errors.push(field::forbidden(&path, "may not be used when `type` is 'ClusterIP'"));
        }
        if !node_ports.insert((text(&port.protocol), number)) {
            errors.push(field::duplicate(&path, number));
        }
    }
    for (index, port) in listed.iter().enumerate() {
        if !ports.insert((text(&port.protocol), port.port)) {
            let value = json!({"protocol": text(&port.protocol), "port": port.port, "targetPort": 0});
            errors.push(field::duplicate(&path.index(index), value));
        }
    }
}

fn affinity(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    one_of(errors, &path.child("sessionAffinity"), text(&spec.session_affinity), &["ClientIP", "None"]);
    let config_path = path.child("sessionAffinityConfig");
    match (text(&spec.session_affinity), &spec.session_affinity_config) {
        ("ClientIP", config) => {
            const WHEN: &str = "when session affinity type is ClientIP";
            let client = config.as_ref().map(|config| config.client_ip.as_ref());
            let timeout_path = config_path.child("clientIP").child("timeoutSeconds");
            match client.map(|client| client.map(|client| client.timeout_seconds)) {
                None => errors.push(field::required(&config_path, WHEN)),
                Some(None) => errors.push(field::required(&config_path.child("clientIP"), WHEN)),
                Some(Some(None)) => errors.push(field::required(&timeout_path, WHEN)),
                Some(Some(Some(seconds))) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                    let message = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.push(field::invalid(&timeout_path, seconds, message));
                }
                Some(Some(Some(_))) => {}
            }
        }
        ("None", Some(_)) => {
            errors.push(field::forbidden(&config_path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn source_ranges(errors: &mut ErrorList, service: &Service, spec: &ServiceSpec, path: &Path) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = text(&spec.type_) == "LoadBalancer";
    let ranges = items(&spec.load_balancer_source_ranges);
    let annotation =
        service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SOURCE_RANGES));
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(field::forbidden(&path, ONLY));
        }
        for (index, range) in ranges.iter().enumerate() {
            cidr(errors, &path.index(index), range.trim());
        }
    } else if let Some(annotation) = annotation {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !balanced {
            errors.push(field::forbidden(&path, ONLY));
        }
        for range in annotation.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            cidr(errors, &path, range);
        }
    }
}

fn traffic(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    let external = text(&spec.external_traffic_policy);
    let external_path = path.child("externalTrafficPolicy");
    if is_external(spec) {
        one_of(errors, &external_path, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        let message = "may only be set for externally-accessible services";
        errors.push(field::invalid(&external_path, external, message));
    }
    let health_path = path.child("healthCheckNodePort");
    let health = spec.health_check_node_port.unwrap_or(0);
    if health != 0 && !needs_health_check(spec) {
        let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(field::invalid(&health_path, health, message));
    } else if health != 0 {
        port_number(errors, &health_path, health);
    }
    let internal_path = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if text(&spec.type_) != "ExternalName" => errors.push(field::required(&internal_path, "")),
        None => {}
        Some(policy) => one_of(errors, &internal_path, policy, &["Cluster", "Local"]),
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        if !supported.contains(&&**distribution) {
            let path = path.child("trafficDistribution");
            errors.push(field::not_supported(&path, &**distribution, &supported));
        }
    }
}

fn validate_update(new: &Service, old: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        addresses::validate_update(&mut errors, new, old, &path);
        let both_balanced = text(&new.type_) == "LoadBalancer" && text(&old.type_) == "LoadBalancer";
        if both_balanced && new.load_balancer_class != old.load_balancer_class {
            let path = path.child("loadBalancerClass");
            errors.push(field::invalid(&path, value_of(&new.load_balancer_class), "may not change once set"));
        }
        if needs_health_check(new)
            && needs_health_check(old)
            && new.health_check_node_port != old.health_check_node_port
        {
            errors.push(field::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
        }
    }
    errors.extend(validate(new));
    errors
}

fn validate_status_update(new: &Service, _: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(status) = new.status.as_ref().and_then(|status| status.load_balancer.as_ref()) else {
        return errors;
    };
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let kind = new.spec.as_ref().map_or("", |spec| text(&spec.type_));
    if kind != "LoadBalancer" && !items(&status.ingress).is_empty() {
        errors.push(field::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    load_balancer_ingress(&mut errors, status, &path);
    errors
}

fn load_balancer_ingress(errors: &mut ErrorList, status: &LoadBalancerStatus, path: &Path) {
    for (index, ingress) in items(&status.ingress).iter().enumerate() {
        let path = path.index(index);
        let address = text(&ingress.ip);
        if !address.is_empty() {
            ip(errors, &path.child("ip"), address);
        }
        match &ingress.ip_mode {
            None if !address.is_empty() => {
                errors.push(field::required(&path.child("ipMode"), "must be specified when `ip` is set"));
            }
            Some(_) if address.is_empty() => {
                errors.push(field::forbidden(
                    &path.child("ipMode"),
                    "may not be specified when `ip` is not set",
                ));
            }
            Some(mode) => one_of(errors, &path.child("ipMode"), mode, &["Proxy", "VIP"]),
            None => {}
        }
        let hostname = text(&ingress.hostname);
        if !hostname.is_empty() {
            let path = path.child("hostname");
            for message in is_dns1123_subdomain(hostname) {
                errors.push(field::invalid(&path, hostname, message));
            }
            if hostname.parse::<std::net::IpAddr>().is_ok() {
                errors.push(field::invalid(&path, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
}

/// The addresses a load balancer gave, sorted.
pub(crate) fn load_balancer_addresses(
    pairs: impl Iterator<Item = (Option<String>, Option<String>)>,
) -> String {
    let mut addresses: Vec<String> = pairs.filter_map(|(ip, hostname)| ip.or(hostname)).collect();
    addresses.sort();
    addresses.dedup();
    addresses.join(",")
}

fn external_address(service: &Service, spec: &ServiceSpec) -> String {
    let external = items(&spec.external_ips).join(",");
    match text(&spec.type_) {
        "ClusterIP" | "NodePort" if external.is_empty() => row::NONE.to_owned(),
        "ClusterIP" | "NodePort" => external,
        "LoadBalancer" => {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = status.map_or(&[][..], |status| items(&status.ingress));
            let balanced =
                load_balancer_addresses(ingress.iter().map(|one| (one.ip.clone(), one.hostname.clone())));
            match (balanced.is_empty(), external.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (false, true) => balanced,
                (true, false) => external,
                (false, false) => format!("{balanced},{external}"),
            }
        }
        "ExternalName" => text(&spec.external_name).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn warnings(service: &Service, _: Option<&Value>) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let mut warnings = Vec::new();
    if service.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(HINTS)) {
        let mode = "service.kubernetes.io/topology-mode";
        warnings.push(format!("annotation {HINTS} is deprecated, please use {mode} instead"));
    }
    let Some(spec) = &service.spec else { return warnings };
    let path = Path::new("spec");
    let headless = text(&spec.cluster_ip) == "None";
    if !headless {
        for (index, address) in items(&spec.cluster_ips).iter().enumerate() {
            warn::ip(&mut warnings, &path.child("clusterIPs").index(index), address);
        }
    }
    let external = items(&spec.external_ips);
    for (ignored, name) in [
        (!text(&spec.load_balancer_ip).is_empty(), "loadBalancerIP"),
        (!external.is_empty(), "externalIPs"),
        (text(&spec.session_affinity) == "ClientIP", "SessionAffinity"),
    ] {
        if headless && ignored {
            warnings.push(format!("spec.{name} is ignored for headless services"));
        }
    }
    if !external.is_empty() {
        warnings.push("spec.externalIPs is deprecated".to_owned());
    }
    for (index, address) in external.iter().enumerate() {
        warn::ip(&mut warnings, &path.child("externalIPs").index(index), address);
    }
    warn::ip(&mut warnings, &path.child("loadBalancerIP"), text(&spec.load_balancer_ip));
    for (index, range) in items(&spec.load_balancer_source_ranges).iter().enumerate() {
        warn::cidr(&mut warnings, &path.child("loadBalancerSourceRanges").index(index), range);
    }
    warnings
}

fn cells(service: &Service, now: Timestamp) -> Vec<Value> {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let ports: Vec<String> = items(&spec.ports)
        .iter()
        .map(|port| match port.node_port.filter(|&number| number > 0) {
            Some(node_port) => format!("{}:{node_port}/{}", port.port, text(&port.protocol)),
            None => format!("{}/{}", port.port, text(&port.protocol)),
        })
        .collect();
    vec![
        row::name(&service.metadata),
        text(&spec.type_).into(),
        row::or_none(items(&spec.cluster_ips).first().map_or("", |address| address)),
        external_address(service, spec).into(),
        row::or_none(&ports.join(",")),
        row::age(&service.metadata, now),
        row::labels(spec.selector.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Service {
        let mut service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        default(&mut service);
        addresses::normalize_new(&mut service);
        service
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn checks() {
        for (spec, errors) in [
            (json!({"ports": [{"port": 80}]}), &[][..]),
            (json!({"clusterIP": "None"}), &[]),
            (json!({"type": "ExternalName", "externalName": "a.b."}), &[]),
            (json!({}), &["spec.ports: Required value"]),
            (
                json!({"ports": [{"port": 0}]}),
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"ports": [{"port": 1}, {"port": 2}]}),
                &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
            ),
            (
                json!({"ports": [{"port": 1, "nodePort": 30000}]}),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]}),
                &[
                    r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#,
                ],
            ),
            (
                json!({"type": "x", "ports": [{"port": 1}]}),
                &[
                    r#"spec.type: Unsupported value: "x": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
                    "spec.internalTrafficPolicy: Required value",
                ],
            ),
        ] {
            assert_eq!(texts(validate(&service(spec.clone()))), errors, "{spec}");
        }
    }

    #[test]
    fn the_address_stays() {
        let old = service(json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}));
        let mut kept = service(json!({"ports": [{"port": 81}]}));
        prepare_for_update(&mut kept, &old);
        assert_eq!(kept.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(texts(validate_update(&kept, &old)), Vec::<String>::new());
        let moved = service(json!({"clusterIP": "10.0.0.2", "ports": [{"port": 80}]}));
        assert_eq!(
            texts(validate_update(&moved, &old)),
            [r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#]
        );
    }
}
